r"""Public test doubles for dfilter and its plugins.

from dfilter.testing import Say, ScriptedServer

with ScriptedServer(lambda request: "4.5\nAccurate.") as server:
...  # point --base-url at server.url; server.log and server.bill say what happened
"""

from __future__ import annotations

from dfilter.llm.scripted import FAULTS, Logged, Say, ScriptedServer

__all__ = ["FAULTS", "Logged", "Say", "ScriptedServer"]
