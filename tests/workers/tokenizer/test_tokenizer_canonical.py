"""Tokens are canonical: the same bits alone, in any batch and order, at 1 or 2 threads, in 1 or 2 processes."""

import hashlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.shards.errors import ConfigError
from syllabary.workers.recipes.named import RECIPES, paper
from syllabary.workers.tokenizer import networks as inference
from syllabary.workers.tokenizer.networks import canonical_arithmetic
from syllabary.workers.tokenizer.tokenizer import Encoded, Tokenizer, save_tokenizer
from tests.helpers.small_models import CONFIGS, HOP, RATE, small_tokenizer

KINDS = sorted(CONFIGS)
_REPLAY = """
import json, sys, hashlib, numpy as np, torch
from syllabary.workers.tokenizer.tokenizer import Tokenizer
path, threads, *uris = sys.argv[1:]
torch.set_num_threads(int(threads))
clips = list(np.load(path).values())
digest = lambda a: hashlib.sha256(a.tobytes()).hexdigest()
rows = []
for uri in uris:
    tokenizer = Tokenizer.load(uri)
    found = [tokenizer.encode(clip, tokenizer.sample_rate) for clip in clips]
    wavs = [tokenizer.decode(e.tokens, e.num_samples) for e in found]
    rows += [[digest(e.tokens), digest(e.salience), e.margin, digest(w)] for e, w in zip(found, wavs)]
print(json.dumps(rows))
"""


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {kind: small_tokenizer(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def clip(num_samples: int) -> np.ndarray:
    rng = np.random.default_rng(num_samples)
    return (rng.standard_normal(num_samples) * 0.2).astype(np.float32)


def same(a: Encoded, b: Encoded) -> bool:
    return np.array_equal(a.tokens, b.tokens) and np.array_equal(a.salience, b.salience) and a.margin == b.margin


@pytest.fixture(autouse=True)
def _restore_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@settings(max_examples=12, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    lengths=st.lists(st.integers(1, 30 * HOP), min_size=1, max_size=5),
    threads=st.sampled_from([1, 2]),
    order=st.randoms(use_true_random=False),
)
def test_alone_or_in_any_batch_and_order(
    tokenizers: dict[str, Tokenizer], kind: str, lengths: list[int], threads: int, order
) -> None:
    tokenizer, clips = tokenizers[kind], [clip(n) for n in lengths]
    torch.set_num_threads(1)
    alone = [tokenizer.encode(c, RATE) for c in clips]
    sound = [tokenizer.decode(e.tokens, e.num_samples) for e in alone]
    torch.set_num_threads(threads)
    shuffled = list(range(len(clips)))
    order.shuffle(shuffled)
    together = tokenizer.encode([clips[i] for i in shuffled], RATE)
    assert all(same(alone[i], found) for i, found in zip(shuffled, together, strict=True))
    decoded = tokenizer.decode([e.tokens for e in alone], lengths)
    assert all(np.array_equal(a, b) for a, b in zip(sound, decoded, strict=True))
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("recipe", ["tiny_paper", "fast16k_small"])
@pytest.mark.parametrize("seconds", [1.0, 4.0, 4.8, 11.3])
def test_a_recipe_at_one_and_two_threads(tmp_path: Path, recipe: str, seconds: float) -> None:
    """Lengths at which plain torch does give other bits at two threads (measured: 4.0 s at tiny_paper)."""
    tokenizer, wav = recipe_tokenizer(tmp_path, recipe), clip(int(seconds * 16_000))
    torch.set_num_threads(1)
    one = tokenizer.encode(wav, 16_000)
    sound = tokenizer.decode(one.tokens, one.num_samples)
    torch.set_num_threads(2)
    assert same(one, tokenizer.encode(wav, 16_000))
    assert np.array_equal(sound, tokenizer.decode(one.tokens, one.num_samples))


def recipe_tokenizer(folder: Path, recipe: str) -> Tokenizer:
    from syllabary.model.codec import Codec

    torch.manual_seed(0)
    config = RECIPES[recipe]().model
    codec = Codec(config)
    states = codec.encoder.state_dict(), codec.generator.state_dict()
    save_tokenizer(str(folder), config, *states, recipe={"name": recipe})
    return Tokenizer.load(str(folder))


def test_same_bits_in_other_processes_at_other_thread_counts(tmp_path: Path) -> None:
    uris = [str(tmp_path / kind) for kind in ("waveform", "spectral")]
    for uri in uris:
        small_tokenizer(Path(uri).name, Path(uri))
    np.savez(tmp_path / "clips.npz", *[clip(n) for n in (1, 777, 12 * HOP, 33 * HOP + 5)])
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _REPLAY, str(tmp_path / "clips.npz"), threads, *uris],
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "2")
    ]
    first, second = (json.loads(run.communicate(timeout=200)[0]) for run in runs)
    assert first == second
    assert len({row[0] for row in first}) == 8


def test_bf16_is_refused_where_the_processor_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inference, "computes_bf16", lambda device: False)
    with pytest.raises(ConfigError, match="this CPU does not compute in bf16"):
        small_tokenizer("waveform", tmp_path / "bf16", precision="bf16")


@pytest.mark.skipif(not inference.computes_bf16(torch.device("cpu")), reason="this CPU does not compute in bf16")
def test_precision_is_another_identity_and_is_canonical_too(tmp_path: Path) -> None:
    fp32 = small_tokenizer("waveform", tmp_path / "fp32")
    bf16 = small_tokenizer("waveform", tmp_path / "bf16", precision="bf16")
    assert fp32.encoder_digest != bf16.encoder_digest
    assert fp32.decoder_digest == bf16.decoder_digest
    wav = clip(19 * HOP)
    torch.set_num_threads(1)
    one = bf16.encode(wav, RATE)
    torch.set_num_threads(2)
    assert same(one, bf16.encode([wav, clip(5)], RATE)[0])
    difference = np.abs(bf16.latents(wav, RATE) - fp32.latents(wav, RATE))
    assert 1e-4 < difference.max() < 0.3


SETTINGS = {
    "legacy": ("torch.set_float32_matmul_precision('medium')", "torch.get_float32_matmul_precision()", "medium"),
    "new": ("torch.backends.fp32_precision = 'bf16'", "torch.backends.mkldnn.conv.fp32_precision", "bf16"),
    "cudnn": ("torch.backends.cudnn.benchmark = True", "torch.backends.cudnn.benchmark", "True"),
}
_UNDER_SETTING = """
import sys, numpy as np, torch
from syllabary.workers.tokenizer.tokenizer import Tokenizer
uri, setting, question, out = sys.argv[1:]
tokenizer, wav = Tokenizer.load(uri), np.load(uri + "/clip.npy")
exec(setting)
with torch.autocast("cpu", torch.bfloat16):
    found = tokenizer.latents([wav, wav], tokenizer.sample_rate)
    sound = tokenizer.decode(tokenizer.encode(wav, tokenizer.sample_rate).tokens, len(wav))
np.savez(out, latents=found[1], sound=sound, kept=str(eval(question)))
"""


@pytest.mark.parametrize("setting", sorted(SETTINGS))
def test_what_the_process_has_set_changes_no_bit_and_is_left_as_it_was(tmp_path: Path, setting: str) -> None:
    """The settings are the process's own for good, so each is tried in a process of its own."""
    tokenizer, wav = small_tokenizer("spectral", tmp_path), clip(17 * HOP)
    np.save(tmp_path / "clip.npy", wav)
    statement, question, kept = SETTINGS[setting]
    out = str(tmp_path / "found.npz")
    command = [sys.executable, "-c", _UNDER_SETTING, str(tmp_path), statement, question, out]
    subprocess.run(command, check=True)
    found = np.load(out)
    assert str(found["kept"]) == kept
    assert np.array_equal(found["latents"], tokenizer.latents(wav, RATE))
    assert np.array_equal(found["sound"], tokenizer.decode(tokenizer.encode(wav, RATE).tokens, len(wav)))


@pytest.mark.slow
@pytest.mark.timeout(1_200)
def test_paper_shape(tmp_path: Path) -> None:
    """The full-size model takes kernels that no small one does: Winograd's form, chunks, packed weights."""
    from syllabary.model.codec import Codec
    from syllabary.model.encoder import loudness_gain

    torch.manual_seed(0)
    codec = Codec(paper().model)
    uri = str(tmp_path / "paper")
    save_tokenizer(uri, paper().model, codec.encoder.state_dict(), codec.generator.state_dict(), recipe={})
    clips = [clip(n) for n in (1, 24_000, 5 * 24_000 + 7)]
    np.savez(tmp_path / "clips.npz", *clips)
    tokenizer = Tokenizer.load(uri)
    torch.set_num_threads(1)
    alone = [tokenizer.encode(c, 24_000) for c in clips]
    sound = [tokenizer.decode(e.tokens, e.num_samples) for e in alone]
    torch.set_num_threads(2)
    together = tokenizer.encode(clips[::-1], 24_000)[::-1]
    assert all(same(a, b) for a, b in zip(alone, together, strict=True))
    decoded = tokenizer.decode([e.tokens for e in alone], [len(c) for c in clips])
    assert all(np.array_equal(a, b) for a, b in zip(sound, decoded, strict=True))
    for threads in ("1", "2"):
        command = [sys.executable, "-c", _REPLAY, str(tmp_path / "clips.npz"), threads, uri]
        rows = json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout)
        assert [row[2] for row in rows] == [e.margin for e in alone]
        assert [row[0] for row in rows] == [hashlib.sha256(e.tokens.tobytes()).hexdigest() for e in alone]
        assert [row[3] for row in rows] == [hashlib.sha256(w.tobytes()).hexdigest() for w in sound]
    plain = codec.eval().requires_grad_(False)
    for wav, encoded in zip(clips, alone, strict=True):
        samples = torch.from_numpy(wav)
        padded = torch.zeros(1, (len(encoded.tokens) + 3) * 9_600)
        padded[0, : len(wav)] = samples * loudness_gain(samples, 24_000, tokenizer.config.encoder.loudness_dbfs)
        with torch.inference_mode():
            latents = plain.encoder(padded, torch.tensor([len(wav)])).latents[..., : len(encoded.tokens)]
        indices = plain.fsq(latents).level_indices[0].T.numpy()
        assert np.array_equal(tokenizer.packing.unpack(encoded.tokens), indices)


PRECISIONS = (
    (torch.backends.mkldnn.matmul, "bf16"),
    (torch.backends.mkldnn.conv, "bf16"),
    (torch.backends.cuda.matmul, "tf32"),
    (torch.backends.cudnn.conv, "tf32"),
)


@pytest.fixture
def coarse() -> Iterator[None]:
    """A process that lets products round, as ``torch.set_float32_matmul_precision("medium")`` does."""
    before = [owner.fp32_precision for owner, _ in PRECISIONS]
    for owner, precision in PRECISIONS:
        owner.fp32_precision = precision
    yield
    for (owner, _), precision in zip(PRECISIONS, before, strict=True):
        owner.fp32_precision = precision


def test_tokens_are_computed_in_full_precision_and_the_process_gets_its_own_back(coarse: None) -> None:
    """On a processor that multiplies in bf16 (AMX) these settings change bits; elsewhere only the settings show it."""
    for _ in range(2):
        with canonical_arithmetic(torch.device("cpu")):
            assert [owner.fp32_precision for owner, _ in PRECISIONS] == ["ieee"] * 4
            with canonical_arithmetic(torch.device("cpu")):
                assert torch.get_num_threads() == 1 and torch.is_inference_mode_enabled()
            assert [owner.fp32_precision for owner, _ in PRECISIONS] == ["ieee"] * 4, "the outer block goes on"
        assert [owner.fp32_precision for owner, _ in PRECISIONS] == [precision for _, precision in PRECISIONS]
