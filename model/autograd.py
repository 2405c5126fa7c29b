"""Two differentiable operations whose plain form costs training more memory or time than it must.

Values and gradients are the plain form's, up to rounding. Inference has no use for either and never comes here.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

_FAR_DILATION, _MANY_POSITIONS = 25, 8192


def masked_leaky_relu(
    x: Float[Tensor, "batch channels positions"], mask: Bool[Tensor, "batch positions"] | None, slope: float
) -> Float[Tensor, "batch channels positions"]:
    """leaky ReLU, then zeros where ``mask`` is False; keeps its output for the gradient and not its input.

    The convolution that follows keeps the same tensor, so the activation takes no memory of its own.
    """
    return cast(Tensor, _MaskedLeakyRelu.apply(x, mask, slope))


class _MaskedLeakyRelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor | None, slope: float) -> Tensor:
        invalid = None if mask is None else ~mask[:, None, :]
        out = F.leaky_relu(x, slope)
        if invalid is not None:
            out.masked_fill_(invalid, 0.0)
        ctx.save_for_backward(out, invalid)
        ctx.slope = slope
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        out, invalid = ctx.saved_tensors
        grad = torch.ops.aten.leaky_relu_backward(grad, out, ctx.slope, True)
        if invalid is not None:
            grad.masked_fill_(invalid, 0.0)
        return grad, None, None


def prefers_products(x: Float[Tensor, "batch inc positions"], dilation: int) -> bool:
    """Whether :func:`dilated_conv` beats ``conv1d`` at training on ``x``: long, far, fp32, on the CPU.

    oneDNN's gradient of a convolution slows down by half there (1.5x at 128 channels, 24,000 positions, dilation 81;
    no gain at dilation 5 or at 3,000 positions).
    """
    far = dilation >= _FAR_DILATION and x.shape[-1] >= _MANY_POSITIONS
    if not far or x.device.type != "cpu" or x.dtype != torch.float32:
        return False
    return torch.is_grad_enabled() and not torch.is_autocast_enabled("cpu")


def dilated_conv(
    x: Float[Tensor, "batch inc positions"],
    weight: Float[Tensor, "outc inc taps"],
    bias: Float[Tensor, "outc"],
    dilation: int,
) -> Float[Tensor, "batch outc positions"]:
    """``conv1d`` of an odd number of taps with padding that keeps the length, as one matrix product a tap."""
    return cast(Tensor, _DilatedConv.apply(x, weight, bias, dilation))


class _DilatedConv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, dilation: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.dilation = dilation
        taps = weight.permute(2, 0, 1).contiguous()
        out = bias[:, None].repeat(x.shape[0], 1, x.shape[-1])
        for clip, clip_out in zip(x, out, strict=True):
            for tap, (read, written) in zip(taps, _overlaps(len(taps), dilation, x.shape[-1]), strict=True):
                clip_out[:, written].addmm_(tap, clip[:, read])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        taps = weight.permute(2, 1, 0).contiguous()
        grad_x, grad_taps = torch.zeros_like(x), torch.zeros_like(weight.permute(2, 0, 1).contiguous())
        for clip, clip_grad, out_grad in zip(x, grad_x, grad, strict=True):
            overlaps = _overlaps(len(taps), ctx.dilation, x.shape[-1])
            for tap, tap_grad, (read, written) in zip(taps, grad_taps, overlaps, strict=True):
                clip_grad[:, read].addmm_(tap, out_grad[:, written])
                tap_grad.addmm_(out_grad[:, written], clip[:, read].T)
        return grad_x, grad_taps.permute(1, 2, 0), grad.sum(dim=(0, 2)), None


def _overlaps(num_taps: int, dilation: int, positions: int) -> list[tuple[slice, slice]]:
    """For each tap, the input positions it reads and the output positions it writes."""
    shifts = [(tap - num_taps // 2) * dilation for tap in range(num_taps)]
    assert max(shifts) < positions, f"a tap {max(shifts)} away sees nothing of {positions} positions"
    return [
        (slice(max(shift, 0), positions + min(shift, 0)), slice(max(-shift, 0), positions + min(-shift, 0)))
        for shift in shifts
    ]
