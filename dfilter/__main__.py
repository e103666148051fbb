"""``python -m dfilter`` is the command ``dfilter``, where scripts are not on the path."""

from dfilter.cli import main

if __name__ == "__main__":
    main()
