"""The published structure, written plainly: separate torch operations on [batch, channels, time], nothing fused.

The same weights as the model's modules, read from a codec; dead taps are convolved, transposed convolutions are torch's
own. Padding of odd strides follows the model (exact lengths), since the published one loses frames. Used as the
yardstick of parity and of the encode and decode benchmarks; run it with one thread (oneDNN's transposed convolution is
wrong with two).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from syllabary.model.codec import Codec
from syllabary.model.conformer import ConformerLayer, ConvolutionModule, FeedForward, SelfAttention
from syllabary.model.daam import Daam
from syllabary.model.layers import ResidualBlock, SnakeBeta


def snake(x: Tensor, module: SnakeBeta) -> Tensor:
    alpha = (F.softplus(module.raw_alpha) + 0.01)[None, :, None]
    return x + torch.sin(alpha * x) ** 2 / torch.clamp(alpha, min=0.1)


def same_conv(x: Tensor, conv: torch.nn.Conv1d) -> Tensor:
    padding = conv.dilation[0] * (conv.kernel_size[0] - 1) // 2
    return F.conv1d(x, conv.weight, conv.bias, padding=padding, dilation=conv.dilation[0])


def residual_block(x: Tensor, block: ResidualBlock) -> Tensor:
    for dilated, plain in zip(block.dilated, block.plain, strict=True):
        hidden = same_conv(F.leaky_relu(x, 0.1), dilated)
        hidden = same_conv(F.leaky_relu(hidden, 0.1), plain)
        x = hidden + x
    return x


def daam_gate(x: Tensor, daam: Daam) -> Tensor:
    a = F.conv1d(x, daam.projection.weight, daam.projection.bias)
    mean = a.mean(dim=-1, keepdim=True)
    sigma = a.var(dim=-1, keepdim=True, unbiased=False).clamp(min=1e-6).sqrt()
    log_p = []
    for offset, raw_scale in zip(daam.offset, daam.raw_scale, strict=True):
        scale = F.softplus(raw_scale) + 1e-3
        z = (a - (mean + offset)) / (sigma * scale + 1e-6)
        log_p.append(-0.5 * z**2 - torch.log(scale) - 0.5 * math.log(2 * math.pi))
    log_gate = torch.logsumexp(torch.stack(log_p), dim=0) - math.log(len(log_p))
    return x * (1 + daam.alpha * torch.exp(log_gate))


def layer_norm(x: Tensor, norm: torch.nn.LayerNorm) -> Tensor:
    mean, variance = x.mean(dim=-1, keepdim=True), x.var(dim=-1, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(variance + 1e-5) * norm.weight + norm.bias


def linear(x: Tensor, layer: torch.nn.Linear) -> Tensor:
    return x @ layer.weight.T + layer.bias


def feed_forward(x: Tensor, module: FeedForward) -> Tensor:
    hidden = linear(layer_norm(x, module.norm), module.expand)
    return linear(hidden * torch.sigmoid(hidden), module.contract)


def self_attention(x: Tensor, module: SelfAttention) -> Tensor:
    size = x.shape[-1] // module.num_heads
    query, key, value = linear(layer_norm(x, module.norm), module.qkv).chunk(3, dim=-1)
    heads = []
    for q, k, v in zip(query.split(size, -1), key.split(size, -1), value.split(size, -1), strict=True):
        weights = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(size), dim=-1)
        heads.append(weights @ v)
    return linear(torch.cat(heads, dim=-1), module.out)


def convolution_module(x: Tensor, module: ConvolutionModule) -> Tensor:
    values, gates = linear(layer_norm(x, module.norm), module.pointwise_in).chunk(2, dim=-1)
    conv = module.depthwise
    padding = (conv.kernel_size[0] - 1) // 2
    gated = (values * torch.sigmoid(gates)).transpose(1, 2)
    mixed = F.conv1d(gated, conv.weight, conv.bias, padding=padding, groups=gated.shape[1]).transpose(1, 2)
    normed = layer_norm(mixed, module.depthwise_norm)
    return linear(normed * torch.sigmoid(normed), module.pointwise_out)


def conformer_layer(x: Tensor, layer: ConformerLayer) -> Tensor:
    x = x + feed_forward(x, layer.feed_forward_in) / 2
    x = x + self_attention(x, layer.attention)
    x = x + convolution_module(x, layer.convolution)
    x = x + feed_forward(x, layer.feed_forward_out) / 2
    return layer_norm(x, layer.norm)


def encode(codec: Codec, waveform: Tensor) -> Tensor:
    """Latents [batch, dim, frames] of clips [batch, samples] of whole frames."""
    front_end = codec.encoder.front_end
    x = same_conv(waveform[:, None], front_end.input)
    for stride, block in zip(front_end.strides, front_end.blocks, strict=True):
        x = F.pad(x, (stride // 2, stride - stride // 2))
        x = snake(F.conv1d(x, block.down.weight, block.down.bias, stride=stride), block.snake)
        for residual in block.residual:
            x = residual_block(x, residual)
        if block.daam is not None:
            x = daam_gate(x, block.daam)
    projection = codec.encoder.projection
    x = F.conv1d(x, projection.weight, projection.bias).transpose(1, 2)
    for layer in codec.encoder.conformers.layers:
        x = conformer_layer(x, layer)
    return x.transpose(1, 2)


def decode(codec: Codec, values: Tensor) -> Tensor:
    """Waveforms [batch, samples] of quantized latents [batch, dim, frames]."""
    generator = codec.generator
    x = generator.input(values)
    for stride, block in zip(generator.strides, generator.blocks, strict=True):
        full = F.conv_transpose1d(snake(x, block.snake), block.up.weight, block.up.bias, stride=stride)
        x = full[..., stride // 2 : stride // 2 + x.shape[-1] * stride]
        total = None
        for residual in block.mrf.blocks:
            branch = residual_block(x, residual)
            total = branch if total is None else total + branch
        x = total / len(block.mrf.blocks)
        if block.daam is not None:
            x = daam_gate(x, block.daam)
    return torch.tanh(same_conv(x, generator.output))[:, 0]
