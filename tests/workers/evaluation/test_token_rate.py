"""What tokens cost: entropies of known sources, a code length that a coder reaches, bytes of a real part."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syllabary.shards import dataset
from syllabary.shards.archive.packing import Packing
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.workers.evaluation.closing import _notes
from syllabary.workers.evaluation.token_rate import (
    GivenPlace,
    archive_part,
    given_place,
    position_use,
    rate_card,
    token_column_bytes,
)
from syllabary.workers.recipes.bitrates import rates_of
from tests.helpers.archive_corpus import FORMAT, tiny_config, utterance_rows
from tests.helpers.report_card_example import write_example_report


def test_the_use_of_positions_counts_ids() -> None:
    packing = Packing(num_dims=5, levels=2, group_size=3)
    uses = position_use(np.array([[0, 3], [7, 3], [0, 3], [7, 3]], np.uint16), packing)
    assert [(u.num_ids, u.num_used, u.entropy_bits, u.perplexity) for u in uses] == [(8, 2, 1, 2), (4, 1, 0, 1)]


def test_the_card_adds_up() -> None:
    rows = pa.Table.from_pylist(utterance_rows("valid-000000", 0, 6), schema=dataset.INDEX_SCHEMA)
    pairs = zip(rows["num_samples"].to_pylist(), rows["sample_rate"].to_pylist(), strict=True)
    rng = np.random.default_rng(0)
    digits = [rng.integers(0, 4, (FORMAT.num_frames(*pair), 128)).astype(np.uint8) for pair in pairs]
    digits = [np.where(np.arange(128) < 5, 1, d) for d in digits]
    form: ArchiveFormat = FORMAT
    tokens = [form.packing.pack(d) for d in digits]
    part = archive_part(rows, tokens, [np.zeros(len(t), np.uint8) for t in tokens], form)
    read_back = pq.read_table(io.BytesIO(part))
    assert read_back["utterance_id"].to_pylist() == rows["utterance_id"].to_pylist()
    assert read_back["tokens"][0].as_py() == tokens[0].reshape(-1).tolist()
    card = rate_card(tokens, part, 10.0, form, rates_of(tiny_config()), 3.5, GivenPlace(64, 0.25, 9.5))
    assert (card.dead_dims, card.num_dims, card.num_frames) == (5, 128, sum(map(len, tokens)))
    assert card.stored == 8 * token_column_bytes(part) / 10 and 0 < card.stored < card.stored_all == 8 * len(part) / 10
    assert card.payload == 640 and card.as_uint16 == 760 and sum(card.level_share) == pytest.approx(1)
    assert card.digit_entropy_given_place == 64 * card.num_frames / 10 and card.between_clips == 0.25
    assert card.rank_given_place == 9.5
    assert card.digit_entropy <= card.num_frames * 123 * 2 / 10 and len(card.positions) == 19
    assert card.language_model is None, "none was given"


def _digits(num_clips: int) -> list[np.ndarray]:
    """32 dims that are free, 96 that follow the place."""
    rng, clock = np.random.default_rng(0), np.random.default_rng(9).integers(0, 4, (12, 128))
    free = [rng.integers(0, 4, (12, 128)) for _ in range(num_clips)]
    return [np.where(np.arange(128) < 32, clip, clock).astype(np.uint8) for clip in free]


def test_bits_given_the_place_are_those_of_the_dims_that_do_not_follow_it() -> None:
    found = given_place(_digits(40), _digits(40), 4)
    assert found.bits == pytest.approx(32 * 2, abs=1.5)
    assert found.between_clips == pytest.approx(32 / 128, abs=0.02)
    # A quarter of the variance, in 32 directions that 480 frames fill nearly alike.
    assert found.rank == pytest.approx(32 / 4, abs=0.3)
    assert given_place(_digits(3), _digits(3), 4) == (None, None, None)


@pytest.mark.parametrize(
    ("share", "told"),
    [
        (None, "Too few utterances to compare at one place, or no digit moves"),
        (0.29, "71 % of the digits' variance tells the place of a frame in its clip: the tokens tell the time"),
        (0.3, ""),
    ],
)
def test_a_report_says_of_a_clock_that_it_is_one(tmp_path: Path, share: float | None, told: str) -> None:
    rate = write_example_report(tmp_path, num_samples=0).rate.model_copy(
        update={"between_clips": share, "language_model": None}
    )
    heard: Any = SimpleNamespace(
        selection=SimpleNamespace(items=[SimpleNamespace(transcript="said")]),
        metrics=(),
        tokenizer=SimpleNamespace(sample_rate=16_000),
    )
    notes = _notes(heard, rate)
    said = [note for note in notes if "at one place" in note or "the place of a frame" in note]
    assert [note[: len(told)] for note in said] == ([told] if told else [])
