"""A part of the plugin that cannot be imported here; it must harm nothing else."""

import a_package_that_nobody_has  # noqa: F401
