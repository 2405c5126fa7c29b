"""What comes from outside runs nothing, writes nowhere else, and keys in URIs go no further than their refusal."""

from __future__ import annotations

import ast
import io
import os
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from syllabary.shards import store
from syllabary.shards.errors import DamageError, InputError, SecretError
from syllabary.shards.ingest.sources.tar import TarStream
from syllabary.workers.control.jobs import RestoreJob, ShardJob, VerifyJob
from syllabary.workers.tokenizer.directory import load_tokenizer
from tests.helpers.archive_corpus import make_tokenizer
from tests.helpers.ingest_testing import config

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted(
    path for room in ("flows", "workers", "model", "shards", "infra") for path in (ROOT / room).rglob("*.py")
)
KEYED = ["s3://KEYID:SECRETKEY@bucket/x", "s3://SECRETKEY@bucket/x", "s3://bucket/x?X-Amz-Signature=SECRETKEY"]
UNPICKLERS = {"pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def called(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a module with what is called, as it is written."""
    tree = ast.parse(path.read_text())
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


def says(call: ast.Call, name: str, value: bool) -> bool:
    return any(k.arg == name and isinstance(k.value, ast.Constant) and k.value.value is value for k in call.keywords)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_source_unpickles_evaluates_or_uses_a_shell(path: Path) -> None:
    imported = {
        name.partition(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    assert not imported & UNPICKLERS
    for name, call in called(path):
        assert name not in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load"), f"{name} in {path.name}"
        assert not says(call, "shell", True) and not says(call, "allow_pickle", True)
        if name == "torch.load":
            assert says(call, "weights_only", True), f"torch.load without weights_only in {path.name}"


@pytest.mark.parametrize("name", ["encoder.safetensors", "decoder.safetensors"])
def test_a_pickle_in_the_place_of_weights_is_refused_and_not_run(name: str, tmp_path: Path) -> None:
    import torch

    uri, mark = make_tokenizer(str(tmp_path / "tokenizer")), tmp_path / "mark"
    for data in (pickle.dumps(Payload(mark)), _torch_file(torch, Payload(mark))):
        (tmp_path / "tokenizer" / name).write_bytes(data)
        with pytest.raises(DamageError, match="not a readable safetensors file"):
            load_tokenizer(uri)
    assert not mark.exists()
    pickle.loads(pickle.dumps(Payload(mark)))
    assert mark.exists(), "the payload would have worked"


def _torch_file(torch: Any, value: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_in_a_tar_are_not_followed(kind: bytes, tmp_path: Path) -> None:
    outside = tmp_path / "outside.flac"
    outside.write_bytes(b"secret")
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        member = tarfile.TarInfo("s/link.flac")
        member.type, member.linkname = kind, str(outside)
        tar.addfile(member)
    spool = tmp_path / "spool"
    spool.mkdir()
    found = next(TarStream(str(tmp_path / "a.tar"), config(), spool).recordings())
    assert (found.recording.verdict, found.recording.detail) == ("quarantined", "not a regular file in the tar")
    assert not list(spool.iterdir())


@pytest.mark.parametrize("name", ["../../evil", "/evil", "a/../../evil", "evil\0"])
def test_a_hostile_utterance_id_is_written_nowhere(name: str, tmp_path: Path) -> None:
    """Restored files, parts and checkpoints are all named through the one seam, which refuses to leave its folder."""
    out = str(tmp_path / "deep" / "out")
    with pytest.raises(InputError, match="unsafe path"):
        store.publish_bytes(store.join(out, "audio", f"{name}.flac"), b"sound")
    assert not list(tmp_path.rglob("*evil*"))


@pytest.mark.parametrize("uri", KEYED)
def test_keys_in_a_uri_are_refused_without_showing_them(uri: str) -> None:
    for refuse in (
        lambda: store.normalize(uri),
        lambda: store.read_bytes(uri),
        lambda: VerifyJob(archive=uri),
        lambda: RestoreJob(archive="a", tokenizer="t", out="o", ids=(uri,)),
        lambda: ShardJob.model_validate_json(f'{{"source": "{uri}", "out": "x"}}'),
    ):
        with pytest.raises(SecretError, match="with keys in it; expected s3://bucket/prefix") as refusal:
            refuse()
        assert "SECRETKEY" not in str(refusal.value)


@pytest.mark.parametrize("uri", ["s3://bucket/106/book@0001.flac", "/data/a@b:c", "./x?y", "s3://bucket/a:b@c"])
def test_names_with_the_same_signs_are_no_keys(uri: str) -> None:
    assert store.normalize(uri).endswith(uri.rpartition("/")[2])


def test_the_command_shows_no_key(tmp_path: Path) -> None:
    command = [Path(sys.executable).parent / "syllabary", "run", KEYED[0], "--out", str(tmp_path / "out")]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert finished.returncode == 2 and finished.stderr.startswith("error: a s3:// URI with keys in it")
    assert "SECRETKEY" not in finished.stderr + finished.stdout and "Prefect" not in finished.stderr
    assert not (tmp_path / "out").exists()


def test_no_server_of_ours_listens_beyond_loopback() -> None:
    for path in SOURCES:
        for name, call in called(path):
            for value in (k.value for k in call.keywords if k.arg in ("host", "dashboard_host")):
                if isinstance(value, ast.Constant):
                    assert value.value == "127.0.0.1", f"{name} in {path.name}"
        assert "0.0.0.0" not in path.read_text(), path.name
