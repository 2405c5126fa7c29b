"""The tokenizer's configuration and the rates and lengths that follow from it, for flows and recipes free of torch.

Every number is the paper's unless its field says otherwise (PAPER = "JEPA as a Neural Tokenizer", arXiv 2512.07168).
The classes live together, not beside their modules, because the modules import torch (decision 0002).

:class:`Framing` is the one place where samples, frames and tokens are counted, in pure integers. An utterance of
``num_samples`` has ``ceil(num_samples / hop_length)`` frames and is padded with zeros to a whole number of frames, so
every strided layer divides its length exactly. Deviation: the paper's odd strides lose and gain samples (PAPER section
stage 2); here decode gives back exactly ``num_samples``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Sized
from dataclasses import dataclass
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator


@dataclass(frozen=True)
class Span:
    """Frames ``start`` .. ``stop`` are computed together, ``keep_start`` .. ``keep_stop`` of them are kept."""

    start: int
    stop: int
    keep_start: int
    keep_stop: int


@dataclass(frozen=True)
class Framing:
    """Lengths of one encoder.

    Attributes:
        sample_rate: samples per second.
        strides: of the successive layers; their product is the hop length.
        window_s: the longest clip the encoder is trained on, in seconds.
    """

    sample_rate: int
    strides: tuple[int, ...]
    window_s: float = 15.0

    @property
    def hop_length(self) -> int:
        """Samples per frame."""
        return math.prod(self.strides)

    @property
    def frame_rate(self) -> Fraction:
        """Frames per second, exact."""
        return Fraction(self.sample_rate, self.hop_length)

    @property
    def window_frames(self) -> int:
        """Frames of the longest trained clip, padded to whole frames: 38 of 15 s at 2.5 frames per second."""
        return math.ceil(Fraction(str(self.window_s)) * self.frame_rate)

    @property
    def window_samples(self) -> int:
        """Samples in the window: a whole number of frames."""
        return self.window_frames * self.hop_length

    def num_frames(self, num_samples: int) -> int:
        """ceil(num_samples / hop_length).

        Raises:
            ValueError: num_samples is negative.
        """
        if num_samples < 0:
            raise ValueError(f"num_samples is {num_samples}; expected 0 or more")
        return -(-num_samples // self.hop_length)

    def padded_samples(self, num_samples: int) -> int:
        """num_samples rounded up to whole frames."""
        return self.num_frames(num_samples) * self.hop_length

    def stage_lengths(self, num_frames: int) -> tuple[int, ...]:
        """Length at the input and after each stride, from samples down to frames."""
        lengths = [num_frames * self.hop_length]
        for stride in self.strides:
            lengths.append(lengths[-1] // stride)
        return tuple(lengths)

    def encode_windows(self, num_frames: int) -> tuple[Span, ...]:
        """The windows in which a clip is encoded; their kept frames cover it once, in order.

        A clip no longer than the trained window is one window. A longer one is cut every ``window_frames`` frames; its
        last window ends with the clip and reaches back to a full window, of which only the new frames are kept. So
        nothing longer than the trained window is ever encoded, and every frame has the context of a whole window.
        """
        window = self.window_frames
        if num_frames <= window:
            return (Span(0, num_frames, 0, num_frames),)
        spans = []
        for keep_start in range(0, num_frames, window):
            keep_stop = min(keep_start + window, num_frames)
            spans.append(Span(keep_stop - window, keep_stop, keep_start, keep_stop))
        return tuple(spans)


def _odd(kernel: int) -> int:
    if kernel % 2 == 0:
        raise ValueError(f"kernel {kernel} is even and has no centre; use {kernel - 1} or {kernel + 1}")
    return kernel


Count = Annotated[int, Field(ge=1)]
Kernel = Annotated[int, Field(ge=1), AfterValidator(_odd)]


class Config(BaseModel):
    """Base of all model configurations: frozen, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _require_whole_overlap(where: str, n_fft: int, hop_length: int) -> None:
    """An STFT window must be whole hops, and its margins whole samples, for lengths to be exact."""
    if n_fft % hop_length or (n_fft - hop_length) % 2:
        raise ValueError(
            f"{where}.n_fft {n_fft} does not fit its hop {hop_length}; expected a multiple of the hop "
            "with an even difference; change one of them"
        )


class AttentionConfig(Config):
    """Local attention in one stage of a spectral half: the last ``num_layers`` of its blocks are each followed by a
    layer whose positions see ``reach`` neighbours on either side, by rotary positions. Being local, it meets no
    distance in a long clip that it has not met in training, and a decoder of chunks stays exact."""

    num_layers: int = Field(default=0, ge=0)
    num_heads: Count = 8
    reach: Count = 16


class _SpectralStages(Config):
    """What both spectral halves say of their stages."""

    n_fft: Count = 640
    kernel: Kernel = 7
    expansion: Count = 3
    attention_layers: tuple[Annotated[int, Field(ge=0)], ...] = ()
    attention_heads: Count = 8
    attention_reach: Count = 12

    def attention_of(self, stage: int) -> AttentionConfig:
        """The attention of a stage; ``attention_layers`` that is empty means none anywhere."""
        layers = self.attention_layers[stage] if self.attention_layers else 0
        return AttentionConfig(num_layers=layers, num_heads=self.attention_heads, reach=self.attention_reach)


def _require_attention_fits(
    where: str, stages: _SpectralStages, channels: Sequence[int], num_blocks: Sequence[int]
) -> None:
    """No stage has more attention layers than blocks, and heads divide the channels into even parts."""
    layers = stages.attention_layers
    if layers and len(layers) != len(channels):
        raise ValueError(
            f"{where}.attention_layers has {len(layers)} entries; expected one per stage ({len(channels)}) or none"
        )
    for layer_count, width, blocks in zip(layers, channels, num_blocks, strict=False):
        if layer_count > blocks:
            raise ValueError(
                f"{where}.attention_layers asks for {layer_count} layers in a stage of {blocks} blocks; expected at "
                "most one per block; lower it"
            )
        if layer_count and width % (2 * stages.attention_heads):
            raise ValueError(
                f"{where}: {width} channels do not divide into {stages.attention_heads} heads of an even size; change "
                "attention_heads or channels"
            )


def _require_equally_many(where: str, channels: Sized, strides: Sized, num_blocks: Sized) -> None:
    """One entry a stage in each of the three."""
    if not 1 <= len(channels) == len(strides) == len(num_blocks):
        raise ValueError(
            f"{where}: channels, strides and num_blocks have {len(channels)}, {len(strides)} and {len(num_blocks)} "
            "entries; expected equally many, one or more"
        )


def _require_even_heads(where: str, dim: int, num_heads: int, positions: str) -> None:
    """Rotary positions turn a head's channels in pairs."""
    if positions == "rotary" and dim % (2 * num_heads):
        raise ValueError(
            f"{where}: {dim} channels in {num_heads} heads are of an odd size, and rotary positions need pairs; change "
            "num_heads or positions"
        )


class DaamConfig(Config):
    """Density adaptive attention (PAPER section DAAM).

    ``init`` "paper" starts all components identical, which keeps them identical for ever; "spread" spaces their scales
    geometrically from 0.25 to 2 standard deviations so that gradients differ. (Offsets are absolute, not in standard
    deviations: spreading those instead puts every component far from a clip of small variance, and the gate is dead.)
    """

    enabled: bool = True
    num_gaussians: int = Field(default=4, ge=1)
    alpha_init: float = 0.05
    init: Literal["paper", "spread"] = "spread"


class ConformerConfig(Config):
    """One stack of Conformer layers; attention over at most the window, 16 heads in the paper."""

    num_layers: int = Field(default=8, ge=0)
    num_heads: int = Field(default=16, ge=1)
    feed_forward_mult: int = Field(default=4, ge=1)
    conv_kernel: Kernel = 31
    dropout: float = Field(default=0.1, ge=0, lt=1)
    positions: Literal["none", "rotary"] = "none"
    reach: int | None = Field(default=None, ge=1, description="frames on either side attended to; None: all")


class WaveformFrontEndConfig(Config):
    """Strided convolutions from samples to frames (PAPER section encoder): ``channels`` has one entry more than
    ``strides``; residual block i has dilations 1, 3^i, 5^i."""

    kind: Literal["waveform"] = "waveform"
    channels: tuple[Count, ...] = (64, 128, 256, 384, 512, 512)
    strides: tuple[Count, ...] = (8, 8, 5, 5, 6)
    input_kernel: Kernel = 7
    num_residual_blocks: int = Field(default=8, ge=1)
    residual_kernel: Kernel = 3

    @model_validator(mode="after")
    def _channels_fit_strides(self) -> WaveformFrontEndConfig:
        if len(self.channels) != len(self.strides) + 1:
            raise ValueError(
                f"channels has {len(self.channels)} entries; expected one more than strides "
                f"({len(self.strides) + 1}); give both"
            )
        return self


class SpectralFrontEndConfig(_SpectralStages):
    """Beyond the paper: log-magnitude STFT at 50 Hz, ConvNeXt blocks, strided convolutions to 12.5 and 2.5 Hz.

    ``strides`` [0] is the STFT hop in samples, the others stride the frames; their product is the hop length. Most
    parameters are at the slow rates, where they cost little.
    """

    kind: Literal["spectral"] = "spectral"
    channels: tuple[Count, ...] = (256, 384, 512)
    strides: tuple[Count, ...] = (320, 4, 5)
    num_blocks: tuple[Count, ...] = (3, 6, 2)

    @model_validator(mode="after")
    def _stages_fit(self) -> SpectralFrontEndConfig:
        _require_equally_many("encoder.front_end", self.channels, self.strides, self.num_blocks)
        _require_whole_overlap("encoder.front_end", self.n_fft, self.strides[0])
        _require_attention_fits("encoder.front_end", self, self.channels, self.num_blocks)
        return self


class EncoderConfig(Config):
    """Samples to latents: front end, 1x1 projection to ``latent_dim``, Conformer layers at ``latent_dim`` channels."""

    sample_rate: int = Field(default=24_000, gt=0)
    window_s: float = Field(default=15.0, gt=0)
    latent_dim: int = Field(default=128, ge=1)
    front_end: WaveformFrontEndConfig | SpectralFrontEndConfig = Field(
        default_factory=WaveformFrontEndConfig, discriminator="kind"
    )
    conformer: ConformerConfig = ConformerConfig()
    daam: DaamConfig = DaamConfig()
    precision: Literal["fp32", "bf16"] = "fp32"
    loudness_dbfs: float = Field(
        default=-24.0, ge=-60, le=-6, description="RMS to which speech is brought before it is encoded"
    )

    @property
    def framing(self) -> Framing:
        """All rates and lengths that follow from the strides."""
        return Framing(self.sample_rate, self.front_end.strides, self.window_s)

    def untrained_dilations(self, longest_clip_s: float) -> tuple[int, ...]:
        """Dilations of the residual taps that see nothing of any clip of ``longest_clip_s`` in training, and so get no
        gradient, but would come alive in a clip as long as the window."""
        front_end, framing = self.front_end, self.framing
        if isinstance(front_end, SpectralFrontEndConfig) or longest_clip_s >= self.window_s:
            return ()
        frames = max(1, math.floor(Fraction(str(longest_clip_s)) * framing.frame_rate))
        trained, encoded = (framing.stage_lengths(n)[1:] for n in (frames, framing.window_frames))
        dilations = {base**i for base in (3, 5) for i in range(front_end.num_residual_blocks)}
        return tuple(sorted(d for d in dilations if any(t <= d < e for t, e in zip(trained, encoded, strict=True))))

    @model_validator(mode="after")
    def _heads_divide(self) -> EncoderConfig:
        if self.latent_dim % self.conformer.num_heads:
            raise ValueError(
                f"latent_dim {self.latent_dim} is not a multiple of conformer.num_heads "
                f"{self.conformer.num_heads}; change one of them"
            )
        _require_even_heads("conformer", self.latent_dim, self.conformer.num_heads, self.conformer.positions)
        return self


class PredictorConfig(Config):
    """JEPA predictor: latent_dim -> hidden_dim -> latent_dim with a Conformer stack after each of two GELUs."""

    hidden_dim: Count = 256
    num_layers_per_stack: int = Field(default=1, ge=1)
    num_heads: Count = 16
    feed_forward_mult: Count = 4
    conv_kernel: Kernel = 31
    dropout: float = Field(default=0.1, ge=0, lt=1)
    positions: Literal["none", "rotary"] = "none"
    reach: int | None = Field(default=None, ge=1, description="frames on either side attended to; None: all")

    @model_validator(mode="after")
    def _heads_divide(self) -> PredictorConfig:
        if self.hidden_dim % self.num_heads:
            raise ValueError(
                f"predictor.hidden_dim {self.hidden_dim} is not a multiple of its num_heads {self.num_heads}; "
                "change one of them"
            )
        _require_even_heads("predictor", self.hidden_dim, self.num_heads, self.positions)
        return self


class JepaConfig(Config):
    """Masked prediction in latent space (PAPER section stage 1)."""

    predictor: PredictorConfig = PredictorConfig()
    ema_decay: float = Field(default=0.996, ge=0, le=1)
    mask_ratio: float = Field(default=0.5, gt=0, lt=1)
    min_span: int = Field(default=2, ge=1)
    max_span_fraction: float = Field(default=0.25, gt=0, le=1)
    mask_at: Literal["latent", "features", "input"] = "latent"
    variance_weight: float = Field(default=0.0, ge=0)
    covariance_weight: float = Field(default=0.0, ge=0)


class FsqConfig(Config):
    """Finite scalar quantization and packing: every latent dim has ``levels`` values, ``group_size`` dims per token."""

    levels: int = Field(default=4, ge=2, le=256)
    group_size: int = Field(default=7, ge=1)
    digit_order: Literal["first_most_significant", "first_least_significant"] = "first_most_significant"

    @model_validator(mode="after")
    def _fits_uint16(self) -> FsqConfig:
        if self.levels**self.group_size > 1 << 16:
            largest = int(math.log(1 << 16, self.levels) + 1e-9)
            raise ValueError(
                f"levels {self.levels} ** group_size {self.group_size} exceeds 65,536, the range of a "
                f"uint16 token; use group_size at most {largest}"
            )
        return self


class HifiganDecoderConfig(Config):
    """Transposed convolutions with multi-receptive-field fusion (PAPER section stage 2). ``channels[0]`` is the width
    after the 1x1 input conv; channels and strides mirror the encoder's (the text's ladder 512, 384, 256, 128, 64, 64
    does not give the paper's 69.2 M parameters); one dilation tuple for each MRF kernel."""

    kind: Literal["hifigan"] = "hifigan"
    channels: tuple[Count, ...] = (512, 512, 384, 256, 128, 64)
    strides: tuple[Count, ...] = (6, 5, 5, 8, 8)
    mrf_kernels: tuple[Kernel, ...] = Field(default=(3, 7, 11), min_length=1)
    mrf_dilations: tuple[tuple[Count, ...], ...] = ((1, 3, 5), (1, 3, 5), (1, 3, 5))
    output_kernel: Kernel = 7
    daam: bool = False

    @model_validator(mode="after")
    def _lists_fit(self) -> HifiganDecoderConfig:
        if len(self.channels) != len(self.strides) + 1:
            raise ValueError(
                f"decoder.channels has {len(self.channels)} entries; expected one more than strides "
                f"({len(self.strides) + 1}); give both"
            )
        if len(self.mrf_kernels) != len(self.mrf_dilations):
            raise ValueError(
                f"decoder.mrf_kernels has {len(self.mrf_kernels)} entries and mrf_dilations "
                f"{len(self.mrf_dilations)}; expected equally many"
            )
        return self


class IstftDecoderConfig(_SpectralStages):
    """Beyond the paper: frames upsampled to the STFT rate, ConvNeXt blocks, magnitude and phase, inverse STFT.

    ``strides`` upsample from frames to STFT frames; the last one is the STFT hop in samples. All stages but the last
    are the trunk, which the bottleneck phase of stage 2 trains; the last stage and the head are the vocoder.
    ``formant_gain`` is how far formants stand out more than they were learned, when tokens are decoded
    (model/spectral/formants.py); 0 leaves them alone.
    """

    kind: Literal["istft"] = "istft"
    formant_gain: float = Field(default=0.0, ge=0, le=2)
    channels: tuple[Count, ...] = (512, 512, 384, 384)
    strides: tuple[Count, ...] = (5, 4, 2, 160)
    num_blocks: tuple[Count, ...] = (2, 4, 4, 6)

    @model_validator(mode="after")
    def _stages_fit(self) -> IstftDecoderConfig:
        _require_equally_many("decoder", self.channels, self.strides, self.num_blocks)
        if len(self.channels) < 2:
            raise ValueError("decoder has one stage; expected two or more: a trunk and a vocoder; add a stage")
        _require_whole_overlap("decoder", self.n_fft, self.strides[-1])
        _require_attention_fits("decoder", self, self.channels, self.num_blocks)
        return self


class DiscriminatorConfig(Config):
    """HiFi-GAN's multi-period (MPD) and multi-scale (MSD) discriminators; ``channel_divisor`` makes them small.

    Beyond the paper ``spectral_ffts`` adds one judge of the complex spectrum for each FFT size (MRSD), whose magnitudes
    are raised to ``spectral_power``: below 1 it lets quiet bands count. ``unit_gain`` starts all judges so that speech
    at -24 dBFS reaches their scores (model/layers.py), where torch's default lets it fade to a hundredth.
    """

    periods: tuple[Count, ...] = (2, 3, 5, 7, 11)
    num_scales: int = Field(default=3, ge=0)
    spectral_ffts: tuple[Annotated[int, Field(ge=16, multiple_of=4)], ...] = ()
    spectral_power: float = Field(default=1.0, gt=0, le=1)
    unit_gain: bool = False
    channel_divisor: int = Field(default=1, ge=1)

    @model_validator(mode="after")
    def _some_judge_of_whole_groups(self) -> DiscriminatorConfig:
        if not self.periods and not self.num_scales and not self.spectral_ffts:
            raise ValueError(
                "discriminator has no periods, no spectral_ffts and num_scales 0; expected one sub-discriminator"
            )
        if self.channel_divisor & (self.channel_divisor - 1):
            raise ValueError(
                f"discriminator.channel_divisor is {self.channel_divisor}; expected a power of two, by which grouped "
                "convolutions can be divided"
            )
        return self


class CodecLossConfig(Config):
    """Stage-2 losses and their weights (PAPER section stage 2).

    Beyond the paper: ``mel_weight`` of the L1 between log-mel spectra of the windows ``mel_ffts`` with ``mel_bands``
    bands, and ``spread_weight`` of how far each latent dim is from mean 0 and, between clips at one place, from
    standard deviation 1. A weight of 0 leaves a term out. ``relative_matching`` divides the distance of two hidden maps
    by the mean magnitude of the real one, so that the weight means the same whatever the judges' scale.
    """

    stft_ffts: tuple[Annotated[int, Field(ge=4, multiple_of=4)], ...] = Field(
        default=(2048, 1024, 512, 256, 128), min_length=1
    )
    mel_ffts: tuple[Annotated[int, Field(ge=64, multiple_of=4)], ...] = Field(
        default=(2048, 1024, 512, 256, 128), min_length=1
    )
    mel_bands: tuple[Count, ...] = (128, 100, 80, 40, 20)
    waveform_weight: float = Field(default=1.0, ge=0)
    mrstft_weight: float = Field(default=2.0, ge=0)
    mel_weight: float = Field(default=0.0, ge=0)
    adversarial_weight: float = Field(default=0.1, ge=0)
    feature_matching_weight: float = Field(default=0.1, ge=0)
    relative_matching: bool = False
    spread_weight: float = Field(default=0.0, ge=0)
    magnitude_term: Literal["l1", "spectral_convergence"] = "l1"

    @model_validator(mode="after")
    def _bands_for_each_window(self) -> CodecLossConfig:
        if len(self.mel_ffts) != len(self.mel_bands):
            raise ValueError(
                f"losses.mel_ffts has {len(self.mel_ffts)} entries and mel_bands {len(self.mel_bands)}; expected "
                "equally many"
            )
        return self


class ModelConfig(Config):
    """Everything that makes a tokenizer: encoder, JEPA objective, FSQ, decoder, discriminators, losses."""

    encoder: EncoderConfig = EncoderConfig()
    jepa: JepaConfig = JepaConfig()
    fsq: FsqConfig = FsqConfig()
    decoder: HifiganDecoderConfig | IstftDecoderConfig = Field(
        default_factory=HifiganDecoderConfig, discriminator="kind"
    )
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    losses: CodecLossConfig = CodecLossConfig()

    @model_validator(mode="after")
    def _decoder_mirrors_encoder(self) -> ModelConfig:
        up, down = math.prod(self.decoder.strides), math.prod(self.encoder.front_end.strides)
        if up != down:
            raise ValueError(
                f"decoder.strides multiply to {up} and encoder.front_end.strides to {down}; expected the "
                "same hop length; change one of them"
            )
        return self

    @property
    def framing(self) -> Framing:
        """All rates and lengths that follow from the strides."""
        return self.encoder.framing
