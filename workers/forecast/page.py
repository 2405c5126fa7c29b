"""The page of a plan: what is predicted and how, and once there is a run, what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from syllabary.workers.forecast.actual import TAKEN_FROM
from syllabary.workers.forecast.formulas import FORMULAS, Prediction, archive_bytes_per_s, clip_s
from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.recipes.recipe import validate

_STAGES = {"shard_h": "shard", "pretrain_h": "pretrain", "codec_h": "train the codec", "tokenize_h": "tokenize",
           "restore_h": "restore all of it"}  # fmt: skip
_BYTES = {"shards_bytes": "shards", "archive_bytes": "archive", "checkpoints_bytes": "checkpoints"}


def page(values: Mapping[str, Any]) -> str:
    """Markdown of the content of plan.json."""
    corpus, machine = values["corpus"], values["machine"]
    predicted = Prediction.model_validate(values["predicted"])
    lines = [
        f"# Plan: {corpus['name']}, recipe `{values['recipe']['name']}`", "",
        f"{corpus['hours']:,.1f} hours of audio on {machine['name']}: {machine['cores']:,} cores, "
        f"{machine['gpus']:,} GPUs.", "",
        *_table(("what", "hours", "formula"), [
            *((name, _hours(getattr(predicted, key)), FORMULAS[key]) for key, name in _STAGES.items()),
            ("all, one after the other", _hours(predicted.total_h), "sum"),
        ]),
        *_table(("what", "figure", "formula"), [
            ("core-hours", f"{predicted.core_hours:,.1f}", FORMULAS["core_hours"]),
            ("GPU-hours", f"{predicted.gpu_hours:,.1f}", FORMULAS["gpu_hours"]),
            ("cost", f"{predicted.cost:,.2f}", FORMULAS["cost"]),
            ("tokens", f"{predicted.tokens:,.0f}", FORMULAS["tokens"]),
            *((f"{name}, bytes", _bytes(getattr(predicted, key)), FORMULAS[key]) for key, name in _BYTES.items()),
        ]),
        "## From what", "",
        f"Rates are {values['rates_origin']}, in seconds of audio per second of one worker.", "",
        *_table(("value", "is"), _inputs(values)),
        *_actual(values, predicted),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def _inputs(values: Mapping[str, Any]) -> list[tuple[str, str]]:
    recipe = validate(values["recipe"])
    corpus, machine, rates = values["corpus"], values["machine"], rates_of(recipe.model)
    trains = {"pretrain": recipe.pretrain, "codec": recipe.codec}
    return [
        *((f"rate_{name}", f"{rate:,.4g}{_of(values, name)}") for name, rate in values["rates"].items()),
        ("stored_fraction", f"{corpus['stored_fraction']:g}"),
        ("flac_bytes_per_s", f"{corpus['flac_bytes_per_s']:,.0f}"),
        ("archive bytes per second", f"{archive_bytes_per_s(recipe):.1f} at most"),
        ("tokens_per_s", f"{rates.tokens_per_s:g}"),
        *(
            (f"{name}: steps x global_batch x clip_s",
             f"{t.num_steps:,} x {t.num_workers * t.micro_batch_size * t.grad_accum_steps} x {clip_s(recipe, t):g} s")
            for name, t in trains.items()
        ),
        ("parameters", ", ".join(f"{name} {count:,}" for name, count in values["parameters"].items())),
        ("efficiency of training on all workers", f"{machine['efficiency']:g}, supposed"),
        ("price_core_hour, price_gpu_hour", f"{machine['price_core_hour']:g}, {machine['price_gpu_hour']:g}"),
    ]  # fmt: skip


def _of(values: Mapping[str, Any], rate: str) -> str:
    """What a probed rate is a rate of; nothing of a stated one."""
    what = values.get("probed", {}).get(rate)
    return f": {what}" if what else ""


def _actual(values: Mapping[str, Any], prediction: Prediction) -> list[str]:
    if "actual" not in values:
        return []
    predicted = prediction.model_dump() | {"hours": values["corpus"]["hours"]}
    if values.get("restored_fraction") is not None:
        predicted["restore_h"] *= values["restored_fraction"]
    rows = [
        (name, _figure(name, predicted[name]), _figure(name, value), f"{value / predicted[name]:.2f}", TAKEN_FROM[name])
        for name, value in values["actual"].items()
    ]
    return [
        "## Predicted and actual", "", *_table(("what", "predicted", "actual", "ratio", "from"), rows),
        *_notes(values),
    ]  # fmt: skip


def _notes(values: Mapping[str, Any]) -> list[str]:
    """What the figures of a run do not say by themselves."""
    missing = [stage for stage in ("shard", "tokenize", "restore") if f"{stage}_h" not in values["actual"]]
    notes = [
        f"The run restored {100 * values['restored_fraction']:.2g} % of the audio, in one process."
        if "restore_h" in values["actual"] else "",
        f"No hours of {', '.join(missing)}: not complete, or run before stages were timed." if missing else "",
        *(f"{count} attempts at {stage} were killed; their time is in no figure."
          for stage, count in values.get("killed_attempts", {}).items()),
    ]  # fmt: skip
    return [line for note in notes if note for line in (note, "")]


def _figure(name: str, value: float) -> str:
    return (
        _bytes(value)
        if name.endswith("_bytes")
        else _hours(value)
        if name == "hours" or name.endswith("_h")
        else f"{value:,.0f}"
    )


def _hours(value: float) -> str:
    return f"{value:,.1f}" if value >= 10 else f"{value:.3g}"


def _bytes(value: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if value >= size:
            return f"{value / size:,.2f} {unit}"
    return f"{value:,.0f}"


def _table(header: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = [header, tuple("---" for _ in header), *rows]
    return [*("| " + " | ".join(line) + " |" for line in lines), ""]
