"""``plan``: counted, stated and preset corpora, a real probe, and predicted against actual."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch

from syllabary.shards import outputs, store
from syllabary.shards.errors import ConfigError, ConflictError, FormatError, InputError, NotFoundError
from syllabary.workers.cluster.memory import RESERVED_BYTES
from syllabary.workers.control.jobs import PlanJob
from syllabary.workers.control.run_layout import PipelineLayout
from syllabary.workers.control.timings import STAGE_TIMINGS, StageTime, read_timings, timed
from syllabary.workers.forecast.forecast import PRESETS, counted, plan
from syllabary.workers.forecast.formulas import FORMULAS, StageRates
from syllabary.workers.forecast.probe import probe, what_is_probed
from syllabary.workers.recipes.named import resolve
from syllabary.workers.training.checkpoints import CheckpointStore
from syllabary.workers.training.history import TIMINGS, History
from tests.helpers.archive_corpus import make_archive
from tests.helpers.ingest_testing import tone, write_audio

RATES = {"shard": 70.0, "pretrain": 6.0, "codec": 2.0, "adversarial": 1.5, "encode": 40.0, "decode": 18.0}


def job(**values: Any) -> PlanJob:
    return PlanJob(**{"recipe": "tiny", "rates": RATES, "cores": 2, **values})


def test_a_folder_is_counted_by_its_headers(corpus: Path) -> None:
    true_s = sum(soundfile.info(path).duration for path in corpus.rglob("*.flac"))
    found = counted(str(corpus), resolve("tiny"))
    assert found.hours * 3600 == pytest.approx(true_s, rel=1e-6) and "12 of them" in found.name
    size = sum(path.stat().st_size for path in corpus.rglob("*.flac"))
    assert found.flac_bytes_per_s == pytest.approx(size / true_s)


def test_a_flac_that_does_not_know_its_length_counts_by_its_bytes(tmp_path: Path) -> None:
    """Read by its header it would be 2^63 samples, and the corpus 18 million years."""
    for name in "ab":
        write_audio(tmp_path / "s" / f"{name}.flac", tone(5))
    data = (tmp_path / "s" / "a.flac").read_bytes()
    streamed = data[:18] + (int.from_bytes(data[18:26]) >> 36 << 36).to_bytes(8) + data[26:]
    (tmp_path / "s" / "a.flac").write_bytes(streamed)
    found = counted(str(tmp_path), resolve("tiny"))
    assert found.hours * 3600 == pytest.approx(10, rel=1e-6) and "from 1 of them" in found.name


def test_what_cannot_be_counted_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / "a.flac").write_bytes(b"no sound")
    with pytest.raises(InputError, match="state the --hours"):
        counted(str(tmp_path), resolve("tiny"))
    with pytest.raises(InputError, match="only a folder is counted"):
        counted("corpus.tar", resolve("tiny"))


@pytest.mark.parametrize("values", [{}, {"hours": 1.0, "preset": "librilight-small"}])
def test_exactly_one_corpus_is_asked_for(values: dict) -> None:
    with pytest.raises(InputError, match="one of SOURCE, --hours and --preset"):
        plan(job(**values))


def test_an_unknown_preset_and_incomplete_rates_are_refused() -> None:
    with pytest.raises(InputError, match="expected one of librilight-small"):
        plan(job(preset="librilight"))
    with pytest.raises(ConfigError, match="rate decode is missing; expected shard, "):
        plan(job(hours=1.0, rates={k: v for k, v in RATES.items() if k != "decode"}))
    with pytest.raises(ConfigError, match="rate decode: Input should be greater than 0"):
        plan(job(hours=1.0, rates=RATES | {"decode": 0}))


def test_the_page_has_every_figure_and_its_formula(tmp_path: Path) -> None:
    made = plan(job(preset="librilight-large", recipe="paper", gpus=8, price_gpu_hour=2.0, out=str(tmp_path)))
    text = (tmp_path / "plan.md").read_text()
    assert text == made["text"] and "LibriLight large" in text
    for name, formula in FORMULAS.items():
        if name not in ("stored_h", "clip_s", "training_audio_h"):
            assert formula in text, name
    stored = json.loads((tmp_path / "plan.json").read_text())
    assert f"| {stored['predicted']['tokens']:,.0f} |" in text
    assert stored["predicted"]["tokens"] == pytest.approx(51_934 * 3600 * 47.5)
    assert plan(job(preset="librilight-large", recipe="paper", gpus=8, price_gpu_hour=2.0))["plan"] == stored


def test_the_plan_of_another_corpus_or_recipe_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = str(tmp_path)
    plan(job(hours=1.0, out=out))
    kept = (tmp_path / "plan.json").read_bytes()
    with monkeypatch.context() as patched:  # refused before any probe
        patched.setattr("syllabary.workers.forecast.probe.probe", lambda *_: pytest.fail("probed"))
        with pytest.raises(ConflictError, match=r"plans .*: corpus.hours was 1.0 and is now 2.0, .*; use another"):
            plan(job(hours=2.0, out=out, rates={}))
        with pytest.raises(ConflictError, match=r"recipe.codec.num_steps was \d+ and is now 7; use another --out"):
            plan(job(hours=1.0, out=out, rates={}, overrides=("codec.num_steps=7",)))
    assert (tmp_path / "plan.json").read_bytes() == kept
    plan(job(hours=1.0, out=out, gpus=8))
    assert json.loads((tmp_path / "plan.json").read_text())["machine"]["gpus"] == 8


def test_the_presets_have_the_published_sizes() -> None:
    sizes = {name: c.hours * 3600 * c.flac_bytes_per_s for name, c in PRESETS.items()}
    assert sizes == pytest.approx({"librilight-small": 35e9, "librilight-medium": 321e9, "librilight-large": 3.05e12})


def finished_run(root: Path) -> None:
    """What a finished run leaves that the comparison reads; two paces of a training, and an archive of digits."""
    layout = PipelineLayout(str(root))
    outputs.claim(str(root), "run", inputs={}, config=resolve("tiny").model_dump(mode="json"))
    outputs.mark_done(layout.shards, {"input_s": 3600.0, "stored_s": 1800.0})
    store.publish_bytes(store.join(layout.shards, "shards", "train-000000.tar"), bytes(1000))
    make_archive(layout.archive)
    with timed(str(root), "tokenize", layout.archive):
        outputs.mark_done(layout.archive, {})
    with timed(str(root), "restore", layout.restored):
        outputs.mark_done(layout.restored, {"duration_s": 90.0})
    history = History()
    history.add(1, "timing", {"step_s": 36.0})
    history.add(11, "timing", {"step_s": 3.6})
    store.publish_bytes(store.join(layout.pretrain, TIMINGS), history.to_parquet())
    outputs.mark_done(layout.pretrain, {"steps": 11})
    store.publish_bytes(CheckpointStore(layout.pretrain).of_step(11).join("x"), bytes(500))


def test_after_a_run_the_page_shows_predicted_and_actual(tmp_path: Path) -> None:
    out, run = str(tmp_path / "plan"), str(tmp_path / "run")
    predicted = plan(job(hours=1.0, stored_fraction=0.5, out=out))["plan"]["predicted"]
    finished_run(tmp_path / "run")
    made = plan(PlanJob(out=out, run=run))
    actual = made["plan"]["actual"]
    assert made["plan"]["predicted"] == predicted
    assert (actual["hours"], actual["stored_h"]) == (1.0, 0.5)
    assert actual["pretrain_h"] == pytest.approx((36.0 + 10 * 3.6) / 3600)
    assert (actual["shards_bytes"], actual["checkpoints_bytes"]) == (1000, 500)
    assert actual["tokens"] % 19 == 0 and actual["tokens"] > 0
    assert "codec_h" not in actual and "shard_h" not in actual
    assert re.search(r"\| stored_h \| 0.5 \| 0.5 \| 1.00 \|", (tmp_path / "plan" / "plan.md").read_text())


def test_the_hours_of_the_stages_are_the_runs_and_killed_attempts_are_told(tmp_path: Path) -> None:
    out, run = str(tmp_path / "plan"), str(tmp_path / "run")
    predicted = plan(job(hours=1.0, stored_fraction=0.5, out=out))["plan"]["predicted"]
    finished_run(tmp_path / "run")
    times = {"shard": (3, 2, 72.0), "tokenize": (1, 1, 36.0), "restore": (1, 1, 18.0)}
    values = {stage: dict(zip(("began", "ended", "seconds"), one, strict=True)) for stage, one in times.items()}
    (tmp_path / "run" / STAGE_TIMINGS).write_text(json.dumps(values))
    made = plan(PlanJob(out=out, run=run))
    actual = made["plan"]["actual"]
    assert {stage: actual[f"{stage}_h"] for stage in times} == {"shard": 0.02, "tokenize": 0.01, "restore": 0.005}
    assert made["plan"]["restored_fraction"] == 90 / 1800
    ratio = 0.005 / (predicted["restore_h"] * 90 / 1800)
    assert re.search(rf"\| restore_h \|.*\| 0.005 \| {ratio:.2f} \|", made["text"])
    assert "1 attempts at shard were killed" in made["text"] and "attempts at tokenize" not in made["text"]
    assert "restored 5 % of the audio" in made["text"] and "No hours of" not in made["text"]


def test_an_attempt_counts_once_begun_and_a_complete_stage_is_not_timed(tmp_path: Path) -> None:
    run, output = str(tmp_path / "run"), str(tmp_path / "run" / "shards")
    with pytest.raises(RuntimeError), timed(run, "shard", output):
        assert read_timings(run)["shard"] == StageTime(began=1)  # what a kill would leave
        raise RuntimeError
    failed = read_timings(run)["shard"]
    assert (failed.began, failed.ended) == (1, 1) and failed.seconds >= 0
    outputs.mark_done(output, {})
    with timed(run, "shard", output):
        pass
    assert read_timings(run) == {"shard": failed}
    (tmp_path / "run" / STAGE_TIMINGS).write_text('{"shard": {"began": -1}}')
    with pytest.raises(FormatError, match="not the times of a run"):
        read_timings(run)


def test_a_run_of_another_recipe_or_without_a_plan_is_refused(tmp_path: Path) -> None:
    finished_run(tmp_path / "run")
    run, out = str(tmp_path / "run"), str(tmp_path / "plan")
    with pytest.raises(InputError, match="give --out, where the plan was stored"):
        plan(PlanJob(run=run))
    with pytest.raises(NotFoundError):
        plan(PlanJob(run=run, out=out))
    plan(job(hours=1.0, out=out, overrides=("codec.num_steps=7",)))
    with pytest.raises(ConflictError, match="of another recipe than the plan: codec differs"):
        plan(PlanJob(run=run, out=out))


def test_the_probe_measures_every_rate_on_this_machine(tmp_path: Path) -> None:
    """The command, with the shortest probe: each kind of work once to warm up and once in earnest."""
    command = [Path(sys.executable).parent / "syllabary", "plan", "--hours", "1", "--recipe", "tiny"]
    finished = subprocess.run(
        [*command, "--probe-s", "0.1", "--out", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr
    found = json.loads((tmp_path / "plan.json").read_text())
    assert set(found["rates"]) == set(StageRates.model_fields) and min(found["rates"].values()) > 0
    assert found["rates_origin"].startswith("measured by a probe")
    assert set(found["probed"]) == set(StageRates.model_fields)
    assert all(f": {what} |" in finished.stdout and what in finished.stderr for what in found["probed"].values())
    assert finished.stdout.rstrip() == (tmp_path / "plan.md").read_text().rstrip()


@pytest.mark.parametrize(
    ("recipe", "codec"),
    [
        ("paper", "steps of 1 clip of 15 s (the recipe's micro-batch is 8), fp32 on cpu, encoder fine-tuned"),
        ("base16k", "steps of 1 clip of 15 s (the recipe's micro-batch is 8), fp32 on cpu, frozen encoder, run in"),
    ],
)
def test_the_probe_says_what_it_trains(recipe: str, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    said = what_is_probed(resolve(recipe))
    assert said["codec"].startswith(codec) and said["adversarial"].endswith("with discriminators")
    kept = resolve("base16k", overrides=("codec.cache_latents=true",))
    assert "although the recipe keeps its latents" in what_is_probed(kept)["codec"]


def test_a_probe_that_needs_more_memory_than_is_free_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("syllabary.workers.forecast.probe.free_bytes", lambda: RESERVED_BYTES + (64 << 20))
    monkeypatch.setattr("syllabary.workers.forecast.probe._alone_in_a_process_group", lambda device: None)
    monkeypatch.setattr("syllabary.workers.forecast.probe._shard_rate", lambda *_: 1.0)
    threads = torch.get_num_threads()
    with pytest.raises(InputError, match=r"a probe of pretrain .*'0.1 GB'; free some memory, or state the --rates"):
        probe(resolve("paper"), 0.1)
    torch.set_num_threads(threads)
