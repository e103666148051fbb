"""What a data set's card says of its files: ``configs`` in the front matter of README.md.

    configs:
    - config_name: main            "default" unless said
      default: true                taken when nobody names one; so is one called default, and an only one
      data_dir: main               what the paths are relative to
      data_files:                  a path, several, or the paths of each split; all files unless said
      - {split: train, path: main/train-*}

A path may hold ``*`` and ``?`` within a folder's name and ``**`` across folders. Source: the hub's manual,
"Data files configuration", and ``datasets`` 5, data_files.py and utils/metadata.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dfilter.data.splits import TRAIN, by_split, one_of
from dfilter.errors import InputError, UnknownNameError

CARD = "README.md"
_FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", re.DOTALL | re.MULTILINE)
_WILD = re.compile(r"\*\*/|\*\*|\*|\?|\[[^\]]+\]")
_GLOBS = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}


@dataclass(frozen=True)
class Config:
    """One of a data set's parts, which may have other columns than the next.

    Attributes:
        name: what it is called.
        default: it is taken when nobody names one.
        folder: what its paths are relative to, "" for the data set's folder.
        paths: patterns of each split's files; none where their names tell the splits.
    """

    name: str
    default: bool
    folder: str
    paths: Mapping[str, Sequence[str]] | None

    def files(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return its files by split, out of all files of the data set."""
        before = f"{self.folder}/" if self.folder else ""
        if self.paths is None:
            return by_split([name for name in names if name.startswith(before)])
        found = {}
        for split, paths in self.paths.items():
            wanted = [_expression(before + path) for path in paths]
            files = [name for name in names if any(one.fullmatch(name) for one in wanted)]
            if files:
                found[split] = files
        return found


def card_of(folder: Path) -> tuple[list[Config], str]:
    """Return the configs that a folder's card names, and a sentence where it cannot be read."""
    import yaml

    try:
        front = _FRONT.match((folder / CARD).read_text(encoding="utf-8"))
        return (configs_in(yaml.safe_load(front[1])), "") if front else ([], "")
    except FileNotFoundError:
        return [], ""
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        return [], f"the front matter of {CARD} cannot be read ({reason}); the files' names tell the splits"


def configs_in(front: Any) -> list[Config]:
    """Return the configs of a front matter that was parsed; what has another form is passed over."""
    entries = front.get("configs") if isinstance(front, Mapping) else None
    listed = entries if isinstance(entries, list) else []
    configs = [_config(entry) for entry in listed if isinstance(entry, Mapping)]
    sole = len(configs) == 1
    return [Config(c.name, sole or c.default or c.name == "default", c.folder, c.paths) for c in configs]


def choose(
    source: str, names: Sequence[str], configs: Sequence[Config], config: str = "", split: str = ""
) -> tuple[list[str], str]:
    """Return the files of one split of one config, and a sentence about what is left; "" when nothing is.

    Args:
        source: what the data set is called in sentences.
        names: its files of rows, relative to its folder.
        configs: what its card says; without any, the files' names decide.
        config: the wanted one, "" for the default.
        split: the wanted one, "" for the training split.

    Raises:
        InputError: several could be meant, or what is wanted is not there.
    """
    if not configs:
        if config:
            raise InputError(f"The {CARD} of {source} names no configs; name files instead of --config.")
        return one_of(source, by_split(names), split)
    meant = _meant(source, configs, config)
    found = meant.files(names)
    if not found:
        paths = ", ".join(path for some in (meant.paths or {}).values() for path in some) or meant.folder
        raise InputError(f"The config '{meant.name}' of {source} names files that are not there ({paths}).")
    chosen, note = one_of(source, found, split)
    others = [one.name for one in configs if one is not meant]
    notes = [note] if note else []
    if others and not config:
        told = f"{source} holds the configs {', '.join([meant.name, *others])}; {meant.name} is read"
        notes.append(f"{told}. --config reads another.")
    named = {name for one in configs for files in one.files(names).values() for name in files}
    if rest := len(names) - len(named):
        notes.append(f"{rest:,} file{'s' * (rest != 1)} of rows that {CARD} does not name are not read.")
    return chosen, " ".join(notes)


def _meant(source: str, configs: Sequence[Config], name: str) -> Config:
    names = [config.name for config in configs]
    if name:
        if name not in names:
            raise InputError(f"{source}: {UnknownNameError('config', name, names)}")
        return configs[names.index(name)]
    chosen = next((config for config in configs if config.default), None)
    if chosen is None:
        raise InputError(
            f"{source} holds several configs: {', '.join(names)}. Choose one, for instance "
            f"--config {names[0]}."
        )
    return chosen


def _config(entry: Mapping[str, Any]) -> Config:
    files, folder = entry.get("data_files"), str(entry.get("data_dir") or "")
    name = str(entry.get("config_name") or "default")
    return Config(name, entry.get("default") is True, _plain(folder).rstrip("/"), _paths(files))


def _paths(files: Any) -> dict[str, list[str]] | None:
    if not files:
        return None
    if isinstance(files, Mapping):
        return {str(split): _listed(paths) for split, paths in files.items()}
    entries = files if isinstance(files, list) else [files]
    found: dict[str, list[str]] = {}
    for entry in entries:
        is_split = isinstance(entry, Mapping)
        split, paths = (entry.get("split"), entry.get("path")) if is_split else (TRAIN, entry)
        found.setdefault(str(split or TRAIN), []).extend(_listed(paths))
    return found


def _listed(paths: Any) -> list[str]:
    return [_plain(path) for path in (paths if isinstance(paths, list) else [paths]) if isinstance(path, str)]


def _plain(path: str) -> str:
    return path.removeprefix("./")


def _expression(pattern: str) -> re.Pattern[str]:
    """Return a glob as an expression; a star stays within one folder, two stars do not."""
    parts, at = [], 0
    for wild in _WILD.finditer(pattern):
        parts.append(re.escape(pattern[at : wild.start()]))
        parts.append(_GLOBS.get(wild[0]) or wild[0].replace("[!", "[^"))
        at = wild.end()
    return re.compile("".join([*parts, re.escape(pattern[at:])]))
