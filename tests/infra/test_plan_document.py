"""docs/plan-librilight.md says what ``syllabary plan`` says for its rates: each figure of its tables is computed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from syllabary.workers.forecast.forecast import PRESETS, sizes_of
from syllabary.workers.forecast.formulas import Machine, Prediction, StageRates, predict
from syllabary.workers.recipes.named import resolve

DOCUMENT = (Path(__file__).parent.parent.parent / "docs" / "plan-librilight.md").read_text()
SIZES = ("small", "medium", "large")
UNITS = {"M": 1e6, "G": 1e9, "MB": 1e6, "GB": 1e9}
MACHINES = {
    "2 cores (measured rates)": Machine(name="cores", cores=2),
    "8 GPUs, 64 cores (assumed)": Machine(
        name="GPUs", cores=64, gpus=8, efficiency=0.9, price_core_hour=0.05, price_gpu_hour=2
    ),
}


def rows(heading: str) -> Iterator[list[str]]:
    """The cells of a section's first table, without its header."""
    section = DOCUMENT.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    yield from ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:])


def number(text: str) -> float:
    """A figure as it is written: 1,234.5, with or without a unit; "-" is nothing."""
    found = re.match(r"([\d.,]+)(?: (\w+))?", text)
    return float(found[1].replace(",", "")) * UNITS.get(found[2] or "", 1) if found else 0.0


def rates(column: int) -> StageRates:
    return StageRates(**{row[0]: number(row[column]) for row in rows("The rates")})


def planned(size: str, machine: str) -> Prediction:
    recipe = resolve("paper")
    made = rates(1 if machine.startswith("2 cores") else 3)
    return predict(PRESETS[f"librilight-{size}"], MACHINES[machine], made, recipe, sizes_of(recipe))


def same(told: str, computed: float) -> bool:
    """Equal to the digits that are written."""
    digits = len(re.sub(r"\D", "", told).lstrip("0"))
    return number(told) == pytest.approx(computed, rel=0.6 * 10 ** (1 - digits) if digits > 1 else 0.1)


def test_what_comes_out() -> None:
    told = {row[0].removeprefix("LibriLight "): row[1:] for row in rows("What comes out")}
    assert tuple(told) == SIZES
    for size, (hours, tokens, shards, archive, checkpoints) in told.items():
        found = planned(size, "2 cores (measured rates)")
        assert number(hours) == PRESETS[f"librilight-{size}"].hours
        figures = (found.tokens, found.shards_bytes, found.archive_bytes, found.checkpoints_bytes)
        for text, computed in zip((tokens, shards, archive, checkpoints), figures, strict=True):
            assert same(text, computed), f"{size}: {text} is {computed:g}"


def test_how_long() -> None:
    told = list(rows("How long"))
    assert [(row[0], row[1]) for row in told] == [(size, machine) for machine in MACHINES for size in SIZES]
    for size, machine, *cells in told:
        found = planned(size, machine)
        figures = (found.shard_h, found.pretrain_h, found.codec_h, found.tokenize_h, found.restore_h, found.total_h,
                   found.core_hours, found.gpu_hours)  # fmt: skip
        for text, computed in zip(cells, figures, strict=True):
            assert same(text, computed), f"{size} on {machine}: {text} is {computed:g}"


def test_what_it_costs() -> None:
    (told,) = re.findall(r"the eight GPUs cost (\d+), (\d+) and (\d+)", DOCUMENT)
    for size, text in zip(SIZES, told, strict=True):
        assert round(planned(size, "8 GPUs, 64 cores (assumed)").cost) == int(text)
