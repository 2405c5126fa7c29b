"""Other codecs from a checkpoint directory: small random ones of each kind, saved as ``transformers`` saves them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from syllabary.shards.errors import InputError
from syllabary.workers.evaluation.baselines import Speech
from syllabary.workers.evaluation.peers import load_peers, peer_digest, peer_directories, require_peers
from syllabary.workers.evaluation.scoring import RATE
from syllabary.workers.recipes.named import resolve
from syllabary.workers.report.card import read_card
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.conftest import voiced
from tests.helpers.evaluation_testing import evaluate_here, make_job
from tests.helpers.standin import URI, ship

KINDS = ("dac", "encodec", "mimi", "wavlm")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint of each kind."""
    import torch
    import transformers

    torch.manual_seed(0)
    shared = {"num_filters": 4, "hidden_size": 16, "codebook_size": 16, "upsampling_ratios": [4, 2]}
    mimi = {"codebook_dim": 8, "vector_quantization_hidden_dimension": 8, "num_hidden_layers": 1, "head_dim": 8}
    mimi |= {"num_attention_heads": 2, "num_key_value_heads": 2, "intermediate_size": 16, "num_quantizers": 2}
    dac = {"encoder_hidden_size": 4, "downsampling_ratios": [2, 4], "decoder_hidden_size": 16, "n_codebooks": 2}
    wavlm = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "conv_dim": (8,) * 7}
    wavlm |= {"num_conv_pos_embeddings": 4, "num_conv_pos_embedding_groups": 2, "hidden_size": 16}
    configs = {
        "encodec": transformers.EncodecConfig(**shared, codebook_dim=16, num_lstm_layers=1),
        "mimi": transformers.MimiConfig(**shared, **mimi, upsample_groups=16),
        "dac": transformers.DacConfig(**dac, codebook_size=16, codebook_dim=4, sampling_rate=RATE),
        "wavlm": transformers.WavLMConfig(**wavlm),
    }
    folder = tmp_path_factory.mktemp("peers")
    for name, config in configs.items():
        transformers.AutoModel.from_config(config).save_pretrained(folder / name)
    return folder


@pytest.mark.parametrize("kind", ["dac", "encodec", "mimi"])
def test_a_codec_gives_back_as_much_as_it_got_at_the_rate_of_its_codes(checkpoints: Path, kind: str) -> None:
    (codec,) = load_peers([f"other={checkpoints / kind}"])
    speech = Speech.of("x", voiced(np.random.default_rng(0), 1.0, 120), RATE)
    degraded = codec(speech)
    assert (codec.system.name, codec.system.kind) == ("other", "baseline") and kind in codec.system.description
    assert degraded.samples.shape == speech.samples.shape and degraded.samples.dtype == np.float32
    assert np.array_equal(degraded.samples, codec(speech).samples)
    codes_a_second = {"dac": 2 * RATE / 8, "encodec": 24_000 / 8, "mimi": 24_000 / 8}[kind]
    assert degraded.num_bits == pytest.approx(4 * codes_a_second, rel=0.01), "codes of 16 entries have four bits"


def test_peers_stand_in_the_report(checkpoints: Path, tmp_path: Path) -> None:
    peers = (f"codec={checkpoints / 'dac'}", f"ruler={checkpoints / 'wavlm'}")
    metrics = ("mel_distance", "wavlm_similarity")
    job = make_job(tmp_path, peers=peers, metrics=metrics, limit=2, num_probes=0, num_samples=1)
    evaluate_here(job)
    card = read_card(job.out)
    assert {s.name: s.bitrates.stored for s in card.systems}["codec"] == pytest.approx(16_000, rel=0.01)
    assert card.score("codec", "mel_distance") and "codec" in {sound.system for sound in card.samples[0].sounds}
    best, worst = card.score("original", "wavlm_similarity"), card.score("noise", "wavlm_similarity")
    assert best and worst and best.mean == pytest.approx(1) and worst.mean < best.mean


def test_a_checkpoint_that_does_not_load_is_one_line(checkpoints: Path, tmp_path: Path) -> None:
    values = json.loads((checkpoints / "dac" / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match="checkpoint does not load") as caught:
        require_peers([f"dac={tmp_path}"])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("peers", [["dac"], ["a b=x"], ["=x"]])
def test_a_peer_is_name_and_folder(peers: list[str]) -> None:
    with pytest.raises(InputError, match="NAME=DIR"):
        peer_directories(peers)


def test_a_name_is_taken_once_and_a_folder_must_hold_a_known_model(checkpoints: Path, tmp_path: Path) -> None:
    one = f"dac={checkpoints / 'dac'}"
    with pytest.raises(InputError, match="each name once"):
        peer_directories([one, one])
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(
        InputError, match=r"no known checkpoint.*'bert'; expected model_type one of dac, encodec, mimi, wavlm"
    ):
        peer_directories([f"bert={tmp_path}"])


def test_another_checkpoint_has_another_digest(checkpoints: Path) -> None:
    digests = {peer_digest(str(checkpoints / kind)) for kind in KINDS}
    assert len(digests) == len(KINDS) and peer_digest(str(checkpoints / "dac")) in digests


def test_another_tokenizer_is_a_peer_at_its_own_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By path or as a builtin; the same tokens and sound as by itself."""
    ship(tmp_path, monkeypatch, resolve("tiny"))
    path, named = load_peers([f"path={tmp_path / 'standin'}", f"named={URI}"])
    speech = Speech.of("x", voiced(np.random.default_rng(0), 1.3, 120), RATE)
    tokenizer = Tokenizer.load(URI)
    wanted = tokenizer.decode(tokenizer.encode(speech.stored, RATE).tokens, len(speech.stored), RATE)
    for codec in (path, named):
        degraded = codec(speech)
        assert np.array_equal(degraded.samples, wanted)
        assert degraded.num_bits == 4 * 128 * 2  # 4 frames of 128 dims of 2 bits
        assert codec.system.bitrates.payload == 640 and tokenizer.encoder_digest[:12] in codec.system.description
    assert peer_digest(URI) == peer_digest(str(tmp_path / "standin"))
    with pytest.raises(InputError, match="unknown builtin: 'builtin:other'"):
        peer_directories(["x=builtin:other"])
