"""ESTOI of a tokenizer on some held-out utterances: a figure of whether words can be understood."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from typing import Any

from syllabary.shards import audio, dataset
from syllabary.shards.errors import InputError
from syllabary.workers.evaluation.scoring import FAMILIES, RATE, Original, Unscored, checked, estoi, require_package
from syllabary.workers.training.data.epoch_order import epoch_order

NUM_UTTERANCES, MAX_S = 24, 15.0


def held_out_estoi(shards: str, tokenizer: str) -> tuple[float | None, str]:
    """Measure the mean over at most ``NUM_UTTERANCES`` of the valid split, and word it; None, and why, if not measured.

    Utterances longer than ``MAX_S`` are left out: the time this takes must not depend on the corpus.
    """
    try:
        require_package(FAMILIES["estoi"].package, "ESTOI")
    except InputError as error:
        return None, f"ESTOI not measured: {error}"
    chosen = _utterances(shards)
    values = [value for value in _scores(shards, tokenizer, chosen) if value is not None]
    if not values:
        return None, f"ESTOI not measured: none of {len(chosen)} held-out utterances of at most {MAX_S:g} s has a value"
    speakers = len({row["speaker"] for row in chosen})
    mean = statistics.fmean(values)
    shown = f"{round(mean, 2) + 0.0:.2f}"  # no negative zero
    whose = f"{speakers} speaker{'' if speakers == 1 else 's'}"
    return mean, f"ESTOI {shown} over {len(values)} held-out utterances of {whose} (1 is the original)"


def _utterances(shards: str) -> list[dict[str, Any]]:
    rows = dataset.read_index(shards, splits=["valid"]).to_pylist()
    short = [row for row in rows if row["num_samples"] <= MAX_S * row["sample_rate"]]
    return [short[int(place)] for place in epoch_order(0, 0, len(short))[:NUM_UTTERANCES]]


def _scores(shards: str, uri: str, rows: list[dict[str, Any]]) -> list[float | None]:
    from syllabary.workers.tokenizer.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(uri)
    return [_score(tokenizer, shards, row) for row in rows]


def _score(tokenizer: Any, shards: str, row: Mapping[str, Any]) -> float | None:
    """ESTOI of one utterance; None where it has none (silence, or less than 30 frames of speech)."""
    samples, rate = audio.decode(dataset.read_utterance(shards, row))
    decoded = tokenizer.decode(tokenizer.encode(samples, rate).tokens, len(samples), rate)
    original = Original(audio.resample(samples, rate, RATE))
    try:
        return estoi(original, checked(original, audio.resample(decoded, rate, RATE)))["estoi"].value
    except Unscored:
        return None
