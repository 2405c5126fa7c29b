"""The tokenizer as users import it: waveforms to tokens and back.

    tokenizer = Tokenizer.from_pretrained("speech16k")          # what ships; or a folder, or s3://bucket/tokenizer
    encoded = tokenizer.encode(wav, 16_000)                     # encoded.tokens: uint16 [num_frames, num_groups]
    wav = tokenizer.decode(encoded.tokens, encoded.num_samples, 16_000)

Canonical by construction: every utterance is encoded alone, at its own length, by one thread. Kernels sum in another
order at another thread count, batch size or padded length (measured: both the convolutions and the matrix products
do), so none of these may vary. A list is encoded in parallel, one thread per utterance, as many at a time as torch has
threads: on a CPU that is also the fastest way.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar, cast, overload

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8, UInt16
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from syllabary.model.codec import Fsq
from syllabary.model.config import Framing, ModelConfig, Span
from syllabary.model.encoder import loudness_gain
from syllabary.shards.archive.packing import Packing
from syllabary.shards.audio import decoded_comment, resample, resampled_length
from syllabary.shards.errors import InputError
from syllabary.shards.store import BUILTIN, builtin_names
from syllabary.workers.recipes.bitrates import packing_of
from syllabary.workers.tokenizer.checks import (
    checked_device,
    checked_digits,
    checked_length,
    checked_lengths,
    checked_rate,
    checked_waveform,
)
from syllabary.workers.tokenizer.directory import (
    Digests,
    TokenizerFiles,
    copy_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
from syllabary.workers.tokenizer.networks import (
    build_encoder,
    build_generator,
    canonical_arithmetic,
    cut_to,
    decoded_chunks,
    resampled_chunks,
)

__all__ = ["Encoded", "Tokenizer", "save_tokenizer"]

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
    """A tokenizer in memory: waveforms to tokens and back. Build it with :meth:`load` or :meth:`from_pretrained`."""

    def __init__(self, files: TokenizerFiles, device: str = "cpu") -> None:
        self.config: ModelConfig = files.config
        self.framing: Framing = files.config.framing
        self.packing: Packing = packing_of(files.config)
        self.digests: Digests = files.digests
        self._uri = files.uri
        self.device = checked_device(device)
        self._encoder = build_encoder(files.config, files.encoder_state, self.device)
        self._fsq = Fsq(files.config.fsq, files.config.encoder.latent_dim)
        self._generator = None
        if files.decoder_state is not None:
            self._generator = build_generator(files.config, files.decoder_state, self.device)

    @classmethod
    def load(cls, uri: str, *, decoder: bool = True, device: str = "cpu") -> Tokenizer:
        """Read, check and build the tokenizer at ``uri``; ``decoder=False`` reads only what encoding needs.

        Raises:
            NotFoundError, FormatError, VersionError, DamageError: see
            ``syllabary.workers.tokenizer.directory.load_tokenizer``.
        """
        return cls(load_tokenizer(uri, decoder=decoder), device)

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *, decoder: bool = True, device: str = "cpu") -> Tokenizer:
        """:meth:`load` by the name of a tokenizer that ships with the package, a folder, or a URI.

        A bare word that is the name of a builtin is that one; a folder of the same name is ``./NAME``.
        """
        text = os.fspath(name)
        return cls.load(f"{BUILTIN}{text}" if text in builtin_names() else text, decoder=decoder, device=device)

    def save_pretrained(self, folder: str | os.PathLike[str]) -> None:
        """Write the tokenizer to a folder or URI as model hubs lay them out: ``config.json``, safetensors, and a
        ``README.md`` that begins with the hub's own fields. The digests stay.

        Raises:
            InputError: it was not loaded from a URI, or is loaded without its decoder.
            ConflictError: another tokenizer is there.
            DamageError: what it was loaded from has changed since.
        """
        if not self._uri or self._generator is None:
            what = "save a tokenizer that is not loaded whole from a URI"
            raise InputError(what, fix="use Tokenizer.load(uri), or save_tokenizer with its weights")
        copy_tokenizer(self._uri, os.fspath(folder), self.digests)

    @property
    def computed_on(self) -> str:
        """torch's version and the kind of CPU (its instruction set) or GPU, for people.

        Elsewhere sums may be rounded otherwise in their last bits, and a latent that lies on the border of two levels
        may fall on its other side.
        """
        on_cpu = self.device.type == "cpu"
        kind = torch.backends.cpu.get_cpu_capability() if on_cpu else torch.cuda.get_device_name(self.device)
        return f"torch {torch.__version__}, {self.device.type} {kind}"

    @property
    def encoder_digest(self) -> str:
        """sha256 of what fixes the tokens."""
        return self.digests.encoder

    @property
    def decoder_digest(self) -> str:
        """sha256 of what fixes the sound of given tokens."""
        return self.digests.decoder

    @property
    def comment(self) -> str:
        """What a file of its sound says of itself, so that it is taken for no recording."""
        return decoded_comment(self.encoder_digest, self.decoder_digest)

    @property
    def context_frames(self) -> int:
        """Frames on either side that a decoded sample depends on; 0 without a decoder."""
        return 0 if self._generator is None else self._generator.context_frames

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
        return self._each(lambda one: self._encode(one, sample_rate), wav)

    def encode_piece(self, recording: NDArray[np.floating], piece: slice, sample_rate: int) -> Encoded:
        """Tokens of a piece of a recording at the loudness of the whole, as the recording's own tokens have it.

        :meth:`encode` of the piece alone would bring it to the model's loudness by itself. Arguments and errors are
        those of :meth:`encode`; ``piece`` counts samples of ``recording``.
        """
        whole = resample(checked_waveform(recording, sample_rate), sample_rate, self.sample_rate)
        return self._encode(recording[piece], sample_rate, self._gain(whole))

    @overload
    def latents(self, wav: list[NDArray[np.floating]], sample_rate: int) -> list[Float32[np.ndarray, "dim frames"]]: ...
    @overload
    def latents(self, wav: NDArray[np.floating], sample_rate: int) -> Float32[np.ndarray, "dim frames"]: ...
    def latents(
        self, wav: NDArray[np.floating] | list[NDArray[np.floating]], sample_rate: int
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """The encoder's output before quantization, float32 [latent_dim, num_frames], for uses other than tokens.

        Arguments and errors are those of :meth:`encode`; a list gives a list.
        """
        return self._each(lambda one: self._latents(one, sample_rate), wav)

    @overload
    def salience(self, wav: list[NDArray[np.floating]], sample_rate: int) -> list[Float32[np.ndarray, "frames"]]: ...
    @overload
    def salience(self, wav: NDArray[np.floating], sample_rate: int) -> Float32[np.ndarray, "frames"]: ...
    def salience(
        self, wav: NDArray[np.floating] | list[NDArray[np.floating]], sample_rate: int
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """How much the last DAAM gate lifts each frame, g / (1 + g) of its density g: float32 [num_frames] in 0..1.

        Arguments are those of :meth:`encode`; a list gives a list.

        Raises:
            InputError: the tokenizer has no DAAM gate, or as for :meth:`encode`.
        """
        if not self.config.encoder.daam.enabled:
            raise InputError(
                "salience of a tokenizer without DAAM",
                value=self.encoder_digest[:16],
                expected="a recipe with encoder.daam.enabled",
                fix="train one, or use tokens only",
            )
        return self._each(lambda one: _salience(self._encode_windows(one, sample_rate)[1]).cpu().numpy(), wav)

    @overload
    def decode(
        self,
        tokens: list[NDArray[np.integer]],
        num_samples: Sequence[int],
        sample_rate: int | None = None,
        packing: Packing | str | None = None,
    ) -> list[Float32[np.ndarray, "samples"]]: ...
    @overload
    def decode(
        self,
        tokens: NDArray[np.integer],
        num_samples: int,
        sample_rate: int | None = None,
        packing: Packing | str | None = None,
    ) -> Float32[np.ndarray, "samples"]: ...
    def decode(
        self,
        tokens: NDArray[np.integer] | list[NDArray[np.integer]],
        num_samples: int | Sequence[int],
        sample_rate: int | None = None,
        packing: Packing | str | None = None,
    ) -> NDArray[np.float32] | list[NDArray[np.float32]]:
        """The waveform of tokens, or of a list of them: float32 with exactly ``num_samples`` samples each.

        Args:
            tokens: [num_frames, num_groups], or the same in one flat row as an archive has it, which needs
                ``packing``; or a list of such.
            num_samples: of the utterance at ``sample_rate``, or one per item of a list.
            sample_rate: to decode to, Hz; None is the model's own.
            packing: of the tokens, as the column ``packing`` of an archive says it: any packing of the tokenizer's
                latents is decoded. None is the tokenizer's own.

        Raises:
            InputError (a ValueError): as for :meth:`require_decodable`.
        """
        if not isinstance(tokens, list) or (tokens and np.ndim(tokens[0]) == 0):
            return self._decode(tokens, num_samples, sample_rate, packing)
        pairs = list(zip(tokens, checked_lengths(num_samples, len(tokens)), strict=True))
        return self._parallel(lambda pair: self._decode(*pair, sample_rate, packing), pairs)

    def decode_stream(
        self,
        tokens: ArrayLike | Iterable[ArrayLike],
        num_samples: int | None = None,
        sample_rate: int | None = None,
        packing: Packing | str | None = None,
        *,
        chunk_frames: int | None = None,
    ) -> Iterator[Float32[np.ndarray, "samples"]]:
        """The waveform of tokens in chunks, while the tokens still come: float32 arrays, one after another.

        A chunk is given once the :attr:`context_frames` frames behind it are there. Held are the chunk and as many
        frames on either side of it, however many tokens come.

        Args:
            tokens: as for :meth:`decode`, or an iterable of pieces of them, [frames, num_groups] each, as a language
                model gives them.
            num_samples: of the utterance at ``sample_rate``; None for whole frames.
            sample_rate: to decode to, Hz; None is the model's own.
            packing: of the tokens, as for :meth:`decode`.
            chunk_frames: frames per chunk, at most the model's window. None is that window, as in :meth:`decode`,
                whose samples the chunks together are then, bit for bit. Fewer come sooner and cost more, and differ
                from it by rounding (at most 2e-4, at the peaks of pulses).

        Raises:
            InputError (a ValueError): at once for what does not depend on the tokens, as for :meth:`decode`; as they
                come, for tokens that do not decode, and at their end where they are not those of ``num_samples``.
        """
        rate = self._decoding_rate(sample_rate)
        length = None if num_samples is None else checked_length(num_samples)
        window = self.framing.window_frames
        size = window if chunk_frames is None else checked_length(chunk_frames, "chunk_frames")
        if size > window:
            raise InputError("chunk_frames", value=chunk_frames, expected=f"at most the model's window, {window}")
        is_whole = isinstance(tokens, np.ndarray) or (
            isinstance(tokens, Sequence) and len(tokens) > 0 and np.ndim(tokens[0]) == 0
        )
        pieces = cast("Iterable[ArrayLike]", [tokens] if is_whole else tokens)
        digits = self._pieces(pieces, length, rate, packing)
        chunks = self._stream(digits, size)
        if length is not None:
            chunks = cut_to(chunks, resampled_length(length, rate, self.sample_rate))
        return cut_to(resampled_chunks(chunks, self.sample_rate, rate), length)

    def _pieces(
        self, pieces: Iterable[ArrayLike], length: int | None, rate: int, packing: Packing | str | None
    ) -> Iterator[NDArray[np.uint8]]:
        """Digits of each piece of tokens; at their end there have to be the frames of ``length`` samples."""
        count = 0
        for piece in pieces:
            digits = checked_digits(piece, packing, self.packing)
            count += len(digits)
            yield digits
        if length is not None:
            self._require_frames(count, length, rate)

    def decode_row(self, row: Mapping[str, Any]) -> Float32[np.ndarray, "samples"]:
        """The waveform of a row of an archive (``tokens``, ``num_samples``, ``sample_rate``, ``packing``).

        Raises:
            InputError (a ValueError): a column is missing, or as for :meth:`require_decodable`.
        """
        names = ("tokens", "num_samples", "sample_rate", "packing")
        if missing := [name for name in names if row.get(name) is None]:
            raise InputError("a row without its column", value=missing[0], expected=", ".join(names))
        return self._decode(*(row[name] for name in names))

    def dequantize(self, tokens: ArrayLike, packing: Packing | str | None = None) -> Float32[np.ndarray, "dim frames"]:
        """The latents that tokens stand for, float32 [latent_dim, num_frames]: what the decoder makes sound of.

        They are the middles of the levels, not :meth:`latents`, which are not quantized. Needs no decoder.

        Args:
            tokens: as for :meth:`decode`; one utterance.
            packing: likewise.

        Raises:
            InputError (a ValueError): a flat row without its packing, a packing of other latents, a count that is no
                multiple of the group count, or a token that its position cannot take.
        """
        digits = checked_digits(tokens, packing, self.packing)
        return self._fsq.values_of(torch.from_numpy(digits.T.copy())[None].to(self.device))[0].cpu().numpy()

    def require_decodable(
        self,
        tokens: ArrayLike,
        num_samples: object,
        sample_rate: int | None = None,
        packing: Packing | str | None = None,
    ) -> None:
        """Refuse what :meth:`decode` would refuse of one utterance, without decoding it.

        Raises:
            InputError (a ValueError): a flat row without its packing, a packing of other latents, a count that is no
                multiple of the group count, another shape or type, a token that its position cannot take, a length that
                does not match the number of frames, or the tokenizer was loaded without its decoder.
        """
        self._checked_digits(tokens, num_samples, sample_rate, packing)

    def _latents(self, wav: NDArray[np.floating], sample_rate: int) -> NDArray[np.float32]:
        _, windows = self._encode_windows(wav, sample_rate)
        return torch.cat([w.latents for w in windows], dim=1).cpu().numpy()

    def _encode(self, wav: NDArray[np.floating], sample_rate: int, gain: float | None = None) -> Encoded:
        num_samples, windows = self._encode_windows(wav, sample_rate, gain)
        indices = torch.cat([w.level_indices for w in windows], dim=1)
        return Encoded(
            tokens=self.packing.pack(indices.T.cpu().numpy()),
            salience=(_salience(windows) * 255).round().to(torch.uint8).cpu().numpy(),
            margin=float(torch.cat([w.margin for w in windows]).min()),
            num_samples=num_samples,
            sample_rate=sample_rate,
        )

    def _encode_windows(
        self, wav: NDArray[np.floating], sample_rate: int, gain: float | None = None
    ) -> tuple[int, list[_Frames]]:
        """Samples of the waveform and its windows; ``gain`` is the waveform's own where none is given."""
        samples = checked_waveform(wav, sample_rate)
        at_model_rate = resample(samples, sample_rate, self.sample_rate)
        at_model_rate = at_model_rate * np.float32(self._gain(at_model_rate) if gain is None else gain)
        num_frames = self.framing.num_frames(len(at_model_rate))
        padded = torch.zeros(num_frames * self.framing.hop_length)
        padded[: len(at_model_rate)] = torch.from_numpy(at_model_rate)
        windows = self.framing.encode_windows(num_frames)
        with canonical_arithmetic(self.device):
            return len(samples), [self._encode_window(padded, window) for window in windows]

    def _gain(self, samples: NDArray[np.float32]) -> float:
        """What brings a whole utterance to the level that the encoder has learned: one gain for all of its windows."""
        config = self.config.encoder
        return loudness_gain(torch.from_numpy(samples), config.sample_rate, config.loudness_dbfs)

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

    def _decode(
        self, tokens: ArrayLike, num_samples: object, sample_rate: int | None, packing: Packing | str | None = None
    ) -> NDArray[np.float32]:
        digits, length, rate = self._checked_digits(tokens, num_samples, sample_rate, packing)
        model_length = resampled_length(length, rate, self.sample_rate)
        waveform = np.concatenate(list(self._stream([digits], self.framing.window_frames)))[:model_length]
        return np.ascontiguousarray(resample(waveform, self.sample_rate, rate)[:length])

    def _stream(self, pieces: Iterable[NDArray[np.uint8]], chunk_frames: int) -> Iterator[NDArray[np.float32]]:
        """The waveform at the model's rate of digits [frames, num_dims] in pieces, a chunk at a time."""
        assert self._generator is not None
        values = (self._fsq.values_of(torch.from_numpy(one.T.copy())[None].to(self.device)) for one in pieces)
        chunks = decoded_chunks(values, self._generator, chunk_frames)
        while True:
            with canonical_arithmetic(self.device):  # of this thread, so never across a yield
                chunk = next(chunks, None)
            if chunk is None:
                return
            yield chunk.numpy()

    def _checked_digits(
        self, tokens: ArrayLike, num_samples: object, sample_rate: int | None, packing: Packing | str | None = None
    ) -> tuple[NDArray[np.uint8], int, int]:
        """Digits uint8 [num_frames, num_dims], number of samples and sample rate."""
        rate = self._decoding_rate(sample_rate)
        length, digits = checked_length(num_samples), checked_digits(tokens, packing, self.packing)
        self._require_frames(len(digits), length, rate)
        return digits, length, rate

    def _decoding_rate(self, sample_rate: int | None) -> int:
        if self._generator is None:
            raise InputError(
                "decode with a tokenizer loaded without its decoder", fix="use Tokenizer.load(uri, decoder=True)"
            )
        return checked_rate(self.sample_rate if sample_rate is None else sample_rate)

    def _require_frames(self, found: int, length: int, rate: int) -> None:
        frames = self.num_frames(length, rate)
        if found != frames:
            raise InputError(
                f"frames of {length} samples at {rate} Hz",
                value=found,
                expected=str(frames),
                fix="give the num_samples and sample_rate of the utterance",
            )

    def _each(self, action: Callable[[T], R], items: T | list[T]) -> R | list[R]:
        """The action on the item, or on every item of a list."""
        return self._parallel(action, items) if isinstance(items, list) else action(items)

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


def _salience(windows: list[_Frames]) -> Float[Tensor, "frames"]:
    density = torch.cat([w.density for w in windows])
    return density / (1 + density)
