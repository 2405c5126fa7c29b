"""Order and batches: every utterance once an epoch, the same clips however they are divided, and what is unreadable."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from syllabary.shards import dataset, store
from syllabary.shards.errors import InputError, UnavailableError
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import AugmentConfig
from syllabary.workers.training import rank as rank_module
from syllabary.workers.training.data import loader as loader_module
from syllabary.workers.training.data.clips import Batch, ClipMaker
from syllabary.workers.training.data.epoch_order import SamplePlan, Slot, crop_start, epoch_order, mix
from syllabary.workers.training.data.loader import RankShare, TrainLoader, Utterances, fixed_batches
from syllabary.workers.training.data.resident_corpus import ResidentLoader
from syllabary.workers.training.driver import RankJob
from syllabary.workers.training.rank import clip_maker, make_loader, validation_batches
from tests.helpers.training_testing import RATE, training_recipe, write_training_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> str:
    return write_training_shards(str(tmp_path_factory.mktemp("data") / "shards"))


def _loader(shards: str, rank: int = 0, world_size: int = 1, batch: int = 4, accum: int = 1, **kwargs) -> TrainLoader:
    utterances = Utterances(shards, "train", RATE)
    clips = ClipMaker(960, 120, kwargs.pop("augment", AugmentConfig()))
    plan = SamplePlan(len(utterances), 3)
    return TrainLoader(utterances, plan, clips, RankShare(rank, world_size, batch, accum), **kwargs)


@pytest.mark.parametrize(("n", "world_size", "batch"), itertools.product((1, 5, 24, 37), (1, 2, 3), (1, 4)))
def test_every_utterance_comes_exactly_once_an_epoch_over_all_ranks(n, world_size, batch):
    plan, stride = SamplePlan(n, seed=1), world_size * batch
    taken = [
        plan.micro_batch(p, rank=rank, world_size=world_size, micro_batch_size=batch)
        for p in range(0, n * stride, stride)
        for rank in range(world_size)
    ]
    order = [slot.utterance for slots in taken for slot in slots]
    epochs = [order[i : i + n] for i in range(0, len(order), n)]
    assert len(epochs) == stride
    assert all(sorted(epoch) == list(range(n)) for epoch in epochs)


def test_epochs_are_shuffled_each_anew_and_the_same_for_the_same_seed():
    orders = [tuple(epoch_order(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert orders[0] == tuple(epoch_order(0, 0, 50))
    assert epoch_order(0, 0, 6).tolist() == [4, 5, 3, 0, 1, 2]


def test_crops_cover_every_start():
    starts = {crop_start(mix(i), 10, 7) for i in range(200)}
    assert starts == {0, 1, 2, 3}
    assert crop_start(5, 7, 7) == crop_start(5, 3, 7) == 0


@pytest.mark.parametrize(("world_size", "batch", "accum"), [(2, 2, 1), (1, 2, 2), (4, 1, 1), (1, 1, 4)])
def test_the_same_clips_however_a_step_is_divided(shards, world_size, batch, accum):
    whole = _loader(shards).step_at(8)[0]
    ranks = [_loader(shards, rank, world_size, batch, accum).step_at(8) for rank in range(world_size)]
    parts = [ranks[rank][k] for k in range(accum) for rank in range(world_size)]
    assert [s for part in parts for s in part.slots] == list(whole.slots)
    clips = [row[:n] for part in parts for row, n in zip(part.waveform, part.num_samples, strict=True)]
    for clip, row, n in zip(clips, whole.waveform, whole.num_samples, strict=True):
        assert clip.equal(row[:n])


def test_resuming_reads_nothing_of_what_is_behind_and_repeats_and_skips_nothing(shards, monkeypatch):
    straight = _loader(shards)
    steps = [straight.take() for _ in range(9)]
    straight.close()
    resumed = _loader(shards)
    resumed.seek(5 * 4)
    read: list[int] = []
    original = Utterances.read
    monkeypatch.setattr(Utterances, "read", lambda self, i: read.append(i) or original(self, i))
    for step in steps[5:]:
        again = resumed.take()
        assert again[0].waveform.equal(step[0].waveform)
        assert again[0].slots == step[0].slots
    resumed.close()
    assert read[:16] == [slot.utterance for step in steps[5:] for slot in step[0].slots]


def test_batches_are_whole_frames_and_zero_beyond_the_clip(shards):
    batch = _loader(shards).step_at(0)[0]
    assert batch.waveform.shape[1] % 120 == 0
    assert batch.num_samples.max() <= 960
    for row, n in zip(batch.waveform, batch.num_samples, strict=True):
        assert not row[n:].any()
        assert row[:n].abs().max() > 0.01


def test_augmentation_is_seeded_by_the_sample_and_within_its_bounds(shards):
    augment = AugmentConfig(gain_db=6, noise_snr_db=20)
    plain, loud, again = (
        _loader(shards, augment=a).step_at(0)[0].waveform for a in (AugmentConfig(), augment, augment)
    )
    assert loud.equal(again)
    ratio = loud.square().mean(dim=1).sqrt() / plain.square().mean(dim=1).sqrt()
    assert ratio.min() > 10 ** (-6.5 / 20) and ratio.max() < 10 ** (6.5 / 20)
    assert ratio.std() > 0.05


def test_noise_is_as_far_below_the_speech_as_asked_and_new_in_each_epoch(shards):
    noisy, plain = (_loader(shards, augment=AugmentConfig(noise_snr_db=snr)) for snr in (20, None))
    noises = []
    for position in (0, 24):  # the same utterances in two epochs, whatever their order
        clean, heard = plain.step_at(position)[0], noisy.step_at(position)[0]
        for speech, mixed, n in zip(clean.waveform, heard.waveform, clean.num_samples, strict=True):
            noise = (mixed - speech)[:n]
            assert 10 * float(torch.log10(speech[:n].square().mean() / noise.square().mean())) == pytest.approx(
                20, abs=1
            )
            noises.append(noise[:8])
    assert len({tuple(noise.tolist()) for noise in noises}) == 8


def test_crops_and_augmentation_of_a_clip_do_not_depend_on_how_a_step_is_divided(shards):
    augment = AugmentConfig(gain_db=6, noise_snr_db=20)
    whole = _loader(shards, augment=augment).step_at(8)[0]
    parts = [_loader(shards, rank, 2, 2, augment=augment).step_at(8)[0] for rank in range(2)]
    clips = [row[:n] for part in parts for row, n in zip(part.waveform, part.num_samples, strict=True)]
    for clip, row, n in zip(clips, whole.waveform, whole.num_samples, strict=True):
        assert clip.equal(row[:n])


def test_speed_is_seeded_within_its_bounds_and_for_half_of_the_clips(shards):
    augment = AugmentConfig(speed_percent=20)
    first, again = (_loader(shards, batch=24, augment=augment).step_at(0)[0] for _ in range(2))
    plain = _loader(shards, batch=24).step_at(0)[0]
    assert first.waveform.equal(again.waveform) and first.slots == plain.slots
    width = min(first.waveform.shape[1], plain.waveform.shape[1])
    changed = (first.waveform[:, :width] != plain.waveform[:, :width]).any(dim=1)
    assert 6 <= int(changed.sum()) <= 18
    assert first.disturbed is None and first.heard is first.waveform
    other = _loader(shards, batch=24, augment=augment).step_at(24)[0]  # the next epoch draws anew
    by_utterance = [{slot.utterance: slot.seed for slot in batch.slots} for batch in (first, other)]
    assert all(by_utterance[0][u] != by_utterance[1][u] for u in by_utterance[0])


@pytest.mark.parametrize("percent", [5, 20])
def test_a_sped_up_tone_has_its_pitch_and_its_tempo_and_the_length_of_its_clip(percent):
    """Of 1,000 seeds: factors on either side of 1 and within the bounds, by the frequency that a tone comes out at."""
    tone = (0.5 * np.sin(2 * np.pi * 100 * np.arange(20_000) / RATE)).astype(np.float32)
    clips, factors = ClipMaker(4000, 120, AugmentConfig(speed_percent=percent)), []
    for seed in range(60):
        clip = clips.clip(tone, Slot(0, mix(seed)))
        assert abs(len(clip) - 4000) <= 1 and clip.dtype == np.float32
        inner = clip[500:3500]
        rising = np.nonzero((inner[:-1] < 0) & (inner[1:] >= 0))[0]
        exact = rising + inner[rising] / (inner[rising] - inner[rising + 1])
        factors.append(RATE * (len(exact) - 1) / (exact[-1] - exact[0]) / 100)
    moved = [f for f in factors if abs(f - 1) > 1e-3]
    assert 15 <= len(moved) <= 45
    assert min(moved) < 1 - percent / 200 and max(moved) > 1 + percent / 200
    assert 1 - percent / 100 - 1e-3 <= min(moved) and max(moved) <= 1 + percent / 100 + 1e-3


def test_noise_of_the_input_leaves_the_target_clean_and_comes_in_the_share_and_strength_asked_for(shards):
    augment = AugmentConfig(input_noise_share=0.5, input_noise_snr_db=(10.0, 20.0))
    first, again = (_loader(shards, batch=24, augment=augment).step_at(0)[0] for _ in range(2))
    clean = _loader(shards, batch=24).step_at(0)[0]
    assert first.waveform.equal(clean.waveform) and first.disturbed.equal(again.disturbed)
    assert first.heard is first.disturbed and first.num_samples.equal(clean.num_samples)
    noise = first.disturbed - first.waveform
    noisy = noise.abs().amax(dim=1) > 0
    assert 6 <= int(noisy.sum()) <= 18
    for row, n in zip(noise, first.num_samples.tolist(), strict=True):
        assert not row[n:].any()  # padding stays silence
    snrs, slopes = [], []
    for row, speech, n in zip(noise[noisy], first.waveform[noisy], first.num_samples[noisy].tolist(), strict=True):
        snrs.append(10 * float(torch.log10(speech[:n].square().mean() / row[:n].square().mean())))
        slopes.append(float((row[1:n] * row[: n - 1]).mean() / row[:n].square().mean()))
    assert min(snrs) > 9 and max(snrs) < 21 and max(snrs) - min(snrs) > 3
    # Neighbours of white noise know nothing of one another, those of a mean over nine samples share 8/9 of it.
    assert min(abs(s) for s in slopes) < 0.2 and max(slopes) == pytest.approx(8 / 9, abs=0.1)


def test_loudness_is_the_whole_utterances_not_the_crops(shards):
    """A loud first half and one 12 dB below: both are brought up by one gain, worked from sines."""
    time = np.arange(8000) / RATE
    tone = np.sin(2 * np.pi * 100 * time).astype(np.float32)
    utterance = np.concatenate([0.1 * tone, 0.025 * tone])
    clips = ClipMaker(16_000, 120, sample_rate=RATE, loudness_dbfs=-30.0)
    mean_power = (0.1**2 + 0.025**2) / 4
    gain = 10 ** (-30 / 20) / np.sqrt(mean_power)
    np.testing.assert_allclose(clips.clip(utterance, Slot(0, 1)), gain * utterance, rtol=1e-4, atol=1e-6)
    short = ClipMaker(1200, 120, sample_rate=RATE, loudness_dbfs=-30.0)
    start = crop_start(1, 16_000, 1200)
    np.testing.assert_allclose(
        short.clip(utterance, Slot(0, 1)), gain * utterance[start : start + 1200], rtol=1e-4, atol=1e-6
    )
    recipe = training_recipe(model__encoder__loudness_dbfs=-20.0)
    assert clip_maker(recipe.model.encoder, recipe.codec).loudness_dbfs == -20.0


def test_validation_is_the_same_clips_over_any_number_of_ranks(shards):
    utterances, clips = Utterances(shards, "valid", RATE), ClipMaker(960, 120, fixed_crops=True)

    def utterances_of(rank: int, world_size: int) -> list[int]:
        found = fixed_batches(utterances, clips, RankShare(rank, world_size, 2, 1), seed=0, count=5)
        return [slot.utterance for batch in found for slot in batch.slots]

    assert len(set(utterances_of(0, 1))) == 5
    assert sorted(utterances_of(0, 2) + utterances_of(1, 2)) == sorted(utterances_of(0, 1))


def test_a_damaged_utterance_is_quarantined_and_replaced_the_same_way_each_time(tmp_path):
    uri = write_training_shards(str(tmp_path / "shards"))
    row = Utterances(uri, "train", RATE).row(3)
    tar = dataset.shard_uri(uri, row["shard"])
    data = bytearray(store.read_bytes(tar))
    data[row["offset"] + row["size_bytes"] // 2] ^= 0xFF
    store.publish_bytes(tar, bytes(data))
    taken = []
    for _ in range(2):
        loader = _loader(uri, batch=24)
        taken.append([slot.utterance for slot in loader.take()[0].slots])
        assert list(loader.utterances.quarantined) == [row["utterance_id"]]
        assert "damaged" in loader.utterances.quarantined[row["utterance_id"]]
        loader.close()
    assert taken[0] == taken[1]
    assert 3 not in taken[0] and len(taken[0]) == 24


def test_the_stand_ins_of_a_clip_are_those_of_its_seed_whatever_the_version(shards):
    """A run that goes on by a later version must go on with the clips that it would have had."""
    loader = _loader(shards)
    for seed, expected in ((0, [0, 5, 20, 22]), (7, [22, 12, 10, 9])):
        drawn = list(itertools.islice(loader._candidates(Slot(5, seed)), 5))
        assert [slot.utterance for slot in drawn] == [5, *expected] and {slot.seed for slot in drawn} == {seed}
    loader.close()


def test_a_vanished_shard_goes_beyond_the_limit_and_stops_with_its_reason(tmp_path):
    uri = write_training_shards(str(tmp_path / "shards"))
    store.delete(dataset.shard_uri(uri, "train-000001"))
    loader = _loader(uri, batch=24, max_quarantined_percent=5)
    with pytest.raises(InputError, match=r"of 24 utterances cannot be read.*train-000001.*max_quarantined_percent"):
        loader.take()
    loader.close()
    patient = _loader(uri, batch=24, max_quarantined_percent=60)
    assert len(patient.take()[0].slots) == 24
    assert len(patient.utterances.quarantined) == 12
    patient.close()


class _Job:
    def __init__(self, shards_uri: str) -> None:
        self.shards_uri, self.recipe = shards_uri, training_recipe()


def test_fewer_utterances_than_ranks_is_refused(tmp_path, monkeypatch):
    uri = write_training_shards(str(tmp_path / "shards"), train=1, shards=1)
    monkeypatch.setattr("syllabary.workers.training.rank.world", lambda: (0, 2))
    with pytest.raises(InputError, match=r"1 training utterances .* for 2 ranks; shard more speech, or lower"):
        make_loader(_Job(uri), training_recipe().pretrain, torch.device("cpu"), print)


def test_no_utterance_to_train_on_is_no_matter_of_ranks(tmp_path):
    uri = write_training_shards(str(tmp_path / "shards"), train=0)
    with pytest.raises(InputError, match=r"no utterance in the train split of .*shard more speech") as refused:
        make_loader(_Job(uri), training_recipe().pretrain, torch.device("cpu"), print)
    assert "num_workers" not in str(refused.value) and "\n" not in str(refused.value)


def test_an_empty_valid_split_is_refused_with_its_fix(tmp_path):
    uri = write_training_shards(str(tmp_path / "shards"), valid=0)
    with pytest.raises(InputError, match=r"no utterance in the valid split.*ingest\.split_by=recording.*more record"):
        validation_batches(_Job(uri), training_recipe().pretrain, print)


def test_a_held_out_utterance_that_cannot_be_read_is_told_and_more_than_one_stop_the_run(tmp_path):
    uri = write_training_shards(str(tmp_path / "shards"))
    config, said = training_recipe().pretrain, list[str]()
    rows = Utterances(uri, "valid", RATE)
    chosen = [int(i) for i in epoch_order(config.seed, 0, len(rows))[: config.num_validation_utterances]]
    for number, utterance in enumerate(chosen[:2]):
        row = rows.row(utterance)
        tar = dataset.shard_uri(uri, row["shard"])
        data = bytearray(store.read_bytes(tar))
        data[row["offset"] + row["size_bytes"] // 2] ^= 0xFF
        store.publish_bytes(tar, bytes(data))
        if number == 0:
            batches = validation_batches(_Job(uri), config, said.append)
            assert [slot.utterance for batch in batches for slot in batch.slots] == chosen[1:]
            assert len(said) == 1 and said[0].startswith(f"left out of the validation: {row['utterance_id']}: shard")
    with pytest.raises(InputError, match=r"2 of 4 validation utterances .* damaged .*; expected at most 5 %; mend"):
        validation_batches(_Job(uri), config, said.append)


def test_a_store_that_is_away_is_waited_for_and_nothing_is_quarantined(shards, monkeypatch):
    expected = _loader(shards).step_at(0)[0].waveform
    read, failures, slept = Utterances.read, iter([True, True, False]), list[float]()

    def flaky(self: Utterances, utterance: int) -> np.ndarray:
        if next(failures, False):
            raise UnavailableError("the store does not answer")
        return read(self, utterance)

    monkeypatch.setattr(Utterances, "read", flaky)
    monkeypatch.setattr(loader_module.time, "sleep", slept.append)
    found = _loader(shards)
    assert found.step_at(0)[0].waveform.equal(expected)
    assert slept == [0.5, 1.0] and not found.utterances.quarantined
    failures = iter([True] * 9)
    monkeypatch.setattr(loader_module, "STORAGE_PATIENCE_S", 0.0)
    with pytest.raises(UnavailableError, match="does not answer"):
        found.take()
    assert not found.utterances.quarantined
    found.close()


def test_shards_on_s3_give_the_batches_of_shards_on_disk(shards, s3):
    remote = s3.bucket()
    for entry in store.list_files(shards):
        store.publish_bytes(store.join(remote, entry.name), store.read_bytes(entry.uri))
    ours, theirs = _loader(shards), _loader(remote)
    for _ in range(3):
        (on_disk,), (on_s3,) = ours.take(), theirs.take()
        assert on_s3.waveform.equal(on_disk.waveform) and on_s3.slots == on_disk.slots
    ours.close()
    theirs.close()


def test_crops_are_whole_frames_within_the_window():
    recipe = training_recipe(codec__crop_s=0.5)
    assert clip_maker(recipe.model.encoder, recipe.codec).crop_samples == 8 * 120
    assert clip_maker(recipe.model.encoder, recipe.pretrain).crop_samples == recipe.model.framing.window_samples
    assert np.isclose(recipe.model.framing.window_samples / RATE, 1.2)
    exact = resolve("small_12hz", overrides=["codec.crop_s=4.56"])  # 57 frames; 56.99999999999999 in binary
    assert clip_maker(exact.model.encoder, exact.codec).crop_samples == 57 * exact.model.framing.hop_length


def test_only_a_loader_for_a_gpu_asks_for_page_locked_memory(shards, monkeypatch):
    asked, zeros = [], torch.zeros

    def noting(*shape, pin_memory=False, **options):
        asked.append(pin_memory)
        return zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", noting)
    recipe = training_recipe()
    never = recipe.pretrain.model_copy(update={"corpus_in_memory": "never"})
    for pinned in (False, True):
        device = torch.device("cuda" if pinned else "cpu")
        loader = make_loader(RankJob("", shards, recipe, None), never, device, print)
        loader.step_at(0)
        loader.close()
    assert asked == [False, True]


@pytest.mark.parametrize("pinned", [False, True])
def test_only_a_copy_from_page_locked_memory_is_not_waited_for(monkeypatch, pinned):
    batch, copied = Batch(torch.zeros(1, 4), torch.tensor([4]), ()), []
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda self: pinned)
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device, non_blocking: copied.append(non_blocking))
    batch.to(torch.device("cuda"))
    assert copied == [pinned]


def test_a_gpu_keeps_the_corpus_in_its_memory_when_it_fits(shards, monkeypatch, capsys):
    recipe, kept = training_recipe(), []
    monkeypatch.setattr(rank_module.ResidentCorpus, "load", lambda *_, **how: kept.append(how) or _Resident())
    for free, expected in ((1 << 34, ResidentLoader), (1 << 10, TrainLoader)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, free))
        job, device = RankJob("", shards, recipe, None), torch.device("cuda")
        assert type(make_loader(job, recipe.pretrain, device, print)) is expected
    assert kept == [{"loudness_dbfs": recipe.model.encoder.loudness_dbfs}]
    said = capsys.readouterr().out
    assert "keeps the corpus in the memory of cuda" in said and "reads from shards at every step" in said


class _Resident:
    size_bytes = 1
