"""The faster forms are asked for and not built in: a plain model has none, an accelerated one has the same values."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from syllabary.model.codec import Codec
from syllabary.model.cpu import accelerate as seam
from syllabary.model.cpu import winograd
from syllabary.model.cpu.accelerate import FusedFrontEnd, FusedGenerator, accelerate, accelerate_inference
from syllabary.model.layers import ResidualStage
from tests.helpers.small_models import CONFIGS, small_codec

FRAMING = CONFIGS["waveform"].framing


def latents(codec: Codec) -> Tensor:
    waveform = 0.1 * torch.randn(1, 2_400, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return codec.encoder(waveform, torch.tensor([2_400])).latents


def stages(codec: Codec) -> list[ResidualStage]:
    return [part for part in codec.modules() if isinstance(part, ResidualStage)]


def test_an_accelerated_model_and_its_copies_use_the_faster_form_with_the_same_values_and_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(winograd, "_WIDE", 1)
    monkeypatch.setattr(winograd, "_LONG", 0)
    codec, faster, used = small_codec("waveform"), seam.run_residual_blocks, list[int]()
    monkeypatch.setattr(seam, "run_residual_blocks", lambda *given: used.append(1) or faster(*given))
    plain, keys = latents(codec), list(codec.state_dict())
    assert stages(codec) and all(stage.form is None for stage in stages(codec)) and not used
    assert accelerate(codec) is codec and list(codec.state_dict()) == keys
    for one in (codec, copy.deepcopy(codec)):  # JEPA's target encoder is a copy
        torch.testing.assert_close(latents(one), plain, rtol=1e-4, atol=1e-5)
        assert len(used) == len(stages(codec))
        used.clear()


def test_inference_takes_the_fused_forms_and_gives_up_the_weights() -> None:
    codec = small_codec("waveform")
    plain = latents(codec)
    codec.encoder = accelerate_inference(codec.encoder, FRAMING, torch.float32)  # type: ignore[assignment]
    assert isinstance(codec.encoder.front_end, FusedFrontEnd) and not list(codec.encoder.front_end.parameters())
    torch.testing.assert_close(latents(codec), plain, rtol=1e-4, atol=1e-5)
    assert isinstance(accelerate_inference(codec.generator, FRAMING, torch.float32), FusedGenerator)


def test_what_has_no_fused_form_stays() -> None:
    codec = small_codec("spectral")
    front_end = codec.encoder.front_end
    assert accelerate_inference(codec.encoder, FRAMING, torch.float32) is codec.encoder
    assert codec.encoder.front_end is front_end
    assert accelerate_inference(codec.generator, FRAMING, torch.float32) is codec.generator
