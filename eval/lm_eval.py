"""Public benchmarks, by lm-evaluation-harness; every question's result is kept.

The harness decides prompts, few-shot examples and metrics; this adapter hands it the model and takes
the results apart. Its own standard errors are not used, for they know of no training noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dfilter import registry
from dfilter.errors import InputError, MissingPackageError, SettingsError
from dfilter.models import fast_dtype, load_causal
from dfilter.types import EvalResult

if TYPE_CHECKING:
    from collections.abc import Mapping

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
    batch_size: int = 8
    chat: bool = False

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
        if self.source.endswith((".yaml", ".yml")) and not Path(self.source).is_file():
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
        network, tokenizer = load_causal(model, dtype=fast_dtype(), merge=True)
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


def _filter_of(metric: str) -> str:
    return metric.partition(",")[2]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, bool | int | float) else math.nan


def _version() -> str:
    from importlib.metadata import version

    return version("lm_eval")
