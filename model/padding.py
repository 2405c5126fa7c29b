"""Padding is invisible: the masks that keep a clip from seeing what follows it in its batch.

A clip is zero-padded to a whole number of frames, so at every depth its valid length is ``num_frames`` times the
remaining stride, and one mask over frames gives the mask at every rate. A layer that looks at neighbours gets its
input with the invalid positions set to zero, exactly as if the clip ended there.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Inexact, Int
from torch import Tensor


def valid_mask(lengths: Int[Tensor, "batch"], max_length: int, device: torch.device) -> Bool[Tensor, "batch length"]:
    """True at the first ``lengths[b]`` of ``max_length`` positions."""
    return torch.arange(max_length, device=device) < on_device(lengths, device)[:, None]


def on_device(lengths: Int[Tensor, "batch"], device: torch.device) -> Int[Tensor, "batch"]:
    """Lengths on the device that computes with them.

    Equal ones are made there: a copy from the CPU makes a GPU's queue wait, and no CUDA graph can hold one.
    """
    if lengths.device.type == "cpu" != device.type and len(lengths) and bool((lengths == lengths[0]).all()):
        return torch.full_like(lengths, int(lengths[0]), device=device)
    return lengths.to(device)


def frame_mask(
    num_frames: Int[Tensor, "batch"], max_frames: int, device: torch.device
) -> Bool[Tensor, "batch frames"] | None:
    """True at valid frames, or None when every clip is ``max_frames`` long and nothing needs masking.

    Keep ``num_frames`` on the CPU: the question is asked of its values.
    """
    if bool((num_frames == max_frames).all()):
        return None
    return valid_mask(num_frames, max_frames, device)


def stretch(mask: Bool[Tensor, "batch frames"] | None, factor: int) -> Bool[Tensor, "batch positions"] | None:
    """The mask of a rate ``factor`` times the frame rate."""
    return mask if mask is None or factor == 1 else mask.repeat_interleave(factor, dim=-1)


def zero_invalid(
    x: Inexact[Tensor, "batch dim positions"], mask: Bool[Tensor, "batch positions"] | None
) -> Inexact[Tensor, "batch dim positions"]:
    """``x`` with zeros at invalid positions (``x`` itself when mask is None)."""
    return x if mask is None else x.masked_fill(~mask[:, None, :], 0.0)


def masked_mean(x: Float[Tensor, "*any"], mask: Bool[Tensor, "*any"] | None) -> Float[Tensor, ""]:
    """Mean over the True positions; 0 when there is none."""
    if mask is None:
        return x.mean()
    return x.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)


def over_clips(terms: Float[Tensor, "batch"], num_samples: Int[Tensor, "batch"]) -> Float[Tensor, ""]:
    """Mean over clips, weighted by their samples."""
    weights = on_device(num_samples, terms.device).to(terms.dtype)
    return (terms * weights).sum() / weights.sum().clamp(min=1)
