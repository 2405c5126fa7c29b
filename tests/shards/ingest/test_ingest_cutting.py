"""From recordings to utterances: coverage, rates, formats, filters, the ledger."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
import webdataset

from syllabary.shards.audio import decode
from syllabary.shards.dataset import iter_shard, list_shards, read_index, read_utterance, shard_uri
from syllabary.shards.ingest.cutting import write_shard
from syllabary.shards.ingest.ingest import FILES
from tests.helpers.ingest_testing import (
    RATE,
    config,
    ledger_of,
    librilight_json,
    outcomes,
    plan_source,
    shard,
    tone,
    tree,
    write_audio,
    write_librilight_file,
)


def rows_of(out: Path) -> list[dict]:
    return read_index(str(out)).to_pylist()


def test_librilight_is_cut_where_its_json_says(corpus: Path, tmp_path: Path) -> None:
    summary = shard(corpus, tmp_path / "out")
    assert summary["num_recordings"] == 12
    assert sum(row["percent"] for row in summary["ledger"]) == pytest.approx(100, abs=0.01)
    total = sum(soundfile.info(path).frames for path in corpus.rglob("*.flac")) / RATE
    assert sum(row["duration_s"] for row in summary["ledger"]) == pytest.approx(total, abs=0.01)
    assert all(1 <= row["num_samples"] / row["sample_rate"] <= 4.8 for row in rows_of(tmp_path / "out"))


def test_utterances_are_the_source_samples_bit_for_bit(corpus: Path, tmp_path: Path) -> None:
    shard(corpus, tmp_path / "out")
    for row in rows_of(tmp_path / "out"):
        source, _ = soundfile.read(corpus / row["source"], dtype="int16")
        stored, rate = decode(read_utterance(str(tmp_path / "out"), row))
        span = source[row["start_sample"] : row["start_sample"] + row["num_samples"]]
        assert (np.rint(stored * 32768) == span).all()
        assert rate == row["sample_rate"]


def test_ledger_covers_each_sample_of_each_recording_once(corpus: Path, tmp_path: Path) -> None:
    shard(corpus, tmp_path / "out")
    spans: dict[str, list[tuple[int, int]]] = {}
    for row in ledger_of(tmp_path / "out"):
        spans.setdefault(row["source"], []).append((row["start_sample"], row["num_samples"]))
    assert len(spans) == 12
    for source, pieces in spans.items():
        position = 0
        for start, num_samples in sorted(pieces):
            assert start == position
            assert num_samples > 0
            position += num_samples
        assert position == soundfile.info(corpus / source).frames


def test_index_and_ledger_tell_the_same(corpus: Path, tmp_path: Path) -> None:
    shard(corpus, tmp_path / "out")
    told = {
        (row["recording_id"], row["start_sample"], row["num_samples"], row["shard"])
        for row in rows_of(tmp_path / "out")
    }
    kept = [row for row in ledger_of(tmp_path / "out") if row["status"] == "shard"]
    assert {(row["recording_id"], row["start_sample"], row["num_samples"], row["detail"]) for row in kept} == told


def test_all_restores_the_recording_sample_for_sample(corpus: Path, tmp_path: Path) -> None:
    shard(corpus, tmp_path / "out", config(coverage="all"))
    pieces: dict[str, list[tuple[int, np.ndarray]]] = {}
    for name in list_shards(str(tmp_path / "out")):
        for row, flac in iter_shard(str(tmp_path / "out"), name):
            pieces.setdefault(row["source"], []).append((row["start_sample"], decode(flac)[0]))
    assert len(pieces) == 12
    for source, found in pieces.items():
        whole = np.concatenate([samples for _, samples in sorted(found, key=lambda piece: piece[0])])
        original, _ = soundfile.read(corpus / source, dtype="float32")
        assert np.array_equal(whole, original)
    assert {row["status"] for row in ledger_of(tmp_path / "out")} == {"shard"}


def test_all_keeps_a_recording_shorter_than_the_minimum(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.wav", tone(0.1))
    summary = shard(tmp_path / "in", tmp_path / "out", config(coverage="all"))
    assert summary["stored_s"] == pytest.approx(0.1)


def test_long_speech_is_cut_at_its_quietest_point(tmp_path: Path) -> None:
    wave = tone(7.5)
    wave[3 * RATE : 3 * RATE + 2400] *= 0.001
    write_librilight_file(tmp_path / "in", "s1/b/a", wave, librilight_json([[0, 7.5]]))
    shard(tmp_path / "in", tmp_path / "out")
    starts = [row["start_sample"] for row in rows_of(tmp_path / "out")]
    assert len(starts) == 2
    assert 3 * RATE <= starts[1] <= 3 * RATE + 2400


def test_short_gaps_are_joined_and_short_speech_is_accounted(tmp_path: Path) -> None:
    activity = [[0.5, 1.2], [1.5, 2.5], [4, 4.5]]
    write_librilight_file(tmp_path / "in", "s1/b/a", tone(6), librilight_json(activity))
    shard(tmp_path / "in", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert (row["start_sample"], row["num_samples"]) == (RATE // 2, 2 * RATE)
    assert outcomes(tmp_path / "out", "s1/b/a") == {("shard", ""), ("silence", ""), ("too_short", "")}


def test_voice_is_detected_where_the_source_does_not_say(tmp_path: Path) -> None:
    quiet = np.zeros(2 * RATE, np.float32)
    write_audio(tmp_path / "in" / "anna" / "a.wav", np.concatenate([quiet, tone(3), quiet]))
    shard(tmp_path / "in", tmp_path / "out")
    (row,) = rows_of(tmp_path / "out")
    assert row["speaker"] == "anna"
    assert abs(row["start_sample"] / RATE - 2) < 0.3
    assert abs((row["start_sample"] + row["num_samples"]) / RATE - 5) < 0.3


@pytest.mark.parametrize(
    ("name", "rate", "options"),
    [
        ("a.wav", 8000, {"subtype": "PCM_U8"}),
        ("a.wav", 44_100, {"subtype": "PCM_24"}),
        ("a.wav", 48_000, {"subtype": "FLOAT"}),
        ("a.flac", 22_050, {"subtype": "PCM_24"}),
        ("a.ogg", 32_000, {}),
        ("a.opus", 48_000, {"format": "OGG", "subtype": "OPUS"}),
        ("a.mp3", 44_100, {}),
        ("a.aiff", 11_025, {}),
    ],
)
@pytest.mark.parametrize("channels", [1, 2])
def test_any_format_rate_and_channels(tmp_path: Path, name: str, rate: int, options: dict, channels: int) -> None:
    wave = tone(7, rate)
    write_audio(tmp_path / "in" / name, np.stack([wave] * channels, 1), rate, **options)
    summary = shard(tmp_path / "in", tmp_path / "out", config(coverage="all", max_sample_rate=24_000))
    rows = rows_of(tmp_path / "out")
    assert {row["sample_rate"] for row in rows} == {min(rate, 24_000)}
    assert summary["stored_s"] == pytest.approx(7, abs=0.1)  # mp3 adds its padding
    whole = np.concatenate([decode(read_utterance(str(tmp_path / "out"), row))[0] for row in rows])
    assert 0.5 < np.sqrt(np.mean(whole**2)) / np.sqrt(np.mean(wave**2)) < 1.1


def test_resampling_in_a_stream_is_resampling_of_the_whole(tmp_path: Path) -> None:
    import soxr

    wave = tone(21, 44_100)
    write_audio(tmp_path / "in" / "a.wav", wave, 44_100, subtype="FLOAT")
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all", max_sample_rate=16_000))
    rows = rows_of(tmp_path / "out")
    whole = np.concatenate([decode(read_utterance(str(tmp_path / "out"), row))[0] for row in rows])
    assert len(whole) == 21 * 16_000
    assert np.abs(whole - soxr.resample(wave, 44_100, 16_000, "HQ")).max() < 1e-4


def test_filters_say_why(tmp_path: Path) -> None:
    clipped = np.clip(tone(2, level=5), -1, 1)
    noisy = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32) * 0.1
    root = tmp_path / "in"
    write_librilight_file(root, "s/b/clipped", clipped, librilight_json([[0, 2]]))
    write_librilight_file(root, "s/b/low", tone(2, seed=1), librilight_json([[0, 2]], snr=3.0))
    write_librilight_file(root, "s/b/noisy", noisy, librilight_json([[0, 2]], snr=None))
    write_librilight_file(
        root, "s/b/french", tone(2, seed=2), librilight_json([[0, 2]], book_meta={"language": "French"})
    )
    write_librilight_file(root, "s/b/untold", tone(2, seed=3), librilight_json([[0, 2]], book_meta={}))
    write_librilight_file(root, "s/b/good", tone(2, seed=4), librilight_json([[0, 2]]))
    settings = config(min_snr_db=10, max_clipping_percent=1, languages=["english"])
    summary = shard(root, tmp_path / "out", settings)
    found = {row["recording_id"]: (row["status"], row["detail"]) for row in ledger_of(tmp_path / "out")}
    assert found == {
        "s/b/clipped": ("filtered", "clipping"),
        "s/b/low": ("filtered", "snr"),
        "s/b/noisy": ("filtered", "snr"),
        "s/b/french": ("filtered", "language: French"),
        "s/b/untold": ("filtered", "language: unknown"),
        "s/b/good": ("shard", found["s/b/good"][1]),
    }
    assert {row["detail"] for row in summary["ledger"] if row["status"] == "filtered"} == {
        "clipping", "snr", "language: French", "language: unknown",
    }  # fmt: skip


def test_filters_are_off_unless_asked_for(tmp_path: Path) -> None:
    write_librilight_file(tmp_path / "in", "s/b/a", np.clip(tone(2, level=5), -1, 1), librilight_json([[0, 2]], snr=-5))
    shard(tmp_path / "in", tmp_path / "out")
    assert outcomes(tmp_path / "out", "s/b/a") == {("shard", "")}


def test_duplicates_are_found_across_formats(tmp_path: Path) -> None:
    root = tmp_path / "in"
    wave = (tone(3) * 2**31).astype(np.int32) >> 8 << 8
    write_audio(root / "a" / "one.flac", wave)
    write_audio(root / "b" / "two.wav", wave)
    write_audio(root / "c" / "deep.wav", wave, subtype="PCM_24")
    write_audio(root / "d" / "deep.flac", wave, subtype="PCM_24")
    write_audio(root / "e" / "other.flac", tone(3, seed=9))
    shard(root, tmp_path / "out", config(coverage="all", drop_duplicates=True))
    found = {row["recording_id"]: (row["status"], row["detail"]) for row in ledger_of(tmp_path / "out")}
    assert found["b/two.wav"] == ("duplicate", "a/one")
    assert found["d/deep"] == ("duplicate", "c/deep.wav")
    assert [found[name][0] for name in ("a/one", "c/deep.wav", "e/other")] == ["shard"] * 3


def test_a_damaged_file_is_nobodys_original(tmp_path: Path) -> None:
    wave = tone(5)
    good = write_audio(tmp_path / "in" / "b.flac", wave)
    (tmp_path / "in" / "a.flac").write_bytes(good.read_bytes()[:-20_000])
    shard(tmp_path / "in", tmp_path / "out", config(coverage="all", drop_duplicates=True))
    assert outcomes(tmp_path / "out", "b") == {("shard", "")}
    assert {status for status, _ in outcomes(tmp_path / "out", "a")} == {"quarantined"}


def test_a_shard_tells_what_became_of_its_recordings(tmp_path: Path) -> None:
    write_audio(tmp_path / "in" / "a.flac", tone(2))
    for name in ("b.flac", "c.flac"):
        (tmp_path / "in" / name).write_bytes(b"no sound")
    settings = config(coverage="all", max_utterance_s=9)
    (plan,) = plan_source(tmp_path / "in", tmp_path / "out", settings)
    told = write_shard(str(tmp_path / "out"), plan, settings, FILES)
    reason = told.pop("reason")
    assert told == {"shard": plan.shard, "num_utterances": 1, "num_quarantined": 2, "duration_s": 2.0}
    assert "not readable" in reason


def test_a_speaker_is_on_one_side_and_adding_data_moves_nobody(corpus: Path, tmp_path: Path) -> None:
    settings = config(valid_percent=25, test_percent=25)
    shard(corpus, tmp_path / "out", settings)
    before = {row["speaker"]: row["split"] for row in rows_of(tmp_path / "out")}
    assert set(before.values()) == {"train", "valid", "test"}
    more = tmp_path / "more"
    for number in range(8):
        write_librilight_file(
            more, f"new{number}/b/x", tone(2, seed=number), librilight_json([[0, 2]], speaker=f"n{number}")
        )
    for source in corpus.iterdir():
        (more / source.name).symlink_to(source)
    shard(more, tmp_path / "more-out", settings)
    after = {row["speaker"]: row["split"] for row in rows_of(tmp_path / "more-out")}
    assert {speaker: after[speaker] for speaker in before} == before


def test_splitting_by_recording_is_explicit(tmp_path: Path) -> None:
    for number in range(30):
        write_audio(tmp_path / "in" / "one-voice" / f"{number}.flac", tone(1.5, seed=number))
    by_speaker = shard(tmp_path / "in", tmp_path / "a", config(coverage="all", valid_percent=20, test_percent=20))
    by_recording = shard(
        tmp_path / "in", tmp_path / "b",
        config(coverage="all", valid_percent=20, test_percent=20, split_by="recording"),
    )  # fmt: skip
    assert sorted(split["num_utterances"] for split in by_speaker["splits"].values()) == [0, 0, 30]
    assert min(split["num_utterances"] for split in by_recording["splits"].values()) >= 2


def test_same_input_gives_same_bytes_wherever_it_lies(corpus: Path, tmp_path: Path) -> None:
    shard(corpus, tmp_path / "a")
    (tmp_path / "link").symlink_to(corpus)
    shard(tmp_path / "link", tmp_path / "b")
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_plain_webdataset_reads_every_utterance(corpus: Path, tmp_path: Path) -> None:
    shard(corpus, tmp_path / "out")
    urls = [shard_uri(str(tmp_path / "out"), name) for name in list_shards(str(tmp_path / "out"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [row["key"] for row in rows_of(tmp_path / "out")]


def test_memory_is_bounded_by_the_utterance(tmp_path: Path) -> None:
    """The widest window ever held of a ten-minute recording that is one single segment."""
    from syllabary.shards.ingest import streams

    minute = tone(60)
    with soundfile.SoundFile(_folder(tmp_path / "in" / "s" / "b") / "long.flac", "w", RATE, 1, "PCM_16") as target:
        for _ in range(10):
            target.write(minute)
    (tmp_path / "in" / "s" / "b" / "long.json").write_text('{"speaker": "s", "voice_activity": [[0, 600]]}')
    held: list[int] = []

    class Watched(streams.SampleStream):
        def read(self, start: int, stop: int) -> np.ndarray:
            samples = super().read(start, stop)
            held.append(sum(len(piece) for piece in self._pieces))
            return samples

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("syllabary.shards.ingest.cutting.SampleStream", Watched)
        summary = shard(tmp_path / "in", tmp_path / "out")
    assert summary["stored_s"] == pytest.approx(600)
    assert max(held) <= (4.8 + 4 + 4) * RATE


def _folder(path: Path) -> Path:
    path.mkdir(parents=True)
    return path
