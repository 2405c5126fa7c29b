"""The tokenizer as users import it: waveforms to tokens and back.

    tokenizer = Tokenizer.load("s3://bucket/tokenizer")
    encoded = tokenizer.encode(wav, 16_000)                     # encoded.tokens: uint16 [num_frames, num_groups]
    wav = tokenizer.decode(encoded.tokens, encoded.num_samples, 16_000)

Canonical by construction: every utterance is encoded alone, at its own length, by one thread. Kernels sum in another
order at another thread count, batch size or padded length (measured: both the convolutions and the matrix products
do), so none of these may vary. A list is encoded in parallel, one thread an utterance, as many at a time as torch has
threads: on a CPU that is also the fastest way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar, overload

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from model.config import ModelConfig
from model.framing import Framing, Span
from model.fsq import Fsq
from shards.audio import resample, resampled_length
from shards.errors import InputError, explain
from shards.packing import Packing
from workers.inference import build_encoder, build_generator
from workers.rates import packing_of
from workers.tokenizer_files import Digests, TokenizerFiles, load_tokenizer, save_tokenizer

__all__ = ["Encoded", "Tokenizer", "save_tokenizer"]

_PEAK_LIMIT = 16.0
_RATE_RANGE = (1_000, 768_000)
T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True)
class Encoded:
    """Tokens of one utterance.

    Attributes:
        tokens: uint16 [num_frames, num_groups].
        salience: uint8 [num_frames]: how much the last DAAM gate lifts a frame (0 without DAAM).
        margin: smallest distance of any value to a quantization edge, in units of the tanh range; a tokenizer run on
            another kind of processor can differ only where it is about 1e-5 or less.
        num_samples: of the utterance, at ``sample_rate``.
        sample_rate: of the utterance, Hz.
    """

    tokens: UInt16[np.ndarray, "frames groups"]
    salience: UInt8[np.ndarray, "frames"]
    margin: float
    num_samples: int
    sample_rate: int


@dataclass(frozen=True)
class _Frames:
    """Frames of one window: level_indices [dim, frames], density [frames], margin [frames], latents [dim, frames]."""

    level_indices: Tensor
    density: Tensor
    margin: Tensor
    latents: Tensor


class Tokenizer:
    """A tokenizer directory in memory. Build it with :meth:`load`."""

    def __init__(self, files: TokenizerFiles, device: str = "cpu") -> None:
        self.config: ModelConfig = files.config
        self.framing: Framing = files.config.framing
        self.packing: Packing = packing_of(files.config)
        self.digests: Digests = files.digests
        self.device = _checked_device(device)
        self._encoder = build_encoder(files.config, files.encoder_state, self.device)
        self._fsq = Fsq(files.config.fsq, files.config.encoder.latent_dim)
        self._generator = None
        if files.decoder_state is not None:
            self._generator = build_generator(files.config, files.decoder_state, self.device)

    @classmethod
    def load(cls, uri: str, *, decoder: bool = True, device: str = "cpu") -> Tokenizer:
        """Read, check and build the tokenizer at ``uri``; ``decoder=False`` reads only what encoding needs.

        Raises:
            NotFoundError, FormatError, VersionError, DamageError: see ``workers.tokenizer_files.load_tokenizer``.
        """
        return cls(load_tokenizer(uri, decoder=decoder), device)

    @property
    def encoder_digest(self) -> str:
        """sha256 of what fixes the tokens."""
        return self.digests.encoder

    @property
    def decoder_digest(self) -> str:
        """sha256 of what fixes the sound of given tokens."""
        return self.digests.decoder

    @property
    def sample_rate(self) -> int:
        """The model's own sample rate, Hz."""
        return self.config.encoder.sample_rate

    def num_frames(self, num_samples: int, sample_rate: int) -> int:
        """Frames of an utterance: ceil(ceil(num_samples * model rate / sample_rate) / hop_length)."""
        return self.framing.num_frames(resampled_length(num_samples, sample_rate, self.sample_rate))

    @overload
    def encode(self, wav: list[NDArray[np.floating]], sample_rate: int) -> list[Encoded]: ...
    @overload
    def encode(self, wav: NDArray[np.floating], sample_rate: int) -> Encoded: ...
    def encode(
        self, wav: NDArray[np.floating] | list[NDArray[np.floating]], sample_rate: int
    ) -> Encoded | list[Encoded]:
        """Tokens of one waveform, or of a list of them.

        Args:
            wav: floating samples in -1..1, [num_samples], mono; or a list of such.
            sample_rate: of ``wav``, Hz; other rates than the model's are resampled.

        Raises:
            InputError (a ValueError): not floating, not mono, empty, NaN or inf, far out of range, or a bad rate.
        """
        if isinstance(wav, list):
            return self._parallel(lambda one: self._encode(one, sample_rate), wav)
        return self._encode(wav, sample_rate)

    def latents(self, wav: NDArray[np.floating], sample_rate: int) -> Float32[np.ndarray, "dim frames"]:
        """The encoder's output before quantization, float32 [latent_dim, num_frames], for uses other than tokens."""
        _, windows = self._encode_windows(wav, sample_rate)
        return torch.cat([w.latents for w in windows], dim=1).cpu().numpy()

    def salience(self, wav: NDArray[np.floating], sample_rate: int) -> Float32[np.ndarray, "frames"]:
        """How much the last DAAM gate lifts each frame, g / (1 + g) of its density g: float32 [num_frames] in 0..1.

        Raises:
            InputError: the tokenizer has no DAAM gate, or as for :meth:`encode`.
        """
        if not self.config.encoder.daam.enabled:
            raise InputError(
                explain(
                    "salience of a tokenizer without DAAM",
                    value=self.encoder_digest[:16],
                    expected="a recipe with encoder.daam.enabled",
                    fix="train one, or use tokens only",
                )
            )
        _, windows = self._encode_windows(wav, sample_rate)
        return _salience(windows).cpu().numpy()

    @overload
    def decode(
        self, tokens: list[NDArray[np.integer]], num_samples: Sequence[int], sample_rate: int | None = None
    ) -> list[Float32[np.ndarray, "samples"]]: ...
    @overload
    def decode(
        self, tokens: NDArray[np.integer], num_samples: int, sample_rate: int | None = None
    ) -> Float32[np.ndarray, "samples"]: ...
    def decode(
        self,
        tokens: NDArray[np.integer] | list[NDArray[np.integer]],
        num_samples: int | Sequence[int],
        sample_rate: int | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """The waveform of tokens, or of a list of them: float32 with exactly ``num_samples`` samples each.

        Args:
            tokens: [num_frames, num_groups], or a list of such.
            num_samples: of the utterance at ``sample_rate``, or one a list item.
            sample_rate: to decode to, Hz; None is the model's own.

        Raises:
            InputError (a ValueError): a wrong shape or count, a token that its position cannot take, or a length that
                does not match the number of frames; or the tokenizer was loaded without its decoder.
        """
        if not isinstance(tokens, list):
            assert isinstance(num_samples, int | np.integer), "one array of tokens has one length"
            return self._decode(tokens, int(num_samples), sample_rate)
        lengths = list(num_samples) if isinstance(num_samples, Sequence) else []
        if len(lengths) != len(tokens):
            raise InputError(
                explain(
                    "lengths of a list of tokens",
                    value=num_samples,
                    expected=f"a list of {len(tokens)}",
                    fix="give one num_samples a list item",
                )
            )
        return self._parallel(lambda pair: self._decode(*pair, sample_rate), list(zip(tokens, lengths, strict=True)))

    def _encode(self, wav: NDArray[np.floating], sample_rate: int) -> Encoded:
        num_samples, windows = self._encode_windows(wav, sample_rate)
        indices = torch.cat([w.level_indices for w in windows], dim=1)
        return Encoded(
            tokens=self.packing.pack(indices.T.cpu().numpy()),
            salience=(_salience(windows) * 255).round().to(torch.uint8).cpu().numpy(),
            margin=float(torch.cat([w.margin for w in windows]).min()),
            num_samples=num_samples,
            sample_rate=sample_rate,
        )

    def _encode_windows(self, wav: NDArray[np.floating], sample_rate: int) -> tuple[int, list[_Frames]]:
        samples = _checked_waveform(wav, sample_rate)
        at_model_rate = resample(samples, sample_rate, self.sample_rate)
        num_frames = self.framing.num_frames(len(at_model_rate))
        padded = torch.zeros(num_frames * self.framing.hop_length)
        padded[: len(at_model_rate)] = torch.from_numpy(at_model_rate)
        windows = self.framing.encode_windows(num_frames)
        with _canonical_arithmetic():
            return len(samples), [self._encode_window(padded, window) for window in windows]

    def _encode_window(self, padded: Float[Tensor, "samples"], window: Span) -> _Frames:
        hop = self.framing.hop_length
        clip = padded[window.start * hop : window.stop * hop].clone()[None].to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.encoder.precision == "bf16"):
            encoded = self._encoder(clip, torch.tensor([clip.shape[1]]))
        quantized = self._fsq(encoded.latents)
        kept = slice(window.keep_start - window.start, window.keep_stop - window.start)
        return _Frames(
            quantized.level_indices[0, :, kept],
            encoded.gate[0, kept].float(),
            quantized.margin[0, kept],
            encoded.latents[0, :, kept].float(),
        )

    def _decode(self, tokens: NDArray[np.integer], num_samples: int, sample_rate: int | None) -> NDArray[np.float32]:
        rate = _checked_rate(self.sample_rate if sample_rate is None else sample_rate)
        digits = self._checked_digits(tokens, num_samples, rate)
        length = resampled_length(num_samples, rate, self.sample_rate)
        values = self._fsq.values_of(torch.from_numpy(digits.T.copy())[None].to(self.device))
        with _canonical_arithmetic():
            waveform = self._decode_chunks(values)[:length].numpy()
        return np.ascontiguousarray(resample(waveform, self.sample_rate, rate)[:num_samples])

    def _decode_chunks(self, values: Float[Tensor, "1 dim frames"]) -> Float[Tensor, "samples"]:
        """Chunk by chunk with the generator's whole context, so that memory is bounded and joins are exact.

        DAAM gates in a generator see a whole chunk; such chunks are faded into one another over one frame.
        """
        assert self._generator is not None
        hop, fade = self.framing.hop_length, 0 if self._generator.is_local else self.framing.hop_length
        joined, faded_from = torch.zeros(values.shape[-1] * hop), torch.zeros(0)
        for chunk in self.framing.decode_chunks(values.shape[-1], self._generator.context_frames):
            part = values[..., chunk.start : chunk.stop].contiguous()
            waveform = self._generator(part, torch.tensor([part.shape[-1] * hop]))[0].cpu()
            first, last = chunk.keep_start * hop, chunk.keep_stop * hop
            offset = chunk.start * hop
            joined[first:last] = waveform[first - offset : last - offset]
            if fade and chunk.keep_start:
                _fade_in(joined[first : first + fade], faded_from, waveform[first - offset : first - offset + fade])
            faded_from = waveform[last - offset : last - offset + fade]
        return joined

    def _checked_digits(self, tokens: NDArray[np.integer], num_samples: int, rate: int) -> NDArray[np.uint8]:
        if self._generator is None:
            raise InputError(
                explain(
                    "decode with a tokenizer loaded without its decoder", fix="use Tokenizer.load(uri, decoder=True)"
                )
            )
        if num_samples < 1:
            raise InputError(explain("num_samples", value=num_samples, expected="1 or more"))
        tokens = np.asarray(tokens)
        try:
            digits = self.packing.unpack(tokens)
        except ValueError as error:
            raise InputError(
                explain(f"tokens do not fit the tokenizer: {error}", fix="use the tokenizer that wrote them")
            ) from error
        frames = self.num_frames(num_samples, rate)
        if len(tokens) != frames:
            raise InputError(
                explain(
                    f"frames of {num_samples} samples at {rate} Hz",
                    value=len(tokens),
                    expected=str(frames),
                    fix="give the num_samples and sample_rate of the utterance",
                )
            )
        return digits

    def _parallel(self, action: Callable[[T], R], items: list[T]) -> list[R]:
        """The action on every item, in order; on a CPU one thread an item, as many at a time as torch has threads."""
        num_threads = min(torch.get_num_threads(), len(items)) if self.device.type == "cpu" else 1
        if num_threads <= 1:
            return [action(item) for item in items]
        before = torch.get_num_threads()
        try:
            with ThreadPoolExecutor(num_threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
                return list(pool.map(action, items))
        finally:
            torch.set_num_threads(before)


@contextlib.contextmanager
def _canonical_arithmetic() -> Iterator[None]:
    """One thread, no gradient, no TF32, no algorithm search: what the promise of equal tokens needs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode(), torch.backends.cudnn.flags(benchmark=False, deterministic=True, allow_tf32=False):
            yield
    finally:
        torch.set_num_threads(before)


def _fade_in(out: Float[Tensor, "samples"], old: Float[Tensor, "samples"], new: Float[Tensor, "samples"]) -> None:
    """Fill ``out`` with a linear fade from ``old`` to ``new``; all of one length."""
    share = torch.linspace(0, 1, len(out))
    out.copy_(old[: len(out)] * (1 - share) + new[: len(out)] * share)


def _salience(windows: list[_Frames]) -> Float[Tensor, "frames"]:
    density = torch.cat([w.density for w in windows])
    return density / (1 + density)


def _checked_device(device: str) -> torch.device:
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise InputError(explain("unknown device", value=device, expected="cpu, cuda or cuda:N")) from error
    if found.type not in ("cpu", "cuda") or (found.type == "cuda" and not torch.cuda.is_available()):
        raise InputError(explain("device is not available here", value=device, expected="cpu", fix="use --device cpu"))
    return found


def _checked_rate(sample_rate: int) -> int:
    low, high = _RATE_RANGE
    if not isinstance(sample_rate, int | np.integer) or isinstance(sample_rate, bool):
        raise InputError(explain("sample_rate", value=sample_rate, expected="a whole number of Hz"))
    if not low <= sample_rate <= high:
        raise InputError(explain("sample_rate", value=int(sample_rate), expected=f"{low:,} to {high:,} Hz"))
    return int(sample_rate)


def _checked_waveform(wav: ArrayLike, sample_rate: int) -> NDArray[np.float32]:
    """The waveform as float32 [num_samples], or InputError."""
    _checked_rate(sample_rate)
    array = np.asarray(wav)
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            explain(
                "type of the waveform",
                value=str(array.dtype),
                expected="floating samples in -1..1",
                fix="divide 16-bit integers by 32768",
            )
        )
    if array.ndim != 1:
        raise InputError(
            explain(
                "shape of the waveform",
                value=list(array.shape),
                expected="[num_samples], mono",
                fix="average the channels",
            )
        )
    if not len(array):
        raise InputError(explain("empty waveform", value=0, expected="1 sample or more"))
    if not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise InputError(
            explain(
                f"sample {at} of the waveform",
                value=float(array[at]),
                expected="finite samples",
                fix="repair or drop the recording",
            )
        )
    peak = float(np.abs(array).max())
    if peak > _PEAK_LIMIT:
        raise InputError(
            explain(
                "peak of the waveform", value=peak, expected="samples in -1..1", fix="divide 16-bit integers by 32768"
            )
        )
    return np.ascontiguousarray(array, np.float32)
