"""A corpus in the memory of the training device, for GPUs that no loader can keep up with.

Speech is kept as int16, 115 MB per hour at 16 kHz: eleven hours are 1.3 GB. A batch is the same pure function of plan
and position as the ordinary loader's (workers/training/data/loader.py), and has the same bits for 16-bit speech at the
model's rate: loudness, crops, gains and speeds are as there. Speech that had to be resampled is rounded to 16 bits;
another speed is interpolated by cubics instead of filtered; noise is drawn by the device, from the same seeds but by
another generator.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from syllabary.model.encoder import loudness_gain
from syllabary.shards.errors import InputError
from syllabary.workers.cluster.memory import free_bytes
from syllabary.workers.training.data.clips import (
    LOW_PASS_TAPS,
    RATE_UNITS,
    Batch,
    ClipMaker,
    augmentation_draws,
    disturbance_of,
    speed_of,
)
from syllabary.workers.training.data.epoch_order import Slot, crop_start, mix
from syllabary.workers.training.data.loader import TrainLoader, Utterances

_READERS = 8
_MOST_OF_FREE = 0.5  # the rest is for the model and its activations
_FULL_SCALE = 32768.0


class ResidentCorpus:
    """Utterances side by side on a device.

    Attributes:
        device: where they are.
        lengths: int64 [num_utterances] on the CPU, samples of each; 0 where one could not be read.
    """

    def __init__(
        self,
        utterances: Iterable[NDArray[np.int16]],
        device: torch.device,
        *,
        sample_rate: int = 16_000,
        loudness_dbfs: float | None = None,
    ) -> None:
        parts = list(utterances)
        gains = [_gain(part, sample_rate, loudness_dbfs) for part in parts]
        self._gains = np.array(gains, np.float32)
        self.device = device
        self.lengths = np.array([len(part) for part in parts], np.int64)
        self._first = np.concatenate([[0], np.cumsum(self.lengths)])
        self._samples = torch.empty(int(self._first[-1]), dtype=torch.int16, device=device)
        for first, part in zip(self._first[:-1].tolist(), parts, strict=True):
            self._samples[first : first + len(part)] = torch.from_numpy(part)

    @classmethod
    def load(
        cls, utterances: Utterances, device: torch.device, *, loudness_dbfs: float | None = None
    ) -> ResidentCorpus:
        """All utterances of a split, each to be given at ``loudness_dbfs``; those that cannot be read stand in
        ``utterances.quarantined``.

        Raises:
            InputError: they take more than half of the memory that is free there.
            UnavailableError: the store is away.
        """
        require_room(utterances.num_samples * 2, device)

        def read(number: int) -> NDArray[np.int16]:
            samples = utterances.read_or_quarantine(number)
            return as_int16(np.empty(0, np.float32) if samples is None else samples)

        with ThreadPoolExecutor(_READERS) as pool:
            parts = pool.map(read, range(len(utterances)))
            return cls(parts, device, sample_rate=utterances.sample_rate, loudness_dbfs=loudness_dbfs)

    def of_at_least(self, num_samples: int) -> ResidentCorpus:
        """The utterances of that length or more, in the same memory: equal clips need no padding.

        Raises:
            InputError: there is none.
        """
        kept = self.lengths >= num_samples
        if not kept.any():
            raise InputError(
                "the longest utterance",
                value=int(self.lengths.max(initial=0)),
                expected=f"{num_samples} samples or more",
                fix="take shorter clips",
            )
        chosen = copy.copy(self)
        chosen.lengths, chosen._first = self.lengths[kept], self._first[:-1][kept]
        chosen._gains = self._gains[kept]
        return chosen

    @property
    def size_bytes(self) -> int:
        """Of the samples."""
        return self._samples.numel() * 2

    def batch(self, slots: Sequence[Slot], clips: ClipMaker) -> Batch:
        """The slots' crops, augmented, on the device; lengths on the CPU."""
        lengths = self.lengths[[slot.utterance for slot in slots]]
        seeds = [mix(slot.utterance) if clips.fixed_crops else slot.seed for slot in slots]
        speeds = np.array([speed_of(slot.seed, clips.augment) for slot in slots], np.int64)
        wanted = clips.crop_samples * speeds // RATE_UNITS
        crops = zip(seeds, lengths.tolist(), wanted.tolist(), strict=True)
        starts = np.array([crop_start(*crop) for crop in crops])
        taken = np.minimum(lengths, wanted)
        kept = np.minimum(np.rint(taken * RATE_UNITS / speeds).astype(np.int64), clips.crop_samples)
        first = self._first[[slot.utterance for slot in slots]] + starts
        padded = -(-int(kept.max()) // clips.hop_length) * clips.hop_length
        places = self._there(np.stack([first, taken, kept, speeds]))
        kept_there = places[2]
        if (speeds == RATE_UNITS).all():
            waveform = self._gathered(places[0], kept_there, padded)
        else:
            waveform = self._interpolated(places, padded)
        gains = self._there(self._gains[[slot.utterance for slot in slots]])
        waveform = waveform * gains[:, None]
        if clips.augment.gain_db or clips.augment.noise_snr_db is not None:
            waveform = self._augmented(waveform, kept_there, slots, clips)
        disturbed = self._disturbed(waveform, kept_there, slots, clips) if clips.augment.input_noise_share else None
        return Batch(waveform, torch.from_numpy(kept), tuple(slots), disturbed)

    def _there(self, values: NDArray[np.generic]) -> Tensor:
        """A few numbers on the device, without waiting for what it does."""
        here = torch.from_numpy(values)
        return here.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else here

    def _gathered(self, first: Tensor, kept: Tensor, padded: int) -> Tensor:
        place = torch.arange(padded, device=self.device)
        index = (first[:, None] + place).clamp_(max=self._samples.numel() - 1)
        return (self._samples[index].float() / _FULL_SCALE).masked_fill_(place >= kept[:, None], 0.0)

    def _interpolated(self, places: Tensor, padded: int) -> Tensor:
        """Clips at their speeds, by Catmull-Rom's cubic through the four samples around each place.

        ``places`` are first sample, samples taken, samples kept and speed of each clip [4, clips].
        """
        first, taken, kept, speeds = places.unbind()
        place = torch.arange(padded, device=self.device)
        at = place.double() * (speeds.double() / RATE_UNITS)[:, None]
        before = at.floor().long()
        t = (at - before).float()
        last = (taken - 1)[:, None]
        around = [(before + k).clamp(min=0).minimum(last) + first[:, None] for k in (-1, 0, 1, 2)]
        a, b, c, d = (self._samples[index].float() / _FULL_SCALE for index in around)
        cubic = b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
        return cubic.masked_fill_(place >= kept[:, None], 0.0)

    def _disturbed(self, waveform: Tensor, kept: Tensor, slots: Sequence[Slot], clips: ClipMaker) -> Tensor:
        """The clips with noise in the input of some, as the ordinary loader chooses them."""
        drawn = [disturbance_of(slot.seed, clips.augment) for slot in slots]
        factors = [0.0 if d is None else 10 ** (-d.snr_db / 20) for d in drawn]
        is_low = self._there(np.array([d is not None and d.is_low for d in drawn]))
        generator = torch.Generator(self.device).manual_seed(mix(slots[0].seed, 6) >> 1)
        white = torch.randn(waveform.shape, generator=generator, device=self.device)
        low = F.avg_pool1d(white[:, None], LOW_PASS_TAPS, 1, LOW_PASS_TAPS // 2)[:, 0] * LOW_PASS_TAPS**0.5
        rms = (waveform.square().sum(dim=1) / kept).sqrt() * self._there(np.array(factors, np.float32))
        valid = torch.arange(waveform.shape[1], device=self.device) < kept[:, None]
        return waveform + torch.where(is_low[:, None], low, white) * rms[:, None] * valid

    def _augmented(self, waveform: Tensor, kept: Tensor, slots: Sequence[Slot], clips: ClipMaker) -> Tensor:
        gains = np.array([augmentation_draws(slot.seed, clips.augment)[1] for slot in slots], np.float32)
        waveform = waveform * self._there(gains)[:, None]
        if clips.augment.noise_snr_db is not None:
            generator = torch.Generator(self.device).manual_seed(mix(slots[0].seed, 2) >> 1)
            noise = torch.randn(waveform.shape, generator=generator, device=self.device)
            rms = (waveform.square().sum(dim=1) / kept).sqrt() * 10 ** (-clips.augment.noise_snr_db / 20)
            valid = torch.arange(waveform.shape[1], device=self.device) < kept[:, None]
            waveform = waveform + noise * rms[:, None] * valid
        return waveform.clamp(-1, 1)


def _gain(part: NDArray[np.int16], sample_rate: int, loudness_dbfs: float | None) -> float:
    if loudness_dbfs is None or not len(part):
        return 1.0
    return loudness_gain(torch.from_numpy(part).float() / _FULL_SCALE, sample_rate, loudness_dbfs)


def as_int16(samples: NDArray[np.float32]) -> NDArray[np.int16]:
    """Samples in -1..1 as 16-bit ones, [num_samples]; exact for what was decoded from 16 bits."""
    return np.clip(np.rint(samples * _FULL_SCALE), -_FULL_SCALE, _FULL_SCALE - 1).astype(np.int16)


def require_room(size_bytes: int, device: torch.device) -> None:
    """Raise InputError when a corpus of that size takes more than half of what is free on the device."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_bytes()
    if size_bytes > _MOST_OF_FREE * free:
        raise InputError(
            f"the corpus takes {size_bytes / 2**30:.1f} GiB of the {free / 2**30:.1f} GiB free on {device.type}",
            expected=f"at most {_MOST_OF_FREE:.0%}",
            fix="train from shards, or on fewer of them",
        )


@dataclass
class ResidentLoader(TrainLoader):
    """Steps of a resident corpus: positions, plan and substitutes of :class:`TrainLoader`, and nothing to wait for."""

    corpus: ResidentCorpus = field(kw_only=True)

    def take(self) -> list[Batch]:
        """The next step, made now. Raises InputError: more utterances than allowed could not be read."""
        batches = self.step_at(self.position)
        self.position += self.share.positions_a_step
        return batches

    def _micro_batch(self, position: int) -> Batch:
        return self.corpus.batch([self._there(slot) for slot in self._wanted(position)], self.clips)

    def _there(self, slot: Slot) -> Slot:
        return next(other for other in self._candidates(slot) if self.corpus.lengths[other.utterance])
