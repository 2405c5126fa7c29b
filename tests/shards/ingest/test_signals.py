"""Signals that are not what they seem: each has a rule in the recipe, and a line in the ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from syllabary.shards.audio import decode
from syllabary.shards.dataset import read_index, read_utterance
from syllabary.shards.ingest.streams import SampleStream
from tests.helpers.ingest_testing import RATE, config, ledger_of, outcomes, shard, tone, write_audio


def ingest(tmp_path: Path, wave: np.ndarray, rate: int = RATE, **values: Any) -> tuple[list[dict], np.ndarray]:
    """Ledger rows of the recording, and all that was stored of it, one after the other."""
    source = tmp_path / "in"
    write_audio(source / "a.wav", wave, rate, subtype="FLOAT")
    write_audio(source / "good.wav", tone(1, seed=5))
    shard(source, tmp_path / "out", config(coverage="all", **values))
    rows = [row for row in ledger_of(tmp_path / "out") if row["recording_id"] == "a.wav"]
    assert sum(row["num_samples"] for row in rows) == len(wave) * min(rate, 24_000) // rate
    stored = [row for row in read_index(str(tmp_path / "out")).to_pylist() if row["recording_id"] == "a.wav"]
    sounds = [decode(read_utterance(str(tmp_path / "out"), row))[0] for row in stored]
    return rows, np.concatenate(sounds) if sounds else np.zeros(0, np.float32)


def told(rows: list[dict]) -> set[tuple[str, str, str]]:
    return {(row["status"], "" if row["status"] == "shard" else row["detail"], row["note"]) for row in rows}


def close(found: np.ndarray, wave: np.ndarray) -> bool:
    return len(found) == len(wave) and bool(np.abs(found - wave).max() < 1e-4)


def test_of_channels_that_cancel_the_loudest_is_chosen(tmp_path: Path) -> None:
    wave = tone(2)
    rows, stored = ingest(tmp_path, np.stack([wave, -wave * 0.99], 1))
    assert told(rows) == {("shard", "", "channels cancel: 1 of 2 taken")}
    assert close(stored, wave)


def test_channels_that_cancel_may_be_quarantined_or_mixed(tmp_path: Path) -> None:
    wave = tone(2)
    both = np.stack([wave, -wave], 1)
    assert told(ingest(tmp_path / "q", both, cancelling_channels="quarantine")[0]) == {
        ("quarantined", "channels cancel", "")
    }
    rows, stored = ingest(tmp_path / "m", both, cancelling_channels="mean", constant="keep")
    assert told(rows) == {("shard", "", "")}
    assert not stored.any()


def test_the_voice_is_looked_for_in_the_channel_that_is_stored(tmp_path: Path) -> None:
    wave = tone(3)
    write_audio(tmp_path / "in" / "a.wav", np.stack([wave, -wave], 1))
    summary = shard(tmp_path / "in", tmp_path / "out")
    assert summary["stored_s"] > 2


def test_a_dead_channel_does_not_halve_the_others(tmp_path: Path) -> None:
    wave = tone(2)
    both = np.stack([wave, np.zeros_like(wave)], 1)
    rows, stored = ingest(tmp_path / "a", both)
    assert told(rows) == {("shard", "", "dead channel: 2 of 2 left out")}
    assert close(stored, wave)
    assert close(ingest(tmp_path / "b", both, dead_channel_db=None)[1], wave / 2)


def test_two_microphones_are_averaged_as_ever(tmp_path: Path) -> None:
    both = np.stack([tone(2, seed=1), tone(2, seed=2)], 1)
    rows, stored = ingest(tmp_path, both)
    assert told(rows) == {("shard", "", "")}
    assert close(stored, both.mean(axis=1))


@pytest.mark.parametrize(
    ("rule", "expected", "factor"),
    [
        ("scale", ("shard", "", "over full scale: scaled by 0.333"), 1 / 3),
        ("clip", ("shard", "", "over full scale: clipped at 1 of 3"), None),
        ("filter", ("filtered", "over full scale", ""), 0),
    ],
)
def test_peaks_over_full_scale(tmp_path: Path, rule: str, expected: tuple, factor: float | None) -> None:
    wave = tone(2)
    wave *= np.float32(3) / np.abs(wave).max()
    rows, stored = ingest(tmp_path, wave, over_full_scale=rule)
    assert told(rows) == {expected}
    if factor is None:
        assert close(stored, np.clip(wave, -1, 32767 / 32768))
    elif factor:
        assert close(stored, wave * np.float32(factor))
    else:
        assert not len(stored)


def test_a_little_over_full_scale_is_clipped_as_players_do(tmp_path: Path) -> None:
    wave = tone(2)
    wave *= np.float32(1.2) / np.abs(wave).max()
    rows, stored = ingest(tmp_path, wave)
    assert told(rows) == {("shard", "", "")}
    assert close(stored, np.clip(wave, -1, 32767 / 32768))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e29, -101.0])
@pytest.mark.parametrize("rate", [RATE, 48_000])
def test_a_sample_that_is_no_sound_costs_its_utterance_and_no_more(tmp_path: Path, value: float, rate: int) -> None:
    wave = tone(24, rate)
    wave[10 * rate] = value
    rows, stored = ingest(tmp_path, wave, rate)
    bad = [(row["start_sample"], row["num_samples"]) for row in rows if row["status"] == "quarantined"]
    out = min(rate, 24_000)
    ((start, length),) = bad
    assert start <= 10 * out < start + length <= start + 4.8 * out
    assert len(stored) == 24 * out - length
    assert np.abs(stored).max() < 1, "nothing of it is in the neighbours"


def test_many_samples_that_are_no_sound_are_told_apart(tmp_path: Path) -> None:
    wave = tone(24)
    wave[RATE : 2 * RATE : 7] = np.nan
    wave[20 * RATE] = np.nan
    rows, _ = ingest(tmp_path, wave)
    assert [row["start_sample"] for row in rows if row["status"] == "quarantined"] == [0, 19.2 * RATE]


def test_what_is_no_sound_is_remembered_as_few_stretches(tmp_path: Path) -> None:
    """A tenth of a second apart is one, across the blocks too that a file is read in; farther apart they are two."""
    wave = tone(13)
    wave[4 * RATE - 300 : 4 * RATE + 300 : 3] = np.nan
    wave[[9 * RATE, 9 * RATE + RATE // 10, 10 * RATE, 12 * RATE + RATE // 2]] = np.inf
    write_audio(tmp_path / "a.wav", wave, RATE, subtype="FLOAT")
    with SampleStream(tmp_path / "a.wav") as stream:
        assert np.array_equal(stream.read(0, len(wave)), np.where(np.isfinite(wave), wave, 0))
    assert stream.has_no_sound(4 * RATE - 299, 4 * RATE - 298) and stream.has_no_sound(4 * RATE - 1, 4 * RATE)
    assert stream.has_no_sound(9 * RATE + 100, 9 * RATE + 200)
    for at in (10 * RATE, 12 * RATE + RATE // 2):
        assert stream.has_no_sound(at, at + 1)
    for start, stop in ((0, 3.98), (4.02, 9), (9.2, 10), (10.1, 12.5), (12.6, 13)):
        assert not stream.has_no_sound(round(start * RATE), round(stop * RATE))


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_constant_is_filtered_or_kept(tmp_path: Path, value: float) -> None:
    wave = np.full(2 * RATE, value, np.float32)
    assert told(ingest(tmp_path / "a", wave)[0]) == {("filtered", "constant", "")}
    rows, stored = ingest(tmp_path / "b", wave, constant="keep")
    assert told(rows) == {("shard", "", "")}
    assert (stored == value).all()


def test_a_dc_offset_is_no_constant(tmp_path: Path) -> None:
    wave = tone(2) + np.float32(0.3)
    rows, stored = ingest(tmp_path, wave)
    assert told(rows) == {("shard", "", "")}
    assert close(stored, wave)


def test_a_rate_below_the_floor_is_filtered_by_name(tmp_path: Path) -> None:
    rows, _ = ingest(tmp_path / "a", tone(2, 1000), 1000)
    assert told(rows) == {("filtered", "sample rate: 1000 Hz, below 6000 Hz", "")}
    assert told(ingest(tmp_path / "b", tone(2, 1000), 1000, min_sample_rate=1000)[0]) == {("shard", "", "")}


@pytest.mark.parametrize(("rate", "channels"), [(384_000, 1), (RATE, 32)])
def test_extreme_formats_are_taken(tmp_path: Path, rate: int, channels: int) -> None:
    rows, stored = ingest(tmp_path, np.stack([tone(1, rate)] * channels, 1), rate)
    assert {row["status"] for row in rows} == {"shard"}
    assert len(stored) == min(rate, 24_000)


def test_the_notes_are_counted_in_the_summary(tmp_path: Path) -> None:
    wave = tone(10)
    write_audio(tmp_path / "in" / "a.wav", np.stack([wave, -wave], 1))
    write_audio(tmp_path / "in" / "b.wav", tone(10) * 20, subtype="FLOAT")
    summary = shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    assert summary["notes"] == {"channels cancel": 1, "over full scale": 3}
    assert summary["promised_s"] == summary["input_s"] == 20
    assert outcomes(tmp_path / "out", "b.wav") == {("shard", "")}
