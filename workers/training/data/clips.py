"""Make training clips of utterances: one loudness, a crop, seeded augmentation; and batches of clips."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from syllabary.model.encoder import loudness_gain
from syllabary.workers.recipes.recipe import AugmentConfig
from syllabary.workers.training.data.epoch_order import Slot, crop_start, mix

NO_AUGMENTATION = AugmentConfig()
RATE_UNITS = 1000  # speeds are drawn in thousandths, as a ratio of whole rates
LOW_PASS_TAPS = 9
_LOW_PASS = np.full(LOW_PASS_TAPS, LOW_PASS_TAPS**-0.5, dtype=np.float32)  # of low noise; keeps its variance at 1
Samples = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """Clips of one micro-batch.

    Attributes:
        waveform: float32 [batch, samples], zero beyond each clip's end; samples are whole frames of the longest clip.
        num_samples: int64 [batch] on the CPU, valid samples of each clip; lengths decide shapes.
        slots: where each clip comes from, and its seed.
        disturbed: the waveform with noise that is to be left out of what is restored; None where there is none.
    """

    waveform: Tensor
    num_samples: Tensor
    slots: tuple[Slot, ...]
    disturbed: Tensor | None = None

    @property
    def heard(self) -> Tensor:
        """What the encoder is given: the disturbed waveform where there is one."""
        return self.waveform if self.disturbed is None else self.disturbed

    def to(self, device: torch.device) -> Batch:
        """The same batch with its waveforms on another device; lengths stay on the CPU.

        Only a copy from page-locked memory goes on beside other work; of any other one the end is awaited.
        """

        def there(waveform: Tensor) -> Tensor:
            return waveform.to(device, non_blocking=waveform.is_pinned())

        disturbed = None if self.disturbed is None else there(self.disturbed)
        return Batch(there(self.waveform), self.num_samples, self.slots, disturbed)


@dataclass(frozen=True)
class ClipMaker:
    """Makes a clip of a slot: at most ``crop_samples``, whole frames of ``hop_length`` once in a batch.

    Attributes:
        loudness_dbfs: where the whole utterance's level is put before anything else; None leaves it.
        fixed_crops: takes the same crop of an utterance in every epoch (for cached latents and validation).
        pinned: makes batches in page-locked memory, which a GPU copies from while it computes.
    """

    crop_samples: int
    hop_length: int
    augment: AugmentConfig = NO_AUGMENTATION
    fixed_crops: bool = False
    sample_rate: int = 16_000
    loudness_dbfs: float | None = None
    pinned: bool = False

    def clip(self, samples: Samples, slot: Slot) -> Samples:
        """The slot's crop of its utterance, augmented: float32 [at most crop_samples]."""
        seed = mix(slot.utterance) if self.fixed_crops else slot.seed
        speed = speed_of(slot.seed, self.augment)
        wanted = self.crop_samples * speed // RATE_UNITS
        start = crop_start(seed, len(samples), wanted)
        crop = self._gain(samples) * samples[start : start + wanted]
        if speed != RATE_UNITS:
            crop = soxr.resample(crop, speed, RATE_UNITS)[: self.crop_samples]
        return self._augmented(crop, slot.seed)

    def _gain(self, samples: Samples) -> np.float32:
        if self.loudness_dbfs is None:
            return np.float32(1)
        whole = torch.from_numpy(np.ascontiguousarray(samples))
        return np.float32(loudness_gain(whole, self.sample_rate, self.loudness_dbfs))

    def _augmented(self, clip: Samples, seed: int) -> Samples:
        if not self.augment.gain_db and self.augment.noise_snr_db is None:
            return clip.astype(np.float32)
        generator, gain = augmentation_draws(seed, self.augment)
        clip = clip * gain
        if self.augment.noise_snr_db is not None:
            rms = float(np.sqrt(np.mean(np.square(clip)))) * 10 ** (-self.augment.noise_snr_db / 20)
            clip = clip + generator.standard_normal(len(clip)).astype(np.float32) * np.float32(rms)
        return np.clip(clip, -1, 1).astype(np.float32)

    def _disturbed(self, clip: Samples, seed: int) -> Samples:
        """The clip with noise for the encoder alone, or the clip itself."""
        drawn = disturbance_of(seed, self.augment)
        if drawn is None:
            return clip
        noise = drawn.generator.standard_normal(len(clip)).astype(np.float32)
        if drawn.is_low:
            noise = np.convolve(noise, _LOW_PASS, mode="same")[: len(clip)]
        rms = float(np.sqrt(np.mean(np.square(clip)))) * 10 ** (-drawn.snr_db / 20)
        return clip + noise * np.float32(rms)

    def batch(self, clips: list[Samples], slots: list[Slot]) -> Batch:
        """Clips side by side, padded with zeros to whole frames of the longest."""
        disturbed = None
        if self.augment.input_noise_share:
            noisy = [self._disturbed(clip, slot.seed) for clip, slot in zip(clips, slots, strict=True)]
            disturbed = self._padded(noisy)
        lengths = torch.tensor([len(clip) for clip in clips])
        return Batch(self._padded(clips), lengths, tuple(slots), disturbed)

    def _padded(self, clips: list[Samples]) -> Tensor:
        longest = max(len(clip) for clip in clips)
        padded = -(-longest // self.hop_length) * self.hop_length
        waveform = torch.zeros(len(clips), padded, pin_memory=self.pinned)
        for row, clip in zip(waveform, clips, strict=True):
            row[: len(clip)] = torch.from_numpy(np.ascontiguousarray(clip))
        return waveform


def augmentation_draws(seed: int, augment: AugmentConfig) -> tuple[np.random.Generator, np.float32]:
    """A sample's gain as a factor, and the generator that goes on to draw its noise."""
    generator = np.random.Generator(np.random.Philox(mix(seed, 2)))
    gain_db = generator.uniform(-augment.gain_db, augment.gain_db)
    return generator, np.float32(10 ** (gain_db / 20))


def speed_of(seed: int, augment: AugmentConfig) -> int:
    """Samples of the utterance for ``RATE_UNITS`` of the sample's clip."""
    most = augment.speed_percent
    generator = np.random.Generator(np.random.Philox(mix(seed, 5)))
    if not most or generator.random() < 0.5:
        return RATE_UNITS
    return round(RATE_UNITS * (1 + generator.uniform(-most, most) / 100))


@dataclass(frozen=True)
class Disturbance:
    """Noise for the input of one clip: low or white, so far below the speech; ``generator`` goes on to draw it."""

    is_low: bool
    snr_db: float
    generator: np.random.Generator


def disturbance_of(seed: int, augment: AugmentConfig) -> Disturbance | None:
    """The noise of a sample's input, or None for the clips that get none."""
    generator = np.random.Generator(np.random.Philox(mix(seed, 6)))
    if generator.random() >= augment.input_noise_share:
        return None
    return Disturbance(bool(generator.random() < 0.5), float(generator.uniform(*augment.input_noise_snr_db)), generator)
