"""Promotion as an operator has it: flow runs on a real Prefect server, their states, artifacts and locks."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from syllabary.flows import promote_tokenizer as module
from syllabary.shards import store
from syllabary.workers.control.run_layout import POINTER
from syllabary.workers.tokenizer.tokenizer import save_tokenizer
from tests.helpers.archive_corpus import make_tokenizer, tiny_config
from tests.helpers.evaluation_testing import make_speech_shards
from tests.helpers.report_card_example import write_example_report


def artifact(key: str) -> Any:
    """The newest artifact of this key, or None."""
    from prefect.artifacts import Artifact

    return Artifact.get(key)


def pointed_to(registry: Path) -> str:
    return Path(store.read_json(str(registry / POINTER))["tokenizer"]).name


def test_a_regression_fails_the_run_by_name_and_leaves_the_pointer(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server, locks, artifacts and the comparing job are real; only measuring is replaced, by example reports."""

    def evaluated(tokenizer: str, shards: str, out: str, **options: Any) -> None:
        write_example_report(Path(out), shift=float(Path(tokenizer).name))

    def promote(name: str) -> Any:
        folder, digests = tmp_path / name, {"encoder_digest": "e" * 64, "decoder_digest": f"{name.encode().hex():0<64}"}
        folder.mkdir()
        (folder / "config.json").write_bytes(store.pretty_json(digests))
        registry = str(tmp_path / "registry")
        return module.promote_tokenizer(str(folder), "shards", registry, return_state=True)

    monkeypatch.setattr(module, "evaluate_tokenizer", evaluated)
    assert promote("0.0").is_completed() and pointed_to(tmp_path / "registry") == "0.0"
    refused = promote("-0.1")
    assert refused.is_failed() and "3 regressions: PESQ-WB" in refused.message
    assert "ESTOI 0.3475 → 0.2475" in refused.message, "the run's state does not say what is worse"
    assert pointed_to(tmp_path / "registry") == "0.0"
    assert "3 regressions" in artifact("compare-failure").data
    assert artifact("promote-tokenizer-link").data.count("/0.0)") == 1


def make_muffled(uri: str, original: str) -> str:
    """The same tokenizer with a decoder 40 dB softer: farther from any speech by mel distance, by construction."""
    encoder, decoder = (load_file(f"{original}/{name}.safetensors") for name in ("encoder", "decoder"))
    decoder |= {name: tensor * 0.01 for name, tensor in decoder.items() if name.startswith("output.")}
    save_tokenizer(uri, tiny_config(), encoder, decoder, recipe={"name": "muffled"})
    return uri


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_tokenizers_are_measured_compared_and_then_pointed_to(server: str, tmp_path: Path) -> None:
    """Nothing is replaced: real tokenizers and shards, jobs with Ray, and a worse tokenizer that is one."""
    shards, registry = make_speech_shards(str(tmp_path / "shards")), tmp_path / "registry"
    good = make_tokenizer(str(tmp_path / "good"))
    worse = make_muffled(str(tmp_path / "worse"), good)

    def promote(tokenizer: str, *tolerances: str) -> Any:
        return module.promote_tokenizer(
            tokenizer, shards, str(registry), tolerances=tolerances, limit=3, metrics=("mel_distance",),
            return_state=True,
        )  # fmt: skip

    assert promote(good).is_completed() and pointed_to(registry) == "good"
    refused = promote(worse)
    assert refused.is_failed() and "1 regressions: Mel distance" in refused.message
    assert pointed_to(registry) == "good"
    reports = sorted((registry / "reports").iterdir())
    assert len(reports) == 2 and all((report / "report.html").stat().st_size > 10_000 for report in reports)
    shutil.rmtree(worse)
    make_muffled(worse, good)  # the same tokenizer again: its report stands and is not measured a second time
    before = {path: path.stat().st_mtime_ns for report in reports for path in report.glob("utterances/*")}
    assert promote(worse, "mel_distance=100").is_completed() and pointed_to(registry) == "worse"
    assert {path: path.stat().st_mtime_ns for path in before} == before and len(before) == 6
    assert "worse, tolerated" in artifact("promote-summary").data
