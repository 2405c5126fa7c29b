"""A tokenizer directory: equal bytes, equal digests, and every kind of damage refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from syllabary.model.config import ModelConfig
from syllabary.shards.errors import ConflictError, DamageError, FormatError, InputError, NotFoundError, VersionError
from syllabary.workers.tokenizer.directory import load_mel_head, load_tokenizer
from syllabary.workers.tokenizer.tokenizer import Tokenizer, save_tokenizer
from tests.helpers.small_models import CONFIGS, small_codec, small_tokenizer

NOISE = np.random.default_rng(0).uniform(-0.3, 0.3, 5_000).astype(np.float32)
FILES = ("config.json", "encoder.safetensors", "decoder.safetensors", "README.md")


def save(folder: Path, kind: str = "waveform", seed: int = 0, config: ModelConfig | None = None):
    codec = small_codec(kind, seed)
    states = codec.encoder.state_dict(), codec.generator.state_dict()
    return save_tokenizer(str(folder), config or CONFIGS[kind], *states, recipe={"name": kind})


def test_same_tokenizer_same_bytes_and_saving_again_is_a_no_op(tmp_path: Path) -> None:
    digests = save(tmp_path / "a")
    assert save(tmp_path / "b") == digests
    assert save(tmp_path / "a") == digests
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(FILES)
    assert all((tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in FILES)


def test_digests_tell_encoder_from_decoder(tmp_path: Path) -> None:
    first = save(tmp_path / "a")
    codec, other = small_codec("waveform"), small_codec("waveform", seed=9)
    second = save_tokenizer(
        str(tmp_path / "b"), CONFIGS["waveform"], codec.encoder.state_dict(), other.generator.state_dict(), recipe={}
    )
    assert second.encoder == first.encoder
    assert second.decoder != first.decoder
    window = CONFIGS["waveform"].encoder.model_copy(update={"window_s": 2.4})
    third = save(tmp_path / "c", config=CONFIGS["waveform"].model_copy(update={"encoder": window}))
    assert third.encoder != first.encoder
    assert third.decoder == first.decoder


def test_another_tokenizer_is_never_overwritten(tmp_path: Path) -> None:
    save(tmp_path)
    before = {f: (tmp_path / f).read_bytes() for f in FILES}
    with pytest.raises(ConflictError, match=r"another tokenizer is at .*: encoder digest: .* use another --out"):
        save(tmp_path, seed=1)
    codec, other = small_codec("waveform"), small_codec("waveform", seed=9)
    with pytest.raises(ConflictError, match=r"another tokenizer is at .*: decoder digest: '\w{16}'; expected \w{16};"):
        save_tokenizer(
            str(tmp_path), CONFIGS["waveform"], codec.encoder.state_dict(), other.generator.state_dict(), recipe={}
        )
    assert before == {f: (tmp_path / f).read_bytes() for f in FILES}


def test_weights_that_do_not_fit_are_never_saved(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"encoder .*; use the weights and the configuration of one and the same run"):
        save(tmp_path / "t", "spectral", config=CONFIGS["waveform"])
    codec = small_codec("waveform")
    broken = {**codec.encoder.state_dict(), "projection.bias": torch.full((16,), float("nan"))}
    with pytest.raises(InputError, match=r"encoder weight projection.bias holds values that are not finite"):
        save_tokenizer(str(tmp_path / "t"), CONFIGS["waveform"], broken, codec.generator.state_dict(), recipe={})
    assert not (tmp_path / "t").exists()


def test_card_states_rates_and_digests(tmp_path: Path) -> None:
    digests = save(tmp_path)
    card = (tmp_path / "README.md").read_text()
    assert digests.encoder in card
    assert digests.decoder in card
    assert "| tokens | 3 per frame, 50 per second, vocabulary 16,384 |" in card


@pytest.mark.parametrize("name", ["encoder.safetensors", "decoder.safetensors"])
def test_any_changed_byte_of_the_weights_is_damage(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    good = (tmp_path / name).read_bytes()
    header_end = 8 + int.from_bytes(good[:8], "little")
    for at in (0, 3, 20, header_end - 5, header_end, header_end + 1001, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 0x41
        (tmp_path / name).write_bytes(bytes(bad))
        with pytest.raises(DamageError, match=r"restore|use the weights and the configuration of one"):
            Tokenizer.load(str(tmp_path))
    (tmp_path / name).write_bytes(good[:-7])
    with pytest.raises(DamageError, match="not a readable safetensors file"):
        Tokenizer.load(str(tmp_path))
    (tmp_path / name).write_bytes(good)
    Tokenizer.load(str(tmp_path))


def edit(folder: Path, change) -> None:
    description = json.loads((folder / "config.json").read_text())
    change(description)
    (folder / "config.json").write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda d: d["model"]["fsq"].update(levels=3), DamageError, "has changed: digest"),
        (lambda d: d["model"]["encoder"].update(precision="bf16"), DamageError, "has changed: digest"),
        (lambda d: d["model"]["encoder"].update(window_s=9.0), DamageError, "has changed: digest"),
        (lambda d: d["model"]["encoder"].update(latent_dim=32), DamageError, "expected"),
        (lambda d: d["model"]["encoder"].update(colour="red"), DamageError, "does not resolve"),
        (lambda d: d.pop("model"), DamageError, "no key: 'model'"),
        (lambda d: d.pop("recipe"), DamageError, "no key: 'recipe'"),
        (lambda d: d.update(encoder_digest="0" * 64), DamageError, "expected '?0000"),
        (lambda d: d.update(format_version=99), VersionError, "99; expected 1"),
        (lambda d: d.update(kind="archive"), FormatError, "kind: 'archive'; expected tokenizer"),
    ],
)
def test_a_changed_configuration_is_refused(tmp_path: Path, change, error: type[Exception], message: str) -> None:
    save(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(error, match=message):
        Tokenizer.load(str(tmp_path))


def test_missing_and_foreign_directories(tmp_path: Path) -> None:
    with pytest.raises(
        NotFoundError, match=r"no tokenizer, nothing there: .*; expected a tokenizer directory, with config.json"
    ):
        Tokenizer.load(str(tmp_path))
    (tmp_path / "config.json").write_text("[1, 2]")
    with pytest.raises(FormatError, match="not a JSON object"):
        Tokenizer.load(str(tmp_path))
    save(tmp_path / "t")
    (tmp_path / "t" / "decoder.safetensors").unlink()
    with pytest.raises(NotFoundError, match=r"decoder\.safetensors"):
        Tokenizer.load(str(tmp_path / "t"))
    Tokenizer.load(str(tmp_path / "t"), decoder=False)


def test_half_precision_weights_are_refused(tmp_path: Path) -> None:
    save(tmp_path)
    state = safetensors.torch.load_file(tmp_path / "encoder.safetensors")
    safetensors.torch.save_file({k: v.half() for k, v in state.items()}, tmp_path / "encoder.safetensors")
    with pytest.raises(DamageError, match=r"encoder\.safetensors or its configuration has changed: digest"):
        Tokenizer.load(str(tmp_path))


def save_as(folder: Path, stored_as: str, encoder=None, **others):
    codec = small_codec("spectral")
    states = encoder or codec.encoder.state_dict(), codec.generator.state_dict()
    return save_tokenizer(
        str(folder), CONFIGS["spectral"], *states, recipe={"name": "spectral"}, stored_as=stored_as, **others
    )


@pytest.mark.parametrize("stored_as", ["float16", "bfloat16"])
def test_half_precision_is_rounded_before_the_digests_and_computed_in_fp32(tmp_path: Path, stored_as: str) -> None:
    exact, digests = save_as(tmp_path / "exact", "float32"), save_as(tmp_path / "half", stored_as)
    assert digests.encoder != exact.encoder and digests.decoder != exact.decoder
    files = load_tokenizer(str(tmp_path / "half"))
    codec, dtype = small_codec("spectral"), getattr(torch, stored_as)
    for name, weight in codec.encoder.state_dict().items():
        assert files.encoder_state[name].dtype == torch.float32
        assert torch.equal(files.encoder_state[name], weight.to(dtype).float())
    # the same numbers stored as fp32 are the same tokenizer, whatever the file's type
    again = save_tokenizer(
        str(tmp_path / "again"), files.config, files.encoder_state, files.decoder_state, recipe=files.recipe
    )
    assert again == digests == Tokenizer.load(str(tmp_path / "half")).digests
    sizes = [(tmp_path / kind / "decoder.safetensors").stat().st_size for kind in ("half", "again")]
    assert sizes[0] < 0.7 * sizes[1]  # the rest is the header, which names every tensor
    tokens = [Tokenizer.load(str(tmp_path / kind)).encode(NOISE, 2_000).tokens for kind in ("half", "again")]
    assert np.array_equal(*tokens)


def test_half_precision_that_is_damaged_is_refused(tmp_path: Path) -> None:
    save_as(tmp_path, "float16")
    path = tmp_path / "encoder.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamageError, match=r"encoder\.safetensors or its configuration has changed: digest"):
        Tokenizer.load(str(tmp_path), decoder=False)
    state = safetensors.torch.load_file(tmp_path / "decoder.safetensors")
    safetensors.torch.save_file({k: v.double() for k, v in state.items()}, path)
    with pytest.raises(DamageError, match=r"has type: 'torch\.float64'; expected torch\.float32 or torch\.float16 or"):
        Tokenizer.load(str(tmp_path))


def test_a_weight_too_large_for_its_type_is_refused_by_name(tmp_path: Path) -> None:
    encoder = {k: v.clone() for k, v in small_codec("spectral").encoder.state_dict().items()}
    encoder["projection.bias"][0] = 70_000.0
    with pytest.raises(InputError, match=r"encoder weight projection.bias does not fit into float16, .*70000.*65504"):
        save_as(tmp_path / "half", "float16", encoder)
    assert not (tmp_path / "half").exists()
    save_as(tmp_path / "brain", "bfloat16", encoder)


def test_the_mel_head_of_the_training_travels_along_and_is_checked(tmp_path: Path) -> None:
    save_as(tmp_path / "without", "float32")
    assert load_mel_head(str(tmp_path / "without")) == {}
    head = {"weight": torch.arange(6.0).reshape(2, 3)}
    save_as(tmp_path / "with", "float16", mel_head=head)
    assert torch.equal(load_mel_head(str(tmp_path / "with"))["weight"], head["weight"])
    safetensors.torch.save_file({"weight": torch.zeros(2, 3)}, tmp_path / "with" / "mel_head.safetensors")
    with pytest.raises(DamageError, match=r"mel_head\.safetensors or its configuration has changed"):
        load_mel_head(str(tmp_path / "with"))


def test_lives_at_any_uri(tmp_path: Path) -> None:
    local = small_tokenizer("waveform", tmp_path)
    codec = small_codec("waveform")
    states = codec.encoder.state_dict(), codec.generator.state_dict()
    save_tokenizer("memory://tokenizer-at-any-uri", CONFIGS["waveform"], *states, recipe={"name": "waveform"})
    assert Tokenizer.load("memory://tokenizer-at-any-uri").digests == local.digests
