"""Fused inference gives what the modules give, to rounding, at every length up to the window."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.model.codec import Codec
from syllabary.model.config import HifiganDecoderConfig, ModelConfig
from syllabary.model.cpu import accelerate as fused
from syllabary.model.cpu import winograd
from syllabary.model.cpu.accelerate import FarConv, FusedFrontEnd, FusedGenerator
from syllabary.model.cpu.winograd import WinogradResiduals
from syllabary.model.layers import ResidualBlock, SameConv1d
from tests.helpers.small_models import CONFIGS, HOP

WIDE = ModelConfig(
    encoder=CONFIGS["waveform"].encoder,
    decoder=HifiganDecoderConfig(
        channels=(12, 10, 8, 6), strides=(3, 5, 8), mrf_kernels=(3, 7, 11), mrf_dilations=((1, 3, 5),) * 3, daam=True
    ),
)
WINDOW = 20


def built(config: ModelConfig) -> Codec:
    torch.manual_seed(0)
    return Codec(config).eval().requires_grad_(False)


CODECS = [built(config) for config in (CONFIGS["waveform"], WIDE, CONFIGS["no_daam"])]
FRONT_ENDS = [FusedFrontEnd(codec.encoder.front_end, WINDOW * HOP, torch.float32) for codec in CODECS]
GENERATORS = [FusedGenerator(codec.generator, WINDOW) for codec in CODECS[:2]]


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2), st.integers(1, WINDOW))
def test_front_end(which: int, frames: int) -> None:
    waveform = torch.randn(1, frames * HOP, generator=torch.Generator().manual_seed(frames)) * 0.3
    with torch.inference_mode():
        expected, density = CODECS[which].encoder.front_end(waveform, None, HOP)
        found, found_density = FRONT_ENDS[which](waveform.clone(), None, HOP)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert (density is None) == (found_density is None)
    if density is not None:
        torch.testing.assert_close(found_density, density, atol=1e-4, rtol=1e-3)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1), st.integers(1, WINDOW), st.integers(0, HOP - 1))
def test_generator(which: int, frames: int, short: int) -> None:
    values = torch.randn(1, 16, frames, generator=torch.Generator().manual_seed(frames))
    num_samples = torch.tensor([frames * HOP - short])
    with torch.inference_mode():
        expected = CODECS[which].generator(values, num_samples)
        found = GENERATORS[which](values.clone(), num_samples)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert GENERATORS[which].context_frames == CODECS[which].generator.context_frames


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(2, 70))
def test_far_convolution_at_any_length(positions: int, dilation: int) -> None:
    torch.manual_seed(positions)
    conv, x = SameConv1d(5, 5, 3, dilation).requires_grad_(False), torch.randn(1, 5, positions)
    columns = x[:, :, None].contiguous(memory_format=torch.channels_last)
    expected = torch.nn.functional.leaky_relu(conv(x), 0.1)
    torch.testing.assert_close(FarConv(conv, torch.float32)(columns)[:, :, 0], expected, atol=1e-5, rtol=1e-4)


def test_wide_stages_and_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What only a wide model or a long clip takes: Winograd's form, and stages that are worked through in chunks."""
    monkeypatch.setattr(winograd, "_WIDE", 6)
    monkeypatch.setattr(fused, "_CHUNK_VALUES", 64)
    codec = CODECS[1]
    front_end, generator = (
        FusedFrontEnd(codec.encoder.front_end, WINDOW * HOP, torch.float32),
        FusedGenerator(CODECS[0].generator, WINDOW),
    )
    assert isinstance(front_end.blocks[0].residual, WinogradResiduals)
    assert front_end.blocks[0].down.size < WINDOW * HOP // 8 // 2
    assert generator.blocks[-1].size < WINDOW * HOP // 8 // 2
    for frames in (1, 2, WINDOW):
        waveform, values = torch.randn(1, frames * HOP) * 0.3, torch.randn(1, 16, frames)
        length = torch.tensor([frames * HOP])
        with torch.inference_mode():
            torch.testing.assert_close(
                front_end(waveform, None, HOP)[0],
                codec.encoder.front_end(waveform, None, HOP)[0],
                atol=1e-5,
                rtol=1e-4,
            )
            torch.testing.assert_close(
                generator(values, length), CODECS[0].generator(values, length), atol=1e-5, rtol=1e-4
            )


@pytest.mark.parametrize("positions", [1, 5, 16])
def test_zeros_after_a_short_clip_change_nothing(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    torch.manual_seed(0)
    block, x = ResidualBlock(6, 3, (1, 2, 5)).requires_grad_(False), torch.randn(1, 6, positions)
    columns = x[:, :, None].contiguous(memory_format=torch.channels_last)
    monkeypatch.setattr(fused, "_FEWEST_POSITIONS", {6: 16})
    with torch.inference_mode():
        expected = block(x, None)  # first: one position lies in memory alike in either order, and x may be overwritten
        for keep in (True, False):
            found = fused.fused_block(block, 20, torch.float32)(columns, keep=keep)
            torch.testing.assert_close(found[:, :, 0], expected, atol=1e-5, rtol=1e-4)


def test_weights_are_given_up_only_when_asked() -> None:
    codec = built(CONFIGS["waveform"])
    FusedFrontEnd(codec.encoder.front_end, WINDOW * HOP, torch.float32)
    assert not any(p.is_meta for p in codec.parameters())
    FusedFrontEnd(codec.encoder.front_end, WINDOW * HOP, torch.float32, keep_weights=False)
    FusedGenerator(codec.generator, WINDOW, keep_weights=False)
    for name, parameter in codec.named_parameters():
        in_stage = ".blocks." in name and not any(part in name for part in ("snake", "daam", "conformers"))
        assert parameter.is_meta == in_stage, name


def test_longer_than_the_window_is_refused() -> None:
    with pytest.raises(AssertionError, match="longer than the window"), torch.inference_mode():
        FRONT_ENDS[0](torch.zeros(1, (WINDOW + 1) * HOP), None, HOP)


def test_what_was_convolved_before_changes_no_bit() -> None:
    waveform = torch.randn(1, 7 * HOP)
    with torch.inference_mode():
        fresh = FusedFrontEnd(CODECS[0].encoder.front_end, WINDOW * HOP, torch.float32)
        first = fresh(waveform.clone(), None, HOP)[0].clone()
        for frames in (1, 20, 3):
            fresh(torch.randn(1, frames * HOP), None, HOP)
        assert torch.equal(fresh(waveform.clone(), None, HOP)[0], first)
