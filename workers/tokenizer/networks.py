"""Encoder and generator as the tokenizer runs them: fused where the processor allows it, by one arithmetic, in chunks.

:func:`canonical_arithmetic` is what the promise of equal tokens needs, whatever the process around has set. Decoding
goes chunk by chunk, each with the frames on either side that its samples depend on (:func:`decoded_chunks`): this is
how everything is decoded, a whole utterance too, so that memory is bounded and a stream is the same sound.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar, cast

import numpy as np
import soxr
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from syllabary.model.codec import AnyGenerator, make_generator
from syllabary.model.config import ModelConfig
from syllabary.model.cpu.accelerate import FusedGenerator, accelerate_inference
from syllabary.model.encoder import Encoder
from syllabary.model.layers import full_precision
from syllabary.shards.audio import RESAMPLING_QUALITY
from syllabary.shards.errors import ConfigError
from syllabary.workers.control.freed_memory import give_back_freed_memory

M = TypeVar("M", bound=nn.Module)


def build_encoder(config: ModelConfig, state: dict[str, Tensor], device: torch.device) -> Encoder:
    """The encoder with its weights; on a CPU with oneDNN the waveform front end is replaced by its fused form.

    A spectral front end stays as it is: its cost is in matrix products that need no fusing. ``state`` is emptied, so
    that weights are not held beside their packed form.

    Raises:
        ConfigError: the encoder computes in bf16, which this CPU does not.
    """
    if config.encoder.precision == "bf16":
        _require_bf16(device)
    encoder = _ready(lambda: Encoder(config.encoder), state, device)
    dtype = torch.bfloat16 if config.encoder.precision == "bf16" else torch.float32
    accelerated = accelerate_inference(encoder, config.framing, dtype)
    give_back_freed_memory()
    return cast(Encoder, accelerated)


def build_generator(
    config: ModelConfig, state: dict[str, Tensor], device: torch.device
) -> AnyGenerator | FusedGenerator:
    """The generator with its weights; a HiFi-GAN is replaced by its fused form on a CPU with oneDNN.

    ``state`` is emptied, so that weights are not held beside their packed form.
    """
    generator = _ready(lambda: make_generator(config), state, device)
    accelerated = accelerate_inference(generator, config.framing, torch.float32)
    give_back_freed_memory()
    return cast("AnyGenerator | FusedGenerator", accelerated)


def _ready(make: Callable[[], M], state: dict[str, Tensor], device: torch.device) -> M:
    """The module around the tensors of ``state``, without copies of them."""
    with torch.device("meta"):
        module = make()
    if next(module.buffers(), None) is not None:  # STFT windows, which no state holds, must be real
        module = make()
    module.load_state_dict(state, assign=True)
    state.clear()
    return module.requires_grad_(False).eval().to(device)


def computes_bf16(device: torch.device) -> bool:
    """Whether convolutions can run in bf16 there; a CPU needs instructions for it (AVX-512 BF16 or AVX-NE-CONVERT)."""
    return device.type != "cpu" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _require_bf16(device: torch.device) -> None:
    if not computes_bf16(device):
        raise ConfigError(
            "this CPU does not compute in bf16",
            value="encoder.precision=bf16",
            expected="AVX-512 BF16 or AVX-NE-CONVERT",
            fix="use such a CPU or a GPU; tokens of fp32 would be another encoder's",
        )


_backends: Any = torch.backends
_Setting = tuple[Any, str, Any]


class _MatmulPrecision:
    """torch's one switch for the precision of matrix products, as an attribute like the others."""

    @property
    def value(self) -> str:
        """Of the process."""
        return torch.get_float32_matmul_precision()

    @value.setter
    def value(self, precision: str) -> None:
        torch.set_float32_matmul_precision(precision)


def _full_fp32_settings() -> tuple[_Setting, ...]:
    """Full fp32: torch.set_float32_matmul_precision lets matrix products round to TF32 or bf16, on a CPU too.

    Which switches there are follows from torch's version; it refuses the older ones beside the newer.
    """
    if hasattr(_backends.mkldnn, "matmul"):  # since 2.9
        owners = (_backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.cuda.matmul, _backends.cudnn.conv)
        return tuple((owner, "fp32_precision", "ieee") for owner in owners)
    return ((_MatmulPrecision(), "value", "highest"), (_backends.cudnn, "allow_tf32", False))


_SETTINGS: tuple[_Setting, ...] = (
    *_full_fp32_settings(),
    (_backends.cudnn, "benchmark", False),
    (_backends.cudnn, "deterministic", True),
)
_lock = threading.Lock()
_users, _before = 0, list[Any]()


@contextlib.contextmanager
def canonical_arithmetic(device: torch.device) -> Iterator[None]:
    """One thread, no gradient, no autocast, full fp32, no algorithm search, for this thread's block."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with _full_fp32(), torch.inference_mode(), full_precision(device):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _full_fp32() -> Iterator[None]:
    """The settings belong to the process: the first of several threads makes them, the last one takes them back."""
    global _users
    with _lock:
        if _users == 0:
            _before[:] = [getattr(owner, name) for owner, name, _ in _SETTINGS]
            for owner, name, value in _SETTINGS:
                setattr(owner, name, value)
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                for (owner, name, _), value in zip(_SETTINGS, _before, strict=True):
                    setattr(owner, name, value)


Values = Float[Tensor, "1 dim frames"]


def decoded_chunks(
    pieces: Iterable[Values], generator: AnyGenerator | FusedGenerator, chunk_frames: int
) -> Iterator[Float[Tensor, "samples"]]:
    """The waveform of values that come in pieces of any number of frames, ``chunk_frames`` at a time.

    A chunk is computed as soon as the ``generator.context_frames`` frames behind it are there, with as many before it:
    as far as a sample depends on, so that chunks join without a seam. DAAM gates in a generator see a whole chunk; such
    chunks are faded into one another over one frame.
    """
    hop, context = generator.hop_length, generator.context_frames
    fade = 0 if generator.is_local else hop
    source, base, start = iter(pieces), 0, 0
    held: Tensor | None = None
    faded_from = torch.zeros(0)
    while True:
        held = _filled(held, source, start + chunk_frames + context - base)
        if held is None or start >= base + held.shape[-1]:
            return
        received = base + held.shape[-1]
        keep_stop, first = min(start + chunk_frames, received), max(0, start - context)
        part = held[..., first - base : min(start + chunk_frames + context, received) - base].contiguous()
        waveform = generator(part, torch.tensor([part.shape[-1] * hop]))[0].cpu()
        chunk = waveform[(start - first) * hop : (keep_stop - first) * hop].clone()
        if fade and start:
            _fade_in(chunk[:fade], faded_from, chunk[:fade].clone())
        faded_from = waveform[(keep_stop - first) * hop :][:fade]
        yield chunk
        start = keep_stop
        dropped = max(0, start - context - base)
        held, base = held[..., dropped:].clone(), base + dropped


def _filled(held: Tensor | None, source: Iterator[Tensor], wanted: int) -> Tensor | None:
    """``held`` with pieces of the source behind it, until there are as many frames as wanted or no more come."""
    parts = [] if held is None else [held]
    count = sum(part.shape[-1] for part in parts)
    while count < wanted and (piece := next(source, None)) is not None:
        parts.append(piece)
        count += piece.shape[-1]
    return torch.cat(parts, dim=-1) if parts else None


def _fade_in(out: Float[Tensor, "samples"], old: Float[Tensor, "samples"], new: Float[Tensor, "samples"]) -> None:
    """Fill ``out`` with a linear fade from ``old`` to ``new``; all of one length."""
    share = torch.linspace(0, 1, len(out))
    out.copy_(old[: len(out)] * (1 - share) + new[: len(out)] * share)


def resampled_chunks(
    chunks: Iterable[NDArray[np.float32]], from_rate: int, to_rate: int
) -> Iterator[NDArray[np.float32]]:
    """The chunks of a waveform at another rate, as ``syllabary.shards.audio.resample`` makes them of the whole."""
    if from_rate == to_rate:
        yield from chunks
        return
    stream = soxr.ResampleStream(from_rate, to_rate, 1, dtype="float32", quality=RESAMPLING_QUALITY)
    for chunk in chunks:
        yield stream.resample_chunk(chunk)
    yield stream.resample_chunk(np.zeros(0, np.float32), last=True)


def cut_to(chunks: Iterable[NDArray[np.float32]], num_samples: int | None) -> Iterator[NDArray[np.float32]]:
    """Chunks until there are ``num_samples`` (None for all); what is missing then is zeros, as soxr may give one less.

    All chunks are asked for, so that whoever makes them comes to an end.
    """
    given = 0
    for chunk in chunks:
        kept = chunk if num_samples is None else chunk[: max(0, num_samples - given)]
        given += len(kept)
        if len(kept):
            yield kept
    if num_samples is not None and given < num_samples:
        yield np.zeros(num_samples - given, np.float32)
