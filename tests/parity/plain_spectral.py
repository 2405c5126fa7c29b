"""The spectral halves written plainly from their equations: loops over blocks, torch's bare operations, no masks.

The same weights as the model's modules; the spectrum itself and the inverse STFT have tests of their own
(tests/model/spectral/test_spectral.py, test_istft.py).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from published_model import daam_gate
from torch import Tensor, nn

from syllabary.model.conformer import SelfAttention
from syllabary.model.layers import UpConv1d
from syllabary.model.spectral.front_end import ConvNeXtBlock, SpectralFrontEnd
from syllabary.model.spectral.istft import Generator


def channel_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    """Over the channels of [batch, channels, positions]."""
    mean, variance = x.mean(dim=1, keepdim=True), x.var(dim=1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight[:, None] + norm.bias[:, None]


def pointwise(x: Tensor, layer: nn.Linear) -> Tensor:
    return torch.einsum("oi,bip->bop", layer.weight, x) + layer.bias[:, None]


def depthwise(x: Tensor, conv: nn.Conv1d) -> Tensor:
    """A filter a channel, tap by tap, zeros outside."""
    reach, length = conv.kernel_size[0] // 2, x.shape[-1]
    padded = F.pad(x, (reach, reach))
    taps = [conv.weight[:, 0, k, None] * padded[..., k : k + length] for k in range(conv.kernel_size[0])]
    return torch.stack(taps).sum(dim=0) + conv.bias[:, None]


def block(x: Tensor, module: ConvNeXtBlock) -> Tensor:
    """x + scale * W2 gelu(W1 LN(depthwise(x))), gelu(h) = h Phi(h)."""
    hidden = pointwise(channel_norm(depthwise(x, module.depthwise), module.norm), module.expand)
    hidden = hidden * torch.special.ndtr(hidden)
    return x + module.scale[:, None] * pointwise(hidden, module.contract)


def turned(x: Tensor) -> Tensor:
    """Channels i and i + d / 2 of [batch, d, positions] as one complex number, turned by t / 10000^(2 i / d)."""
    size, length = x.shape[1], x.shape[2]
    rates = torch.tensor([10_000 ** (-2 * i / size) for i in range(size // 2)])
    turn = torch.polar(torch.ones(size // 2, length), rates[:, None] * torch.arange(length))
    found = torch.complex(x[:, : size // 2], x[:, size // 2 :]) * turn
    return torch.cat([found.real, found.imag], dim=1)


def attend(x: Tensor, module: SelfAttention) -> Tensor:
    """x + attention(LN(x)), position by position over the neighbours within reach."""
    size, length = x.shape[1] // module.num_heads, x.shape[-1]
    query, key, value = pointwise(channel_norm(x, module.norm), module.qkv).chunk(3, dim=1)
    heads = []
    for q, k, v in zip(query.split(size, 1), key.split(size, 1), value.split(size, 1), strict=True):
        q, k = turned(q), turned(k)
        columns = []
        for t in range(length):
            near = slice(max(0, t - module.reach), t + module.reach + 1)
            weights = torch.softmax((q[..., t : t + 1] * k[..., near]).sum(dim=1) / math.sqrt(size), dim=-1)
            columns.append((v[..., near] * weights[:, None]).sum(dim=-1))
        heads.append(torch.stack(columns, dim=-1))
    return x + pointwise(torch.cat(heads, dim=1), module.out)


def stage(x: Tensor, blocks: nn.ModuleList) -> Tensor:
    for module in blocks:
        x = block(x, module) if isinstance(module, ConvNeXtBlock) else attend(x, module.attention)
    return x


def front_end(module: SpectralFrontEnd, waveform: Tensor) -> Tensor:
    """Features [batch, channels, frames] of waveforms [batch, samples] of whole frames."""
    first = module.stages[0]
    x = F.conv1d(module.spectrum(waveform), first.enter.weight, first.enter.bias, padding=1)
    x = stage(x, first.blocks.blocks)
    x = daam_gate(x, first.daam) if first.daam is not None else x
    for norm, later in zip(module.norms, list(module.stages)[1:], strict=True):
        stride = later.enter.stride[0]
        padded = F.pad(channel_norm(x, norm), (stride // 2, stride - stride // 2))
        x = stage(F.conv1d(padded, later.enter.weight, later.enter.bias, stride=stride), later.blocks.blocks)
        x = daam_gate(x, later.daam) if later.daam is not None else x
    return x


def features(generator: Generator, values: Tensor) -> Tensor:
    """What the trunk makes [batch, channels, positions] of quantized latents [batch, dim, frames]."""
    trunk = generator.trunk
    x = stage(F.conv1d(values, trunk.input.weight, trunk.input.bias), trunk.stages[0].blocks)
    for up, later in zip(trunk.ups, list(trunk.stages)[1:], strict=True):
        x = stage(transposed(x, up), later.blocks)
    return x


def transposed(x: Tensor, up: UpConv1d) -> Tensor:
    full = F.conv_transpose1d(x, up.weight, up.bias, stride=up.stride)
    return full[..., up.stride // 2 : up.stride // 2 + x.shape[-1] * up.stride]


def decode(generator: Generator, heard: Tensor) -> Tensor:
    """Waveforms [batch, samples] of what ``Trunk.with_source`` gives; the formant filter has tests of its own
    (tests/model/spectral/test_formants.py)."""
    vocoder = generator.vocoder
    pulses, noise = vocoder.source(heard[:, -4:])
    x = stage(transposed(heard[:, :-4], vocoder.up), vocoder.stage.blocks)
    return vocoder.head(x, None, pulses, noise, generator.formant_gain)
