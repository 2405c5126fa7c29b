"""A tokenizer as graphs: the same digits and the same sound, by a reader that knows nothing of this package."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import soundfile
import torch

from syllabary import Tokenizer
from syllabary.shards.errors import ConflictError, InputError
from syllabary.workers.control.jobs import ExportJob
from syllabary.workers.portable.export_graphs import export_graphs
from syllabary.workers.training.export import export
from tests.helpers.small_models import HOP, RATE, small_tokenizer
from tests.helpers.speech_like import speech_like

SOUNDS = sorted((Path(__file__).parents[3] / "docs" / "sounds").glob("*-original.flac"))
READER = Path(__file__).parents[3] / "workers" / "portable" / "read_onnx.py"
LENGTHS_S = (0.01, 0.06, 0.5, 1.2, 3.7)  # under a frame, one, some, the window, several windows


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return small_tokenizer("spectral", tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def exported(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    export_graphs(tokenizer._uri, str(folder), "onnx")
    return folder


def reader_of(folder: Path) -> ModuleType:
    """The reader that lies in an exported folder, loaded from there."""
    spec = importlib.util.spec_from_file_location("read_onnx", folder / "read_onnx.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reader_is_short_and_needs_numpy_and_onnxruntime_alone(exported: Path) -> None:
    text = (exported / "read_onnx.py").read_text()
    assert text == READER.read_text() and text.count("\n") < 100
    assert "syllabary" not in text.replace("`syllabary export", "") and "torch" not in text


@pytest.mark.parametrize("seconds", LENGTHS_S)
def test_tokens_and_sound_are_those_of_the_tokenizer(seconds: float, exported: Path, tokenizer: Tokenizer) -> None:
    reader = reader_of(exported).OnnxTokenizer(exported)
    wav = speech_like(3, seconds, RATE)
    encoded = tokenizer.encode(wav, RATE)
    tokens = reader.encode(wav)
    assert tokens.dtype == np.uint16 and np.array_equal(tokens, encoded.tokens)
    assert reader.margins(wav).min() == pytest.approx(encoded.margin, abs=1e-5)
    sound = reader.decode(tokens, len(wav))
    assert sound.dtype == np.float32 and len(sound) == len(wav)
    np.testing.assert_allclose(sound, tokenizer.decode(encoded.tokens, len(wav), RATE), atol=1e-4)


def test_digests_of_graphs_and_weights_stand_beside_and_another_graph_is_refused(
    exported: Path, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    about = json.loads((exported / "graphs.json").read_text())
    digests = tokenizer.digests
    assert (about["encoder_digest"], about["decoder_digest"]) == (digests.encoder, digests.decoder)
    for name in ("encoder", "decoder"):
        data = (exported / f"{name}.onnx").read_bytes()
        assert about["graphs"][name]["sha256"] == hashlib.sha256(data).hexdigest()
    for path in exported.iterdir():
        if path.is_file():
            (tmp_path / path.name).write_bytes(path.read_bytes())
    changed = bytearray((tmp_path / "decoder.onnx").read_bytes())
    changed[len(changed) // 2] ^= 1
    (tmp_path / "decoder.onnx").write_bytes(changed)
    with pytest.raises(ValueError, match=r"decoder\.onnx is not the exported graph"):
        reader_of(tmp_path).OnnxTokenizer(tmp_path)


def test_what_does_not_decode_is_refused(exported: Path) -> None:
    reader = reader_of(exported).OnnxTokenizer(exported)
    tokens = reader.encode(speech_like(1, 0.5, RATE))
    with pytest.raises(ValueError, match="frames are not those of"):
        reader.decode(tokens, len(tokens) * HOP + 1)
    with pytest.raises(ValueError, match="cannot take"):
        reader.decode(np.full_like(tokens, 65_535), len(tokens) * HOP)


def test_the_reader_runs_as_a_script_outside_the_project(exported: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    wav = speech_like(2, 1.0, RATE)
    np.save(tmp_path / "in.npy", wav)
    command = [sys.executable, "-I", str(exported / "read_onnx.py"), str(exported), "in.npy", "out.npy"]
    subprocess.run(command, cwd=tmp_path, check=True)
    tokens = tokenizer.encode(wav, RATE).tokens
    np.testing.assert_allclose(np.load(tmp_path / "out.npy"), tokenizer.decode(tokens, len(wav), RATE), atol=1e-4)


def test_torchs_own_form_gives_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    found = export(ExportJob(tokenizer=tokenizer._uri, out=str(tmp_path / "graphs"), output_format="torch"))
    assert found["encoder_digest"] == tokenizer.encoder_digest
    assert not (tmp_path / "graphs" / "read_onnx.py").exists()
    decoder = torch.export.load(tmp_path / "graphs" / "decoder.pt2").module()
    encoded = tokenizer.encode(speech_like(4, 0.9, RATE), RATE)
    digits = torch.from_numpy(tokenizer.packing.unpack(encoded.tokens).T.copy())[None]
    with torch.no_grad():
        sound = decoder(digits)[0, : encoded.num_samples].numpy()
    np.testing.assert_allclose(sound, tokenizer.decode(encoded.tokens, encoded.num_samples, RATE), atol=1e-4)
    again = export(ExportJob(tokenizer=tokenizer._uri, out=str(tmp_path / "graphs"), output_format="torch"))
    assert again["decoder_digest"] == tokenizer.decoder_digest


def test_what_cannot_be_exported_is_refused(tokenizer: Tokenizer, exported: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "graphs")
    with pytest.raises(InputError, match="takes --tokenizer"):
        export(ExportJob(codec="x", out=out, output_format="onnx"))
    with pytest.raises(InputError, match="takes --codec"):
        export(ExportJob(out=out))
    gated = small_tokenizer("decoder_daam", tmp_path / "gated")
    with pytest.raises(InputError, match="gates over whole clips"):
        export_graphs(gated._uri, out, "onnx")
    other = small_tokenizer("spectral", tmp_path / "other", seed=1)
    with pytest.raises(ConflictError, match="other graphs"):
        export_graphs(other._uri, str(exported), "onnx")
    with pytest.raises(ConflictError, match=r"another file is there already: .*README.md"):
        export_graphs(other._uri, other._uri, "onnx")  # its own card would go
    assert not (tmp_path / "graphs").exists()


@pytest.mark.long
def test_real_speech_has_the_digits_and_the_sound_of_the_shipped_tokenizer(tmp_path: Path) -> None:
    export_graphs("builtin:speech16k", str(tmp_path), "onnx")
    reader, shipped = reader_of(tmp_path).OnnxTokenizer(tmp_path), Tokenizer.from_pretrained("speech16k")
    for path in SOUNDS:
        wav, rate = soundfile.read(path, dtype="float32")
        encoded = shipped.encode(wav, rate)
        digits = [shipped.packing.unpack(tokens) for tokens in (reader.encode(wav), encoded.tokens)]
        differs = (digits[0] != digits[1]).any(axis=1)
        assert not differs[reader.margins(wav) > 1e-4].any()
        sound = reader.decode(encoded.tokens, len(wav))
        whole = shipped.decode(encoded.tokens, len(wav), rate)
        assert np.abs(sound - whole).max() < 1e-4
