"""The paper's own numbers, on the paper's own shapes (meta device: no memory, no time)."""

import pytest
import torch

from syllabary.model.codec import Codec
from syllabary.model.config import ModelConfig
from syllabary.model.discriminators import Discriminators
from syllabary.model.jepa import Jepa
from syllabary.workers.recipes.bitrates import packing_of, rates_of
from syllabary.workers.recipes.named import paper


def millions(module: torch.nn.Module) -> float:
    return round(sum(p.numel() for p in module.parameters()) / 1e6, 2)


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    return paper().model


@pytest.fixture(scope="module")
def jepa(config: ModelConfig) -> Jepa:
    with torch.device("meta"):
        return Jepa(config.encoder, config.jepa)


def test_encoder_stages_and_conformers(jepa: Jepa) -> None:
    encoder = jepa.context_encoder
    assert [millions(block) for block in encoder.front_end.blocks] == [2.50, 9.97, 22.24, 39.74, 40.92]
    assert millions(encoder.conformers) == 3.08
    assert millions(encoder) == 118.51


def test_predictor_and_totals_of_the_paper(jepa: Jepa) -> None:
    encoder, predictor = millions(jepa.context_encoder), millions(jepa.predictor)
    assert predictor == 3.18
    assert round(encoder + predictor, 1) == 121.7
    assert millions(jepa) == 240.20


def test_decoder_and_inference_total(config: ModelConfig, jepa: Jepa) -> None:
    with torch.device("meta"):
        codec = Codec(config)
    assert millions(codec.generator) == 69.29
    assert round(millions(codec.generator) + millions(jepa.context_encoder) + millions(jepa.predictor), 1) == 191.0
    assert round(millions(codec), 1) == 187.8


def test_six_mrf_kernels_would_not_give_the_papers_decoder(config: ModelConfig) -> None:
    all_six = config.decoder.model_copy(
        update={"mrf_kernels": (3, 7, 11, 15, 23, 33), "mrf_dilations": ((1, 3, 5),) * 6}
    )
    with torch.device("meta"):
        codec = Codec(config.model_copy(update={"decoder": all_six}))
    assert millions(codec.generator) > 270


def test_discriminators(config: ModelConfig) -> None:
    with torch.device("meta"):
        found = Discriminators(config.discriminator)
    assert millions(found.periods) == 41.09
    assert millions(found.scales) == 16.91


def test_rates(config: ModelConfig) -> None:
    rates = rates_of(config)
    assert (config.framing.hop_length, config.framing.frame_rate) == (9_600, 2.5)
    assert (rates.num_groups, rates.tokens_per_s, rates.vocabulary) == (19, 47.5, 16_384)
    assert (rates.payload_bits_per_s, rates.nominal_bits_per_s, rates.stored_bits_per_s) == (640, 665, 760)


def test_the_nineteenth_token_has_sixteen_ids(config: ModelConfig) -> None:
    assert packing_of(config).position_sizes == (16_384,) * 18 + (16,)


def test_a_clip_of_15_seconds_is_one_window(config: ModelConfig) -> None:
    assert config.framing.window_frames == config.framing.num_frames(15 * 24_000) == 38
