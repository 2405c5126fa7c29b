"""Residual stages in training by Winograd's F(2, 3): forward, gradient of the input and gradient of the taps.

Each is the convolution of :mod:`syllabary.model.cpu.winograd` with two thirds of the multiplications; the gradient of
the input is one with the taps turned round. Clips go one by one at their own lengths, so nothing needs a mask. What a
stage keeps for its gradient is what the plain one keeps: two activations a pair of convolutions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from syllabary.model.cpu.winograd import (
    Planes,
    Scratch,
    Spans,
    WinogradConv,
    WinogradResiduals,
    run_pair,
    sums_of_inputs,
    wins,
)
from syllabary.model.layers import LEAKY_SLOPE, ResidualBlock, SameConv1d

_leaky_relu_backward_out = torch.ops.aten.leaky_relu_backward.grad_input


def run_residual_blocks(
    blocks: Sequence[ResidualBlock],
    x: Float[Tensor, "batch channels positions"],
    mask: Bool[Tensor, "batch positions"] | None,
) -> Float[Tensor, "batch channels positions"]:
    """The blocks one after another, by Winograd's form where that is faster; shape is kept."""
    convs = [conv for block in blocks for pair in block.pairs() for conv in pair]
    if convs and _applies(convs, x):
        return _clip_by_clip(blocks, convs, x, mask)
    for block in blocks:
        x = block(x, mask)
    return x


def _applies(convs: list[SameConv1d], x: Tensor) -> bool:
    is_plain_cpu = x.device.type == "cpu" and x.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    return is_plain_cpu and wins(convs, x.shape[-1])


def _clip_by_clip(
    blocks: Sequence[ResidualBlock], convs: list[SameConv1d], x: Tensor, mask: Tensor | None
) -> Float[Tensor, "batch channels positions"]:
    lengths = [x.shape[-1]] * len(x) if mask is None else mask.sum(dim=1).tolist()
    learns = x.requires_grad or any(p.requires_grad for conv in convs for p in conv.parameters())
    run = _learning(convs) if learns and torch.is_grad_enabled() else _without_gradient(blocks)
    done = [_padded(run(clip[:, :n]), x.shape[-1]) for clip, n in zip(x, lengths, strict=True)]
    return done[0][None] if len(done) == 1 else torch.stack(done)


def _learning(convs: list[SameConv1d]) -> Callable[[Tensor], Tensor]:
    packed = [WinogradConv.of(conv, passing=True) for conv in convs]  # once for all clips
    dilations = tuple(conv.dilation[0] for conv in convs)
    parameters = [p for conv in convs for p in (conv.weight, conv.bias)]
    return lambda clip: cast(Tensor, _Residuals.apply(clip, packed, dilations, *parameters))


def _without_gradient(blocks: Sequence[ResidualBlock]) -> Callable[[Tensor], Tensor]:
    residuals = WinogradResiduals(blocks, passing=True)

    def run(clip: Tensor) -> Tensor:
        clip = clip.clone()
        residuals.run(clip.T)
        return clip

    return run


def _padded(clip: Tensor, positions: int) -> Float[Tensor, "channels positions"]:
    return clip if clip.shape[1] == positions else F.pad(clip, (0, positions - clip.shape[1]))


class _Residuals(torch.autograd.Function):
    """All pairs of a stage on one clip. Parameters: weight [C, C, 3] and bias [C] of each convolution in order."""

    @staticmethod
    def forward(
        ctx: Any, clip: Tensor, convs: list[WinogradConv], dilations: tuple[int, ...], *parameters: Tensor
    ) -> Float[Tensor, "channels positions"]:
        x, scratch = Planes.empty(clip.shape[1], clip.shape[0]).read(clip.T), Scratch(clip.shape[0])
        kept = [x.activated()]
        for dilated, plain in zip(convs[::2], convs[1::2], strict=True):
            kept += [x.empty_like(), x.empty_like()]
            run_pair(dilated, plain, x, (kept[-3], kept[-2], kept[-1]), scratch)
        kept.pop()  # the activation of the stage's output, which nothing reads
        ctx.dilations = dilations
        ctx.save_for_backward(*parameters[::2], *(buffer for planes in kept for buffer in planes.buffers))
        return _clip(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        num = len(ctx.dilations)
        weights, buffers = ctx.saved_tensors[:num], ctx.saved_tensors[num:]
        kept = [Planes(even, odd) for even, odd in zip(buffers[::2], buffers[1::2], strict=True)]
        g, scratch = Planes.empty(grad.shape[1], grad.shape[0]).read(grad.T), Scratch(grad.shape[0])
        hidden, tap_gradients = g.empty_like(), list[Tensor]()
        for at in range(num - 2, -1, -2):
            tap_gradients = [
                *_step_back(g, hidden, kept[at : at + 2], weights[at : at + 2], ctx.dilations[at], scratch),
                *tap_gradients,
            ]
        return _clip(g), None, None, *tap_gradients


def _step_back(
    g: Planes, hidden: Planes, kept: list[Planes], weights: Sequence[Tensor], dilation: int, scratch: Scratch
) -> list[Tensor]:
    """Gradients of a pair's taps and biases; ``g`` becomes the gradient of its input. ``hidden`` is overwritten."""
    at_plain = _gradients_of_taps(kept[1], g, 1, scratch)
    for piece in _conv_back(weights[1], 1).pieces(g, scratch):
        _leaky_relu_backward_out(piece.values, piece.of(kept[1]), LEAKY_SLOPE, True, grad_input=piece.of(hidden))
    at_dilated = _gradients_of_taps(kept[0], hidden, dilation, scratch)
    for piece in _conv_back(weights[0], dilation).pieces(hidden, scratch):
        _leaky_relu_backward_out(piece.values, piece.of(kept[0]), LEAKY_SLOPE, True, grad_input=piece.values)
        piece.of(g).add_(piece.values)
    return [*at_dilated, *at_plain]


def _conv_back(weight: Tensor, dilation: int) -> WinogradConv:
    """From the gradient of a convolution's output to that of its input."""
    return WinogradConv(weight.permute(2, 0, 1).flip(0), weight.new_zeros(weight.shape[1]), dilation)


def _gradients_of_taps(x: Planes, g: Planes, dilation: int, scratch: Scratch) -> tuple[Tensor, Tensor]:
    """Gradients of weight [out, in, 3] and bias [out] of a convolution of ``x`` whose output has the gradient ``g``."""
    spans = Spans(dilation, x.num_even, x.num_odd)
    channels = x.buffers[0].shape[1]
    before, plus, minus, minus_after, centre, after = torch.zeros(6, channels, channels)
    for start, stop, has_before, has_after in spans.pairs(scratch):
        sums = sums_of_inputs(x, scratch, start, stop, spans, has_before, has_after)
        even, odd = g.even(start, stop), g.odd(start + spans.half, stop + spans.half)
        before.addmm_(sums.outer.T, even)
        minus_after.addmm_(sums.last.T, odd)
        plus.addmm_(sums.total.T, torch.add(even, odd, out=sums.spare[0]))
        minus.addmm_(sums.difference.T, torch.sub(even, odd, out=sums.spare[1]))
    for start, stop, low, high in spans.single_odd(scratch):
        centre.addmm_(x.odd(start, stop).T, g.odd(start, stop))
        after.addmm_(x.even(low, high).T, g.odd(start, start + high - low))
    for start, stop, low, high in spans.single_even(scratch):
        centre.addmm_(x.even(start, stop).T, g.even(start, stop))
        before.addmm_(x.odd(low, high).T, g.even(stop - (high - low), stop))
    both = (plus + minus) / 2
    taps = torch.stack([before + both, centre + (plus - minus) / 2, after - minus_after + both])
    return taps.permute(2, 1, 0), torch.stack([plane.sum(dim=0) for plane in g.whole()]).sum(dim=0)


def _clip(planes: Planes) -> Float[Tensor, "channels positions"]:
    clip = planes.buffers[0].new_empty(planes.buffers[0].shape[1], planes.num_even + planes.num_odd)
    planes.write(clip.T)
    return clip
