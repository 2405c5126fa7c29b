"""The Conformer against torch.nn.MultiheadAttention and against its equations in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from syllabary.model.config import ConformerConfig
from syllabary.model.conformer import ConformerLayer, ConformerStack, ConvolutionModule, FeedForward, SelfAttention

DIM, HEADS, KERNEL = 12, 3, 5
CONFIG = ConformerConfig(num_heads=HEADS, feed_forward_mult=4, conv_kernel=KERNEL, dropout=0.1)


def randomized(module: nn.Module) -> nn.Module:
    """Every weight random, norms and biases too, so that none of them can be left out unseen."""
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        with torch.no_grad():
            parameter.copy_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module.eval().requires_grad_(False)


def frames(length: int = 9, clips: int = 2) -> Tensor:
    return torch.randn(clips, length, DIM, generator=torch.Generator().manual_seed(length))


def numbers(parameter: Tensor) -> np.ndarray:
    return parameter.detach().double().numpy()


def layer_norm(x: np.ndarray, norm: nn.LayerNorm) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * numbers(norm.weight) + numbers(norm.bias)


def linear(x: np.ndarray, layer: nn.Linear) -> np.ndarray:
    return x @ numbers(layer.weight).T + numbers(layer.bias)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def feed_forward(x: np.ndarray, module: FeedForward) -> np.ndarray:
    """W2 silu(W1 LN(x)) of one clip [frames, dim]."""
    hidden = linear(layer_norm(x, module.norm), module.expand)
    return linear(hidden * sigmoid(hidden), module.contract)


def attention(x: np.ndarray, module: SelfAttention) -> np.ndarray:
    """softmax(q k^T / sqrt(d)) v, head by head."""
    query, key, value = np.split(linear(layer_norm(x, module.norm), module.qkv), 3, axis=-1)
    size, outputs = DIM // HEADS, []
    for head in range(HEADS):
        part = slice(head * size, (head + 1) * size)
        weights = np.exp(query[:, part] @ key[:, part].T / np.sqrt(size))
        outputs.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
    return linear(np.concatenate(outputs, axis=-1), module.out)


def convolution(x: np.ndarray, module: ConvolutionModule) -> np.ndarray:
    """Pointwise, a gate of its second half on its first, a filter a channel, LN, silu, pointwise."""
    gated = linear(layer_norm(x, module.norm), module.pointwise_in)
    gated = gated[:, :DIM] * sigmoid(gated[:, DIM:])
    taps, reach = numbers(module.depthwise.weight)[:, 0], KERNEL // 2
    padded = np.pad(gated, ((reach, reach), (0, 0)))
    mixed = np.stack([(padded[t : t + KERNEL] * taps.T).sum(0) for t in range(len(x))])
    normed = layer_norm(mixed + numbers(module.depthwise.bias), module.depthwise_norm)
    return linear(normed * sigmoid(normed), module.pointwise_out)


def layer_of(x: np.ndarray, layer: ConformerLayer) -> np.ndarray:
    x = x + feed_forward(x, layer.feed_forward_in) / 2
    x = x + attention(x, layer.attention)
    x = x + convolution(x, layer.convolution)
    x = x + feed_forward(x, layer.feed_forward_out) / 2
    return layer_norm(x, layer.norm)


@pytest.mark.parametrize("length", [1, 2, 9, 30])
def test_a_layer_is_its_equations(length: int) -> None:
    layer = randomized(ConformerLayer(DIM, CONFIG))
    x = frames(length)
    for found, clip in zip(layer(x, None).numpy(), x.double().numpy(), strict=True):
        np.testing.assert_allclose(found, layer_of(clip, layer), atol=2e-5, rtol=1e-4)


def test_attention_is_torchs() -> None:
    module = randomized(SelfAttention(DIM, HEADS, 0.1))
    theirs = nn.MultiheadAttention(DIM, HEADS, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": module.qkv.weight,
            "in_proj_bias": module.qkv.bias,
            "out_proj.weight": module.out.weight,
            "out_proj.bias": module.out.bias,
        }
    )
    x, mask = frames(9), torch.arange(9) < torch.tensor([[9], [4]])
    normed = torch.nn.functional.layer_norm(x, (DIM,), module.norm.weight, module.norm.bias)
    expected, _ = theirs.eval()(normed, normed, normed, key_padding_mask=~mask, need_weights=False)
    torch.testing.assert_close(module(x, mask)[mask], expected.detach()[mask], atol=1e-5, rtol=1e-4)


def test_a_stack_is_its_layers_over_channels_first_frames_of_valid_length() -> None:
    stack = randomized(ConformerStack(2, DIM, CONFIG.model_copy(update={"feed_forward_mult": 2})))
    x, lengths = frames(9), [9, 4]
    x[1, 4:] = 88.0
    found = stack(x.transpose(1, 2), torch.arange(9) < torch.tensor(lengths)[:, None])
    for one, clip, length in zip(found.numpy(), x.double().numpy(), lengths, strict=True):
        expected = clip[:length]
        for layer in stack.layers:
            expected = layer_of(expected, layer)
        np.testing.assert_allclose(one[:, :length].T, expected, atol=5e-5, rtol=1e-4)


def test_dropout_falls_on_every_branch_in_training_and_nowhere_after() -> None:
    """With dropout 1 - epsilon every branch is silent, and only the layer's own norm is left."""
    layer = randomized(ConformerLayer(DIM, CONFIG.model_copy(update={"dropout": 0.0})))
    for module in layer.modules():
        if isinstance(module, nn.Dropout):
            module.p = 1.0
    x = frames(9)
    silent = np.stack([layer_norm(clip, layer.norm) for clip in x.double().numpy()])
    np.testing.assert_allclose(layer.train()(x, None).numpy(), silent, atol=1e-5)
    full = np.stack([layer_of(clip, layer) for clip in x.double().numpy()])
    np.testing.assert_allclose(layer.eval()(x, None).numpy(), full, atol=2e-5, rtol=1e-4)
