"""Several judges in one word: ``--judge a,b``, with an address, a name and a key for all or for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from dfilter.errors import SettingsError

FLAGS = {
    "base_url": "--base-url",
    "name": "--judge-name",
    "key_env": "--judge-key",
    "api_version": "api_version",
    "price": "--price",
}
EACH = ("name",)  # two judges of one name would be one judge


def words(text: str | Sequence[str] | None) -> list[str]:
    """Return the parts of a text between commas, or of a list."""
    parts = text.split(",") if isinstance(text, str) else text or ()
    return [str(part).strip() for part in parts if str(part).strip()]


def panel(models: Sequence[str], given: Mapping[str, str | Sequence[str] | None]) -> list[dict[str, str]]:
    """Return the settings of every judge.

    Args:
        models: who judges.
        given: by setting one value for all judges, or one each in their order.

    Raises:
        SettingsError: there are neither one nor as many values as judges.
    """
    made = [{"model": model} for model in models]
    findings = []
    for name, text in given.items():
        values = words(text)
        if len(values) == 1 and name not in EACH:
            values *= len(models)
        if values and len(values) != len(models):
            number = f"{len(values)} value{'s' * (len(values) != 1)} for {len(models)} judges"
            findings.append(f"{FLAGS.get(name, name)} gives {number}; give one for each, with commas.")
        for entry, value in zip(made, values, strict=False):
            entry[name] = value
    if findings:
        raise SettingsError(*findings)
    return made


def local_mode(models: Sequence[str]) -> str:
    """Return the mode that judges need where all of them run in this process, or nothing."""
    return "expected" if models and all(model.startswith("local:") for model in models) else ""
