"""The tokenizer as users call it: lengths, rates, long audio, bad input."""

import math
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from syllabary.model.codec import Codec
from syllabary.model.encoder import loudness_gain
from syllabary.shards.errors import InputError
from syllabary.workers.tokenizer.tokenizer import Tokenizer, save_tokenizer
from tests.helpers.small_models import CONFIGS, HOP, RATE, small_codec, small_tokenizer

KINDS = sorted(CONFIGS)
WINDOW = 20 * HOP


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tokenizer]:
    return {kind: small_tokenizer(kind, tmp_path_factory.mktemp(kind)) for kind in KINDS}


def speechlike(num_samples: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(num_samples) * 0.2 * np.sin(np.arange(num_samples) / 700)).astype(np.float32)


@settings(max_examples=25, deadline=None)
@given(kind=st.sampled_from(KINDS), num_samples=st.integers(1, 50 * HOP), rate=st.sampled_from([RATE, 1_500, 3_000]))
def test_lengths_are_exact(tokenizers: dict[str, Tokenizer], kind: str, num_samples: int, rate: int) -> None:
    tokenizer = tokenizers[kind]
    encoded = tokenizer.encode(speechlike(num_samples), rate)
    frames = math.ceil(math.ceil(Fraction(num_samples * RATE, rate)) / HOP)
    assert encoded.tokens.shape == (frames, tokenizer.packing.num_groups)
    assert encoded.tokens.dtype == np.uint16
    assert encoded.salience.shape == (frames,)
    assert encoded.salience.dtype == np.uint8
    assert encoded.num_samples == num_samples
    decoded = tokenizer.decode(encoded.tokens, num_samples, rate)
    assert decoded.shape == (num_samples,)
    assert decoded.dtype == np.float32
    assert np.isfinite(decoded).all()
    assert tokenizer.num_frames(num_samples, rate) == frames


def test_tokens_are_the_packed_indices_of_the_latents(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer, wav = tokenizers["waveform"], speechlike(7 * HOP - 3)
    latents = tokenizer.latents(wav, RATE)
    digits = np.clip(np.floor(2 * np.tanh(latents.astype(np.float64)) + 2), 0, 3).astype(np.uint8)
    encoded = tokenizer.encode(wav, RATE)
    assert latents.shape == (16, 7)
    assert np.array_equal(tokenizer.packing.unpack(encoded.tokens), digits.T)
    distance = np.abs(np.tanh(latents)[..., None] - [-0.5, 0, 0.5]).min()
    assert encoded.margin == pytest.approx(distance, abs=1e-6)


def test_salience_is_the_density_of_the_last_gate(tokenizers: dict[str, Tokenizer]) -> None:
    wav = speechlike(9 * HOP)
    for kind in ("waveform", "spectral"):
        salience = tokenizers[kind].salience(wav, RATE)
        assert salience.dtype == np.float32
        assert (salience >= 0).all()
        assert (salience < 1).all()
        assert salience.std() > 1e-3
        assert np.array_equal(tokenizers[kind].encode(wav, RATE).salience, np.round(salience * 255).astype(np.uint8))
    assert not tokenizers["no_daam"].encode(wav, RATE).salience.any()


@pytest.mark.parametrize("kind", KINDS)
def test_long_audio_is_encoded_in_windows(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer, wav = tokenizers[kind], speechlike(47 * HOP)
    found = tokenizer.encode(wav, RATE).tokens
    windows = [slice(0, WINDOW), slice(WINDOW, 2 * WINDOW), slice(len(wav) - WINDOW, len(wav))]
    expected = [tokenizer.encode_piece(wav, window, RATE).tokens for window in windows]
    expected[-1] = expected[-1][-7:]
    assert np.array_equal(found, np.concatenate(expected))


def test_no_residual_tap_ever_reaches_beyond_the_window(tmp_path: Path) -> None:
    """Taps as far away as the window is long are untrained; however long the audio, they change nothing."""
    config, codec = CONFIGS["waveform"], small_codec("waveform")
    wav, found = speechlike(70 * HOP), []
    for value in (None, 1e3):
        touched = _fill_unreachable_taps(codec, value) if value else 1
        states = codec.encoder.state_dict(), codec.generator.state_dict()
        save_tokenizer(str(tmp_path / str(value)), config, *states, recipe={})
        found.append(Tokenizer.load(str(tmp_path / str(value))).encode(wav, RATE).tokens)
    assert touched > 1
    assert np.array_equal(*found)


def _fill_unreachable_taps(codec: Codec, value: float) -> int:
    touched = 0
    for block, positions in zip(
        codec.encoder.front_end.blocks, (WINDOW // 8, WINDOW // 40, WINDOW // 120), strict=True
    ):
        for conv in (c for residual in block.residual for c in residual.dilated if c.dilation[0] >= positions):
            with torch.no_grad():
                conv.weight[..., [0, 2]] = value
            touched += 1
    return touched


@pytest.mark.parametrize("kind", KINDS)
def test_decode_joins_chunks_without_a_seam(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    tokenizer, frames = tokenizers[kind], 71
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 4, (frames, 16)).astype(np.uint8)
    joined = tokenizer.decode(tokenizer.packing.pack(digits), frames * HOP)
    values = (2 * torch.from_numpy(digits.T.astype(np.float32))[None] - 3) / 4
    with torch.inference_mode():
        generator = small_codec(kind).generator
        whole = generator(values, torch.tensor([frames * HOP]))[0].numpy()
    if generator.is_local:
        np.testing.assert_allclose(joined, whole, atol=1e-5)
    else:
        step = np.abs(np.diff(joined))
        joins = [20 * HOP, 40 * HOP, 60 * HOP]
        assert max(step[j - 2 : j + 2].max() for j in joins) <= np.quantile(step, 0.999) + 1e-4
        np.testing.assert_allclose(joined, whole, atol=0.3 * np.abs(whole).max())


@pytest.mark.parametrize("wav", [np.zeros(5 * HOP, np.float32), np.zeros(1, np.float32), np.ones(1, np.float32)])
def test_silence_and_one_sample_have_tokens(tokenizers: dict[str, Tokenizer], wav: np.ndarray) -> None:
    for tokenizer in tokenizers.values():
        encoded = tokenizer.encode(wav, RATE)
        assert np.isfinite(encoded.margin)
        assert len(tokenizer.decode(encoded.tokens, len(wav))) == len(wav)


def test_float64_and_strided_input_are_the_same_waveform(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer, wav = tokenizers["waveform"], speechlike(3 * HOP)
    expected = tokenizer.encode(wav, RATE).tokens
    stereo = np.stack([wav, wav], axis=1)
    assert np.array_equal(tokenizer.encode(stereo[:, 0].astype(np.float64), RATE).tokens, expected)


def bad(value: float) -> np.ndarray:
    wav = speechlike(300)
    wav[123] = value
    return wav


@pytest.mark.parametrize(
    ("wav", "rate", "message"),
    [
        (bad(np.nan), RATE, "sample 123 of the waveform: nan; expected finite"),
        (bad(np.inf), RATE, "sample 123 of the waveform: inf; expected finite"),
        (np.zeros((300, 2), np.float32), RATE, r"\[300, 2\]; expected \[num_samples\], mono; average"),
        (np.zeros(300, np.int16), RATE, "'int16'; expected floating samples .* divide 16-bit integers by 32768"),
        (np.full(300, 20_000.0, np.float32), RATE, "peak of the waveform: 20000.0; expected samples in -1..1"),
        (np.zeros(0, np.float32), RATE, "empty waveform: 0; expected 1 sample or more"),
        (np.zeros(300, np.float32), 0, "sample_rate: 0; expected 1,000 to 768,000 Hz"),
        (np.zeros(300, np.float32), -16_000, "sample_rate: -16000"),
        (np.zeros(300, np.float32), 16_000.5, "sample_rate: 16000.5; expected a whole number"),
        (np.zeros(300, np.float32), True, "sample_rate: True"),
    ],
)
def test_bad_waveforms_are_refused(tokenizers: dict[str, Tokenizer], wav: np.ndarray, rate: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        tokenizers["waveform"].encode(wav, rate)
    with pytest.raises(ValueError, match="expected"):
        tokenizers["waveform"].encode([speechlike(50), wav], rate)


@pytest.mark.filterwarnings("error")
def test_a_waveform_that_cannot_be_written_to_is_encoded_without_a_warning(tokenizers: dict[str, Tokenizer]) -> None:
    wav = speechlike(300).astype(np.float32)
    tokens = tokenizers["waveform"].encode(wav, RATE).tokens
    wav.setflags(write=False)
    assert np.array_equal(tokenizers["waveform"].encode(wav, RATE).tokens, tokens)


@pytest.mark.parametrize(
    ("change", "num_samples", "message"),
    [
        (lambda t: t[:, :-1], 3 * HOP, r"shape \[3, 2\]; expected \[num_frames, num_groups = 3\]"),
        (lambda t: t[:, :, None], 3 * HOP, r"shape \[3, 3, 1\]"),
        (
            lambda t: t.reshape(-1)[:-1],
            3 * HOP,
            "count of the tokens: 8; expected a multiple of 3, the tokens per frame",
        ),
        (lambda t: t.reshape(-1)[:-3], 3 * HOP, "frames of 360 samples at 2000 Hz: 2; expected 3"),
        (lambda t: t, [3 * HOP], r"num_samples: \[360\]; expected a whole number, 1 or more"),
        (lambda t: t, 360.0, r"num_samples: 360.0; expected a whole number"),
        (lambda t: t.astype(np.float32), 3 * HOP, "type float32; expected integers"),
        (lambda t: np.where(t == t, 16_384, 0), 3 * HOP, "token 16384 at frame 0, position 0; expected 0 .. 16383"),
        (lambda t: np.full_like(t, 16), 3 * HOP, "token 16 at frame 0, position 2; expected 0 .. 15"),
        (lambda t: t.astype(np.int64) - 20_000, 3 * HOP, "token -"),
        (lambda t: t[:2], 3 * HOP, "frames of 360 samples at 2000 Hz: 2; expected 3"),
        (lambda t: t, 3 * HOP + 1, "frames of 361 samples at 2000 Hz: 3; expected 4"),
        (lambda t: t, 0, "num_samples: 0; expected a whole number, 1 or more"),
        (lambda t: t, -5, "num_samples: -5"),
    ],
)
def test_bad_tokens_are_refused(tokenizers: dict[str, Tokenizer], change, num_samples: int, message: str) -> None:
    tokenizer = tokenizers["waveform"]
    tokens = tokenizer.encode(speechlike(3 * HOP), RATE).tokens
    with pytest.raises(InputError, match=message):
        tokenizer.decode(change(tokens), num_samples, packing=tokenizer.packing)
    with pytest.raises(InputError, match=message):
        tokenizer.require_decodable(change(tokens), num_samples, packing=tokenizer.packing)


def test_tokens_in_one_row_as_an_archive_has_them_are_the_same_tokens(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["waveform"]
    tokens = tokenizer.encode(speechlike(3 * HOP), RATE).tokens
    expected = tokenizer.decode(tokens, 3 * HOP)
    own = str(tokenizer.packing)
    for row in (tokens.reshape(-1), tokens.reshape(-1).tolist()):
        assert np.array_equal(tokenizer.decode(row, 3 * HOP, packing=own), expected)
        found = tokenizer.decode_row({"tokens": row, "num_samples": 3 * HOP, "sample_rate": RATE, "packing": own})
        assert np.array_equal(found, expected)
    both = tokenizer.decode([tokens.reshape(-1), tokens], np.array([3 * HOP, 3 * HOP]), packing=own)
    assert all(np.array_equal(wav, expected) for wav in both)


def test_a_row_of_any_packing_of_the_latents_is_the_same_sound(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["waveform"]
    encoded = tokenizer.encode(speechlike(3 * HOP), RATE)
    expected, own = tokenizer.decode(encoded.tokens, 3 * HOP), tokenizer.packing
    digits = own.unpack(encoded.tokens)
    for other in (replace(own, digit_order="first_least_significant"), replace(own, group_size=1)):
        row = {"tokens": other.pack(digits).reshape(-1), "num_samples": 3 * HOP, "sample_rate": RATE}
        assert np.array_equal(tokenizer.decode_row(row | {"packing": str(other)}), expected)
        assert np.array_equal(tokenizer.dequantize(other.pack(digits), other), tokenizer.dequantize(encoded.tokens))
        with pytest.raises(InputError, match=r"without its packing.*packing=row\['packing'\]"):
            tokenizer.decode(row["tokens"], 3 * HOP)
        with pytest.raises(InputError, match="a row without its column: 'packing'"):
            tokenizer.decode_row(row)
    with pytest.raises(InputError, match=r"packing of other latents.*expected \d+ dims of \d+"):
        tokenizer.decode(encoded.tokens, 3 * HOP, packing=replace(own, levels=own.levels + 1, group_size=1))
    with pytest.raises(InputError, match="not a packing: 'first'"):
        tokenizer.dequantize(encoded.tokens, "first")


def test_dequantized_values_are_the_middles_of_their_levels(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["waveform"]
    tokens = tokenizer.encode(speechlike(4 * HOP), RATE).tokens
    digits, levels = tokenizer.packing.unpack(tokens), tokenizer.packing.levels
    assert tokenizer.dequantize(tokens).shape == (tokenizer.packing.num_dims, 4)
    middles = (2 * digits.T.astype(np.float64) + 1) / levels - 1  # of `levels` equal parts of -1..1
    assert np.allclose(tokenizer.dequantize(tokens), middles, atol=1e-6)


def test_latents_and_salience_of_a_list_are_those_of_its_items(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer, clips = tokenizers["waveform"], [speechlike(n) for n in (1, 5 * HOP, 30 * HOP)]
    for found, clip in zip(tokenizer.latents(clips, RATE), clips, strict=True):
        assert np.array_equal(found, tokenizer.latents(clip, RATE))
    for found, clip in zip(tokenizer.salience(clips, RATE), clips, strict=True):
        assert np.array_equal(found, tokenizer.salience(clip, RATE))


def test_lists_need_one_length_each(tokenizers: dict[str, Tokenizer]) -> None:
    tokens = tokenizers["waveform"].encode(speechlike(HOP), RATE).tokens
    with pytest.raises(InputError, match="expected a list of 2"):
        tokenizers["waveform"].decode([tokens, tokens], [HOP])
    with pytest.raises(InputError, match="expected a list of 1"):
        tokenizers["waveform"].decode([tokens], HOP)
    with pytest.raises(InputError, match="num_samples: 0; expected a whole number"):
        tokenizers["waveform"].decode([tokens, tokens], [HOP, 0])


def test_what_a_tokenizer_cannot_do_it_refuses(tokenizers: dict[str, Tokenizer], tmp_path: Path) -> None:
    small_tokenizer("waveform", tmp_path / "t")
    encoder_only = Tokenizer.load(str(tmp_path / "t"), decoder=False)
    tokens = encoder_only.encode(speechlike(HOP), RATE).tokens
    assert np.array_equal(tokens, tokenizers["waveform"].encode(speechlike(HOP), RATE).tokens)
    with pytest.raises(InputError, match="without its decoder"):
        encoder_only.decode(tokens, HOP)
    with pytest.raises(InputError, match="salience of a tokenizer without DAAM"):
        tokenizers["no_daam"].salience(speechlike(HOP), RATE)


@pytest.mark.parametrize("device", ["abacus", "cuda:99", "meta"])
def test_devices_that_are_not_there_are_refused(tmp_path: Path, device: str) -> None:
    small_tokenizer("waveform", tmp_path)
    with pytest.raises(InputError, match="device"):
        Tokenizer.load(str(tmp_path), device=device)


def test_it_says_what_its_tokens_are_computed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = small_tokenizer(KINDS[0], tmp_path)
    version = torch.__version__
    assert tokenizer.computed_on == f"torch {version}, cpu {torch.backends.cpu.get_cpu_capability()}"
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"a GPU at {device}")
    tokenizer.device = torch.device("cuda")
    assert tokenizer.computed_on == f"torch {version}, cuda a GPU at cuda"


@pytest.mark.parametrize("kind", ["waveform", "spectral"])
def test_salience_is_g_over_1_plus_g_of_the_gates_density(tokenizers: dict[str, Tokenizer], kind: str) -> None:
    """The density of the encoder itself, of the same weights; the gate has its formula in tests/model/test_daam.py."""
    wav, frames = speechlike(9 * HOP), 9
    with torch.no_grad():
        encoder = small_codec(kind).encoder
        waveform = torch.from_numpy(wav * np.float32(loudness_gain(torch.from_numpy(wav), RATE, -24.0)))
        density = encoder(waveform[None], torch.tensor([len(wav)])).gate[0].numpy()
    assert density.shape == (frames,) and density.max() > 0.1
    expected = np.array([g / (1 + g) for g in density.tolist()])
    np.testing.assert_allclose(tokenizers[kind].salience(wav, RATE), expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(tokenizers[kind].encode(wav, RATE).salience, 255 * expected, atol=0.6)
