"""Public benchmarks, by lm-evaluation-harness; every question's result is kept.

The harness decides prompts, few-shot examples and metrics; this adapter hands it the model and takes
the results apart. Its own standard errors are not used, for they know of no training noise.
"""

from __future__ import annotations

import contextlib
import glob
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np

from dfilter import registry
from dfilter.digests import path_sha256
from dfilter.errors import InputError, MissingPackageError, SettingsError
from dfilter.identity import ANYHOW, SHORT, settings_identity, shown
from dfilter.models import fast_dtype, load_causal, lossless_dtype
from dfilter.turns import with_constant_date
from dfilter.types import EvalResult, Json

YAML = (".yaml", ".yml")
_WORDS = re.compile(r"[^\s\"'\[\]{},]+")
_BLANKS = (re.compile(r"[\"'](.+?)[\"']"), re.compile(r":\s*(.+?)\s*$"))  # names that may hold blanks
_FUNCTIONS = re.compile(r"!function\s+([\w.]+)\.\w+")
_FOLDERS = re.compile(
    r"\b(?:dataset_path|data_dir|data_files)\s*:\s*[\"']?([^\"'{}\[\],\n]+?)[\"']?\s*(?=[,}\n]|\Z)"
)
METRICS = (
    "acc_norm",
    "acc",
    "exact_match",
    "prompt_level_strict_acc",
    "f1",
    "em",
)  # the first one a task has


@dataclass(frozen=True)
class LMEval:
    """One task or group of lm-evaluation-harness (mmlu, bbh, tydiqa, gsm8k, ifeval, ...).

    Attributes:
        source: the task's name, or a YAML file of one's own in the harness's form; with
            ``dataset_path: json`` and ``dataset_kwargs: {data_files: ...}`` in it, nothing is fetched.
        metric: which of the task's metrics; the first known one unless given. Where a task filters
            answers in several ways, "exact_match,strict-match" names one.
        num_fewshot: examples before each question; the task's own number unless given.
        limit: questions per task, for a quick look; all unless given.
        batch_size: questions at once.
        chat: show the questions in the model's chat template.
    """

    source: str
    metric: str = ""
    num_fewshot: int | None = None
    limit: int | None = None
    batch_size: Annotated[int, ANYHOW] = 8
    chat: bool = False

    version: ClassVar[int] = 2

    def identify(self) -> Mapping[str, Json]:
        """Return the settings, the harness's release, and what a YAML file and the files it names say."""
        files = named_files(Path(self.source)) if self.source.endswith(YAML) else ()
        found = [{"content": path_sha256(file)[:SHORT], "named": str(file)} for file in files]
        release = _version() if find_spec("lm_eval") else "absent"
        told: dict[str, Json] = {"harness": release, "dtype": fast_dtype()}
        if found:
            told["source"] = found
        if self.chat:
            told["chat"] = shown("the model's template")
        return settings_identity(self) | told

    def check(self) -> None:
        """Make sure that the harness is there, and a task's own file.

        Raises:
            InputError: there is no such file.
            MissingPackageError: lm-evaluation-harness is not installed.
        """
        if self.source.endswith(YAML) and not Path(self.source).is_file():
            raise InputError(f"There is no file {self.source}.")
        if find_spec("lm_eval") is None:
            raise MissingPackageError(
                "lm-evaluation-harness is not installed; get it with: pip install 'dfilter[lm-eval]'"
            )

    def evaluate(self, model: Path, *, seed: int = 0) -> EvalResult:  # noqa: ARG002 - few-shot examples are fixed
        """Return the metric of every question.

        Raises:
            MissingPackageError: lm-evaluation-harness is not installed.
            SettingsError: it has no such task, or the task has no such metric.
            InputError: the task's data cannot be read, or gave no question.
        """
        samples = self._samples(model)
        metric = self._metric(samples)
        ids: list[str] = []
        values: list[float] = []
        sets: list[str] = []
        for task, logged in sorted(samples.items()):
            for item in sorted(logged, key=lambda found: int(found["doc_id"])):
                if _filter_of(metric) in {"", item.get("filter", "")}:
                    ids.append(f"{task}/{item['doc_id']}")
                    values.append(_number(item.get(metric.partition(",")[0])))
                    sets.append(task)
        if not values:
            raise InputError(f"The task '{self.source}' gave no question with the metric '{metric}'.")
        table = np.array(values, dtype=np.float64)
        facts: dict[str, Any] = {"harness": _version()}
        if len(set(sets)) > 1:
            facts["sets"] = sets
        known = table[np.isfinite(table)]
        if known.size and known.min() >= 0 and known.max() <= 1:
            facts["bounds"] = [0, 1]
        return EvalResult(
            tuple(ids), table, f"{Path(self.source).stem} {metric}", higher_is_better=True, facts=facts
        )

    def _samples(self, model: Path) -> Mapping[str, list[dict[str, Any]]]:
        if self.source.endswith(YAML) and not Path(self.source).is_file():
            raise InputError(f"There is no file {self.source}.")
        if Path(self.source).is_file():
            registry.refuse_code([self.source])  # the harness runs what a task's YAML names
        try:
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM
        except ImportError as error:
            raise MissingPackageError(
                "lm-evaluation-harness is not installed; get it with: pip install 'dfilter[lm-eval]'"
            ) from error
        network, tokenizer = load_causal(model, dtype=lossless_dtype(model))
        if self.chat and tokenizer.chat_template:  # the harness renders by itself, on whatever day
            tokenizer.chat_template = with_constant_date(tokenizer.get_chat_template())
        try:
            results = simple_evaluate(
                model=HFLM(pretrained=network, tokenizer=tokenizer, batch_size=self.batch_size),
                tasks=[self.source],
                num_fewshot=self.num_fewshot,
                limit=self.limit,
                apply_chat_template=self.chat,
                bootstrap_iters=0,
                log_samples=True,
            )
        except (KeyError, ValueError) as error:  # an unknown name, or a file that describes no task
            raise SettingsError(
                f"lm-evaluation-harness refused the task: {error.args[0]}. `lm-eval ls tasks` lists its own."
            ) from error
        except OSError as error:  # datasets' and the hub's errors are of this kind
            raise InputError(f"The data of the task '{self.source}' cannot be read: {error}.") from error
        samples: Mapping[str, list[dict[str, Any]]] = (results or {}).get("samples", {})
        return samples

    def _metric(self, samples: Mapping[str, list[dict[str, Any]]]) -> str:
        first = next((logged[0] for logged in samples.values() if logged), {})
        if self.metric:
            if self.metric.partition(",")[0] not in first:
                known = ", ".join(sorted(name for name in METRICS if name in first))
                raise SettingsError(
                    f"The task '{self.source}' has no metric '{self.metric}'; it has {known or 'others'}."
                )
            return self.metric
        found = next((name for name in METRICS if name in first), "")
        if not found:
            raise SettingsError(
                f"Name a metric of the task '{self.source}': none of {', '.join(METRICS)} is there."
            )
        given = str(first.get("filter", "none"))
        return found if given == "none" else f"{found},{given}"


def named_files(file: Path, known: frozenset[Path] = frozenset()) -> list[Path]:
    """Return a task's file and every file that it names: data (or its folder), included tasks, functions.

    Names are looked for beside the file and in the working folder. That a text is meant as a name is not
    known, only that a file answers to it. What a function reads by itself is not known either.
    """
    if not file.is_file() or file.resolve() in known:
        return []
    found = [file]
    text = file.read_text(encoding="utf-8", errors="replace")
    lines = [line.partition(" #")[0] for line in text.splitlines()]
    words = {name for line in lines for form in (_WORDS, *_BLANKS) for name in form.findall(line)}
    words |= {f"{module}.py" for module in _FUNCTIONS.findall(text)}
    for word in sorted(words):
        for folder in (file.parent, Path()):
            with contextlib.suppress(OSError, ValueError):  # no name of a file, or one too long
                named = str(folder / word)  # a pattern may be absolute
                for other in map(Path, _matches(named)):
                    if other.is_file() and other.suffix in YAML:
                        found += named_files(other, known | {file.resolve()})
                    elif other.is_file():
                        found.append(other)
    folders = [folder / name for name in _FOLDERS.findall(text) if name for folder in (file.parent, Path())]
    found += [folder for folder in folders if folder.is_dir()]
    return list(dict.fromkeys(found))


def _matches(name: str) -> list[str]:
    if not glob.has_magic(name):
        return [name]
    return sorted(glob.glob(name, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern


def _filter_of(metric: str) -> str:
    return metric.partition(",")[2]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, bool | int | float) else math.nan


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
