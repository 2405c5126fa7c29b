"""Check what users hand to a tokenizer: devices, rates, waveforms, tokens and lengths, each refused in one line."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from syllabary.shards.archive.packing import Packing
from syllabary.shards.errors import InputError

_PEAK_LIMIT = 16.0
_RATE_RANGE = (1_000, 768_000)


def checked_device(device: str) -> torch.device:
    """The device of that name, when this machine has it. Raises InputError."""
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise InputError("unknown device", value=device, expected="cpu, cuda or cuda:N") from error
    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if named.type not in ("cpu", "cuda") or (named.type == "cuda" and (named.index or 0) >= num_gpus):
        raise InputError("device is not available here", value=device, expected="cpu", fix="use --device cpu")
    return named


def checked_rate(sample_rate: int) -> int:
    """A sample rate in Hz that speech can have. Raises InputError."""
    low, high = _RATE_RANGE
    if not isinstance(sample_rate, int | np.integer) or isinstance(sample_rate, bool):
        raise InputError("sample_rate", value=sample_rate, expected="a whole number of Hz")
    if not low <= sample_rate <= high:
        raise InputError("sample_rate", value=int(sample_rate), expected=f"{low:,} to {high:,} Hz")
    return int(sample_rate)


def checked_waveform(wav: ArrayLike, sample_rate: int) -> NDArray[np.float32]:
    """The waveform as float32 [num_samples].

    Raises:
        InputError: not floating, not mono, empty, NaN or inf, far out of -1..1, or a rate that no speech has.
    """
    checked_rate(sample_rate)
    array = np.asarray(wav)
    _require_floating_mono(array)
    if not np.isfinite(array).all():
        at = int(np.argmin(np.isfinite(array)))
        raise InputError(
            f"sample {at} of the waveform",
            value=float(array[at]),
            expected="finite samples",
            fix="repair or drop the recording",
        )
    peak = float(np.abs(array).max())
    if peak > _PEAK_LIMIT:
        raise InputError(
            "peak of the waveform", value=peak, expected="samples in -1..1", fix="divide 16-bit integers by 32768"
        )
    return np.require(array, np.float32, ["C", "W"])  # torch warns of what cannot be written to, as Arrow's arrays


def _require_floating_mono(array: NDArray[Any]) -> None:
    if not np.issubdtype(array.dtype, np.floating):
        raise InputError(
            "type of the waveform",
            value=str(array.dtype),
            expected="floating samples in -1..1",
            fix="divide 16-bit integers by 32768",
        )
    if array.ndim != 1:
        raise InputError(
            "shape of the waveform", value=list(array.shape), expected="[num_samples], mono", fix="average the channels"
        )
    if not len(array):
        raise InputError("empty waveform", value=0, expected="1 sample or more")


def checked_length(number: object, name: str = "num_samples") -> int:
    """A number of samples (or what ``name`` says), 1 or more. Raises InputError."""
    if not isinstance(number, int | np.integer) or isinstance(number, bool) or number < 1:
        raise InputError(name, value=number, expected="a whole number, 1 or more")
    return int(number)


def checked_lengths(num_samples: object, count: int) -> list[int]:
    """One number of samples for each of ``count`` items. Raises InputError."""
    lengths = list(num_samples) if isinstance(num_samples, Sequence | np.ndarray) and np.ndim(num_samples) else []
    if len(lengths) != count:
        raise InputError(
            "lengths of a list of tokens",
            value=num_samples,
            expected=f"a list of {count}",
            fix="give one num_samples a list item",
        )
    return [checked_length(length) for length in lengths]


def checked_packing(packing: Packing | str | None, own: Packing) -> Packing:
    """The packing that tokens are said to have; ``own`` is the tokenizer's, for tokens of which nothing is said.

    Raises:
        InputError: it does not parse, or packs other latents than the tokenizer's.
    """
    if packing is None:
        return own
    try:
        parsed = packing if isinstance(packing, Packing) else Packing.parse(str(packing))
    except ValueError as error:
        raise InputError(str(error), fix="give the row's column `packing`") from error
    if (parsed.num_dims, parsed.levels) != (own.num_dims, own.levels):
        expected = f"{own.num_dims} dims of {own.levels}"
        raise InputError(
            "packing of other latents", value=str(parsed), expected=expected, fix="use the tokenizer that wrote them"
        )
    return parsed


def checked_digits(tokens: ArrayLike, packing: Packing | str | None, own: Packing) -> NDArray[np.uint8]:
    """Digits uint8 [num_frames, num_dims] of tokens [num_frames, num_groups], or of as many in one flat row.

    Args:
        tokens: as an encoder gives them, or as a row of an archive has them.
        packing: what the row says of itself; None for the tokenizer's ``own``, where tokens are not one flat row.
        own: the tokenizer's.

    Raises:
        InputError: a flat row without its packing, a count that is no multiple of the group count, another shape or
            type, or a token that its position cannot take.
    """
    array = np.asarray(tokens)
    if array.ndim == 1 and packing is None:
        fix = "give packing=row['packing']: an archive may have been repacked"
        raise InputError("a flat row of tokens without its packing", value=f"{len(array)} tokens", fix=fix)
    packing = checked_packing(packing, own)
    if array.ndim == 1:
        if len(array) % packing.num_groups:
            raise InputError(
                "count of the tokens",
                value=len(array),
                expected=f"a multiple of {packing.num_groups}, the tokens per frame",
                fix="give whole frames",
            )
        array = array.reshape(-1, packing.num_groups)
    try:
        return packing.unpack(array)
    except ValueError as error:
        raise InputError(
            f"tokens do not fit the tokenizer: {error}", fix="use the tokenizer that wrote them"
        ) from error
