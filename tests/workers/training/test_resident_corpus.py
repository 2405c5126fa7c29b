"""A corpus on the device gives the clips that the ordinary loader reads, and refuses to crowd the model out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from syllabary.shards.errors import InputError
from syllabary.workers.recipes.recipe import AugmentConfig
from syllabary.workers.training.data import resident_corpus
from syllabary.workers.training.data.clips import ClipMaker
from syllabary.workers.training.data.epoch_order import SamplePlan, Slot
from syllabary.workers.training.data.loader import RankShare, TrainLoader, Utterances
from syllabary.workers.training.data.resident_corpus import ResidentCorpus, ResidentLoader, as_int16, require_room
from tests.helpers.training_testing import RATE, write_training_shards

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_training_shards(str(tmp_path_factory.mktemp("data") / "shards"))


def _both(shards: str, clips: ClipMaker, share: RankShare, **limits: float) -> tuple[TrainLoader, ResidentLoader]:
    read, kept = (Utterances(shards, "train", RATE) for _ in range(2))
    plan = SamplePlan(len(read), 3)
    corpus = ResidentCorpus.load(kept, CPU, loudness_dbfs=clips.loudness_dbfs)
    return TrainLoader(read, plan, clips, share, **limits), ResidentLoader(
        kept, plan, clips, share, corpus=corpus, **limits
    )


@pytest.mark.parametrize("crop_samples", [960, 1200, 6000])
@pytest.mark.parametrize("share", [RankShare(0, 1, 4, 1), RankShare(1, 2, 3, 2)])
@pytest.mark.parametrize(
    "clips",
    [
        {},
        {"fixed_crops": True},
        {"augment": AugmentConfig(gain_db=6)},
        {"loudness_dbfs": -24.0, "sample_rate": RATE},
    ],
)
def test_clips_are_those_of_the_ordinary_loader_bit_for_bit(shards, crop_samples, share, clips) -> None:
    read, kept = _both(shards, ClipMaker(crop_samples, 120, **clips), share)
    for _ in range(12):
        for one, other in zip(read.take(), kept.take(), strict=True):
            assert torch.equal(one.waveform, other.waveform)
            assert torch.equal(one.num_samples, other.num_samples)
            assert one.slots == other.slots
        assert read.position == kept.position
    read.close()


def test_a_step_depends_on_its_position_alone(shards) -> None:
    clips = ClipMaker(960, 120, AugmentConfig(gain_db=3, noise_snr_db=20))
    _, straight = _both(shards, clips, RankShare(0, 1, 4, 1))
    steps = [straight.take()[0].waveform for _ in range(5)]
    _, resumed = _both(shards, clips, RankShare(0, 1, 4, 1))
    resumed.seek(16)
    assert torch.equal(resumed.take()[0].waveform, steps[4])
    assert not torch.equal(steps[3][0], steps[4][0])


def test_noise_has_the_asked_level_and_none_beyond_the_clip(shards) -> None:
    quiet = ClipMaker(2600, 120)
    noisy = ClipMaker(2600, 120, AugmentConfig(noise_snr_db=20))
    clean, loud = (_both(shards, clips, RankShare(0, 1, 8, 1))[1].take()[0] for clips in (quiet, noisy))
    noise = loud.waveform - clean.waveform
    for row, signal, n in zip(noise, clean.waveform, clean.num_samples.tolist(), strict=True):
        snr_db = 10 * torch.log10(signal[:n].square().mean() / row[:n].square().mean())
        assert float(snr_db) == pytest.approx(20, abs=1)
        assert not row[n:].any()


def test_what_a_gain_lifts_beyond_full_scale_is_cut_off_there() -> None:
    corpus = ResidentCorpus([np.tile(np.array([-32768, 32767], np.int16), 600)] * 16, CPU)
    batch = corpus.batch([Slot(n, n) for n in range(16)], ClipMaker(1200, 120, AugmentConfig(gain_db=6)))
    peaks = torch.stack([-batch.waveform.amin(dim=1), batch.waveform.amax(dim=1)])
    assert float(peaks.max()) == 1
    is_cut = (peaks == 1).all(dim=0)
    assert 0 < int(is_cut.sum()) < 16, "gains are drawn on both sides of one"


def test_an_utterance_that_cannot_be_read_is_replaced_as_by_the_ordinary_loader(tmp_path) -> None:
    shards = write_training_shards(str(tmp_path / "shards"), shards=1)
    row = Utterances(shards, "train", RATE).row(5)
    path = next(Path(shards).rglob("train-000000.tar"))
    data = bytearray(path.read_bytes())
    data[row["offset"] + 100] ^= 0xFF
    path.write_bytes(data)
    read, kept = _both(shards, ClipMaker(960, 120), RankShare(0, 1, 8, 1))
    assert kept.corpus.lengths[5] == 0 and list(kept.utterances.quarantined) == [row["utterance_id"]]
    for _ in range(6):
        one, other = read.take()[0], kept.take()[0]
        assert torch.equal(one.waveform, other.waveform) and one.slots == other.slots
    read.close()


def test_too_many_that_cannot_be_read_stop_the_run(shards) -> None:
    _, kept = _both(shards, ClipMaker(960, 120), RankShare(0, 1, 24, 1), max_quarantined_percent=5)
    kept.corpus.lengths[:3] = 0
    kept.utterances.quarantined |= {f"u{i}": "damaged" for i in range(3)}
    with pytest.raises(InputError, match="3 of 24 utterances cannot be read, the last because: damaged"):
        kept.take()


def test_sixteen_bits_come_back_as_they_were_and_full_scale_is_not_passed() -> None:
    values = np.arange(-32768, 32768, dtype=np.int16)
    assert np.array_equal(as_int16(values.astype(np.float32) / 32768), values)
    assert as_int16(np.array([1.0, -1.0, 1.5], np.float32)).tolist() == [32767, -32768, 32767]


def test_a_corpus_that_would_crowd_the_model_out_is_refused(monkeypatch, shards) -> None:
    monkeypatch.setattr(resident_corpus, "free_bytes", lambda: 4 << 30)
    require_room(2 << 30, CPU)
    with pytest.raises(InputError, match=r"the corpus takes 2\.1 GiB of the 4\.0 GiB free on cpu.*train from shards"):
        require_room(int(2.1 * 2**30), CPU)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 80 << 30))
    with pytest.raises(InputError, match=r"of the 1\.0 GiB free on cuda"):
        require_room(1 << 30, torch.device("cuda"))
    utterances = Utterances(shards, "train", RATE)
    assert utterances.num_samples == ResidentCorpus.load(utterances, CPU).lengths.sum()


def test_the_longer_utterances_alone_give_clips_without_padding(shards) -> None:
    corpus = ResidentCorpus.load(Utterances(shards, "train", RATE), CPU)
    longer, length = corpus.of_at_least(1800), corpus.lengths
    places = np.flatnonzero(length >= 1800)
    assert 0 < len(places) < len(length) and longer.lengths.tolist() == length[places].tolist()
    clips = ClipMaker(1800, 120)
    for place, utterance in enumerate(places.tolist()):
        one, other = corpus.batch([Slot(utterance, 7)], clips), longer.batch([Slot(place, 7)], clips)
        assert torch.equal(one.waveform, other.waveform) and one.num_samples.item() == 1800
    with pytest.raises(InputError, match="expected 9000 samples or more"):
        corpus.of_at_least(9000)


def test_an_utterance_of_just_that_length_is_long_enough() -> None:
    corpus = ResidentCorpus([np.full(n, n, np.int16) for n in (5, 4, 3)], CPU)
    assert corpus.of_at_least(4).lengths.tolist() == [5, 4]
    assert corpus.of_at_least(5).lengths.tolist() == [5]


def test_another_speed_is_that_of_the_ordinary_loader_to_interpolation(shards) -> None:
    clips = ClipMaker(960, 120, AugmentConfig(speed_percent=12))
    read, kept = _both(shards, clips, RankShare(0, 1, 4, 1))
    changed = padded = 0
    for _ in range(6):
        one, other = read.take()[0], kept.take()[0]
        assert one.slots == other.slots
        assert (one.num_samples - other.num_samples).abs().max() <= 1
        length = int(min(one.num_samples.min(), other.num_samples.min())) - 40
        for row in range(4):  # soxr filters what cubics interpolate: alike away from the ends, at the chords' low pitch
            a, b = one.waveform[row, 40:length], other.waveform[row, 40:length]
            assert torch.corrcoef(torch.stack([a, b]))[0, 1] > 0.97
            changed += not torch.equal(a, b)
            beyond = other.waveform[row, int(other.num_samples[row]) :]
            padded += len(beyond)
            assert not beyond.any()
    assert changed >= 4 and padded
    read.close()


def test_noise_is_in_the_input_of_the_same_clips_and_the_target_stays_clean(shards) -> None:
    augment = AugmentConfig(input_noise_share=0.5, input_noise_snr_db=(20, 20))
    read, kept = _both(shards, ClipMaker(960, 120, augment), RankShare(0, 1, 8, 1))
    for _ in range(4):
        one, other = read.take()[0], kept.take()[0]
        assert torch.equal(one.waveform, other.waveform)
        noise = [batch.heard - batch.waveform for batch in (one, other)]
        assert [bool(n.any()) for n in noise[0]] == [bool(n.any()) for n in noise[1]]
        for row, length in enumerate(other.num_samples.tolist()):
            power = noise[1][row, :length].square().mean() / other.waveform[row, :length].square().mean()
            assert not power or 10 * float(power.log10()) == pytest.approx(-20, abs=1.5)
            assert not noise[1][row, length:].any()
    read.close()
