"""``evaluate`` from shards to page: complete, resumable, honest about what has no value, one line for each mistake."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile as sf

from syllabary.shards import outputs
from syllabary.shards.archive.parts import open_part
from syllabary.shards.blocks.vocabulary import LmVocabulary
from syllabary.shards.errors import ConflictError, FormatError, InputError, NotFoundError
from syllabary.workers.archive.encode_shard import archive_format
from syllabary.workers.control.jobs import EvaluateJob
from syllabary.workers.evaluation import scoring
from syllabary.workers.evaluation import utterance as evaluate_utterance
from syllabary.workers.evaluation.scoring import Measure
from syllabary.workers.evaluation.scoring_models import Scorer
from syllabary.workers.evaluation.selection import select
from syllabary.workers.evaluation.utterance import Item, Timer, UtteranceEvaluator, result_uri
from syllabary.workers.lm.blocks_data import Vocabulary
from syllabary.workers.lm.directory import save_model
from syllabary.workers.lm.speech_lm import make_model
from syllabary.workers.report.card import LEDGER, PAGE, REPORT, SCORES, TOKENS, read_card
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from tests.conftest import voiced
from tests.helpers.archive_corpus import make_tokenizer
from tests.helpers.evaluation_testing import CHEAP, RATE, evaluate_here, make_job, make_speech_shards, write_shard

SYSTEMS = {"ours", "codec2_700c", "codec2_1300", "codec2_3200", "opus_6k", "original", "lowpass_4k", "noise",
           "reversed"}  # fmt: skip
NUM_UTTERANCES = 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards, tokenizer and one finished report, read only."""
    folder = tmp_path_factory.mktemp("evaluation")
    evaluate_here(make_job(folder))
    return folder


def inputs_of(folder: Path) -> dict[str, Any]:
    return {"shards": str(folder / "shards"), "tokenizer": str(folder / "tokenizer")}


def test_the_card_is_complete(folder: Path) -> None:
    card = read_card(str(folder / "report"))
    assert {s.name for s in card.systems} == SYSTEMS and [m.name for m in card.metrics] == list(CHEAP)
    assert (card.corpus.num_utterances, card.corpus.num_speakers) == (NUM_UTTERANCES, 3)
    assert {(s.system, s.metric) for s in card.scores} == {(s, m) for s in SYSTEMS for m in CHEAP}
    best, floor = card.score("original", "estoi"), card.score("noise", "estoi")
    assert best and floor and best.mean == pytest.approx(1) and floor.mean < 0.2
    assert {d.baseline for d in card.differences} == SYSTEMS - {"ours"}
    for difference in card.differences:
        ours, other = card.score("ours", difference.metric), card.score(difference.baseline, difference.metric)
        assert ours and other and difference.mean == pytest.approx(ours.mean - other.mean)
    stored = {s.name: s.bitrates.stored for s in card.systems}
    assert stored["codec2_700c"] == pytest.approx(700, rel=0.1) and stored["original"] is None
    assert card.rate.payload == 640 and 0 < card.rate.context_entropy <= 1.3 * 640
    assert card.failures == () and card.absent == ()


def test_tokens_are_certified_and_disturbed(folder: Path) -> None:
    behaviour = read_card(str(folder / "report")).behaviour
    assert behaviour and len(behaviour.certificate) == 6
    assert sum(check.num_mismatches for check in behaviour.certificate) == 0
    assert {a.disturbance for a in behaviour.agreement} == {"shift", "gain", "noise", "band_limit"}
    assert {r.repair for r in behaviour.resilience} == {True, False}


def test_scores_and_ledger_account_for_everything(folder: Path) -> None:
    scores, ledger = (pq.read_table(folder / "report" / name).to_pylist() for name in (SCORES, LEDGER))
    assert len(ledger) == NUM_UTTERANCES * len(SYSTEMS) * len(CHEAP)
    assert len(scores) == Counter(row["status"] for row in ledger)["scored"]
    card = read_card(str(folder / "report"))
    values = [row["value"] for row in scores if (row["system"], row["metric"]) == ("ours", "estoi")]
    assert card.score("ours", "estoi").mean == pytest.approx(np.mean(values))  # type: ignore[union-attr]
    worst = [case for case in card.worst if case.metric == "estoi"]
    assert [case.value for case in worst] == sorted(values)[:5] and worst[0].rank == 1


def test_the_tokens_are_a_real_archive_part(folder: Path) -> None:
    part = open_part(str(folder / "report" / TOKENS), "part")
    assert part.metadata.num_rows == NUM_UTTERANCES
    size = (folder / "report" / TOKENS).stat().st_size
    card = read_card(str(folder / "report"))
    assert card.rate.stored_all == pytest.approx(8 * size / card.corpus.duration_s)


def test_every_sound_plays_for_as_long_as_it_says(folder: Path) -> None:
    card = read_card(str(folder / "report"))
    assert len(card.samples) == 2 and card.samples[0].reason == "typical"
    for sample in card.samples:
        assert {sound.system for sound in sample.sounds} == SYSTEMS
        for sound in sample.sounds:
            info = sf.info(folder / "report" / sound.path)
            assert info.duration == pytest.approx(sound.duration_s) == pytest.approx(sample.duration_s, abs=1e-3)
        assert len(sample.salience) == -(-sample.duration_s // sample.frame_s)
    assert (folder / "report" / PAGE).stat().st_size > 10_000


def test_a_second_run_changes_nothing(folder: Path) -> None:
    report = folder / "report"
    before = {p: p.read_bytes() for p in report.rglob("*") if p.is_file()}
    evaluate_here(make_job(folder))
    assert {p: p.read_bytes() for p in report.rglob("*") if p.is_file()} == before


def test_only_what_is_missing_is_scored_again(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What an interrupted run left, utterance by utterance, is neither scored nor written a second time."""
    shutil.copytree(folder / "report", tmp_path / "report")
    job = make_job(folder, out=str(tmp_path / "report"))
    lost = Path(result_uri(job.out, 3))
    lost.unlink()
    kept = {p: p.stat().st_mtime_ns for p in lost.parent.glob("*.json")}
    scored, real = [], UtteranceEvaluator.evaluate

    def evaluated(self: UtteranceEvaluator, item: Item, timer: Timer) -> dict[str, Any]:
        scored.append(item.number)
        return real(self, item, timer)

    monkeypatch.setattr(UtteranceEvaluator, "evaluate", evaluated)
    evaluate_here(job)
    assert scored == [3] and len(kept) == NUM_UTTERANCES - 1
    assert {p: p.stat().st_mtime_ns for p in kept} == kept
    assert lost.read_bytes() == (folder / "report" / "utterances" / lost.name).read_bytes()


def test_models_are_loaded_once_for_all_utterances(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, real = [], Scorer._measure

    def measure(family: str, wavlm: str | None) -> Measure:
        loaded.append(family)
        return real(family, wavlm)

    monkeypatch.setattr(Scorer, "_measure", staticmethod(measure))
    evaluator = UtteranceEvaluator(make_job(folder).model_dump_json(), CHEAP, "title")
    for item in select(make_job(folder, limit=2, num_probes=0)).items:
        assert evaluator.evaluate(item, Timer())["scores"]["ours"]
    assert loaded == ["stoi", "estoi", "mel"]


def test_an_utterance_too_long_for_the_memory_is_named_and_the_others_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evaluate_utterance, "MAX_UTTERANCE_S", 1.7)
    job = make_job(tmp_path, metrics=("mel_distance",), num_probes=0, num_samples=1)  # of 1.6 s and of 1.8 s
    evaluate_here(job)
    card = read_card(job.out)
    assert card.score("ours", "mel_distance").num_utterances == NUM_UTTERANCES // 2  # type: ignore[union-attr]
    long = {item.utterance_id for item in select(job).items if item.duration_s > 1.7}
    assert {f.utterance_id for f in card.failures} == long and len(long) == NUM_UTTERANCES // 2
    assert {f.reason for f in card.failures} == {"longer than 2 s: shard it into shorter utterances"}


def test_a_language_model_is_heard_on_the_tokens_that_were_evaluated(folder: Path, tmp_path: Path) -> None:
    """One that knows nothing needs the logarithm of the possible ids, of each token in its place."""
    job = make_job(folder, out=str(tmp_path / "out"), limit=2, language_model=make_language_model(folder, tmp_path))
    assert evaluate_here(job)["language_model_bits_per_s"] == read_card(job.out).rate.language_model
    card = read_card(job.out)
    frame = math.log2(16_384 + 2) + 17 * math.log2(16_384) + math.log2(16)
    assert card.rate.language_model == pytest.approx(frame * card.rate.num_frames / card.corpus.duration_s, rel=1e-4)
    assert any("language model's figure" in note for note in card.notes)
    assert b"Language model" in (tmp_path / "out" / PAGE).read_bytes()
    assert read_card(str(folder / "report")).rate.language_model is None, "absent without a model"
    with pytest.raises(ConflictError):
        evaluate_here(job.model_copy(update={"language_model": None}))
    foreign = make_language_model(folder, tmp_path, encoder_digest="f" * 64)
    with pytest.raises(ConflictError, match="a language model of another encoder's tokens"):
        evaluate_here(job.model_copy(update={"language_model": foreign, "out": str(tmp_path / "other")}))
    assert not (tmp_path / "other").exists()


def make_language_model(folder: Path, tmp_path: Path, encoder_digest: str | None = None) -> str:
    """The directory of a model whose head is zero, of the tokens of the tokenizer below ``folder`` or of another."""
    form = archive_format(Tokenizer.load(str(folder / "tokenizer"), decoder=False))
    ids = LmVocabulary(form.packing)
    metadata = form.to_json() | ids.ids() | {"vocabulary_size": ids.size, "id_offset": 0, "block_size": 96}
    metadata |= {"ends": "separator", "encoder_digest": encoder_digest or form.encoder_digest}
    vocabulary, sizes = Vocabulary.of_metadata(metadata), {"hidden_size": 16, "num_layers": 1, "num_heads": 2}
    model = make_model(vocabulary, **sizes)
    model.lm_head.weight.data.zero_()
    uri = str(tmp_path / f"model-{encoder_digest}")
    save_model(uri, model, vocabulary, sizes)
    return uri


def test_another_configuration_or_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConflictError, match=r"config\.limit was None and is now 3"):
        evaluate_here(make_job(folder, limit=3))
    other = make_tokenizer(str(tmp_path / "other"), seed=1)
    with pytest.raises(ConflictError, match=r"inputs\.(encoder|decoder)_digest"):
        evaluate_here(make_job(folder, tokenizer=other))


@pytest.mark.timeout(900)
def test_killed_and_repeated_with_ray_the_scores_are_the_same(folder: Path, tmp_path: Path) -> None:
    job = make_job(folder, out=str(tmp_path / "report"))
    command = [sys.executable, "-m", "syllabary.workers", "evaluate", job.model_dump_json()]
    log = tmp_path / "log"
    with log.open("w") as output:
        killed = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True)
    deadline = time.monotonic() + 600
    while not Path(result_uri(job.out, 1)).exists() and time.monotonic() < deadline and killed.poll() is None:
        time.sleep(0.05)
    assert killed.poll() is None, log.read_text()
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "report" / REPORT).exists(), "it was killed too late to mean anything"
    evaluate_here(job)
    for name in (SCORES, LEDGER, TOKENS):
        assert (tmp_path / "report" / name).read_bytes() == (folder / "report" / name).read_bytes(), name
    repeated, first = (read_card(str(where / "report")) for where in (tmp_path, folder))
    assert repeated == first


CRASHES = """
import os, signal, sys

def crashes(original, degraded):
    if len(original.samples) == 16_000:
        os.kill(os.getpid(), signal.SIGSEGV)
    return real(original, degraded)

if any("default_worker" in argument for argument in sys.orig_argv):
    from syllabary.workers.evaluation import scoring
    real, scoring.mel_distance = scoring.mel_distance, crashes
"""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_package_that_crashes_takes_neither_the_run_nor_the_other_utterances_along(tmp_path: Path) -> None:
    """A segmentation fault is no exception: the process is gone, with every attempt. Two workers share the others."""
    (tmp_path / "sitecustomize.py").write_text(CRASHES)
    outputs.claim(str(tmp_path / "shards"), "shards", inputs={}, config={})
    waves = {(str(n), 0): voiced(np.random.default_rng(n), 1.0 + 0.2 * n, 100 + 20 * n) for n in range(4)}
    write_shard(str(tmp_path / "shards"), "valid-000000", waves)
    job = make_job(tmp_path, metrics=("mel_distance",), num_probes=0, num_samples=1, num_workers=2)
    ended = subprocess.run(
        job.command(sys.executable), capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path.cwd()}"},
    )  # fmt: skip
    assert ended.returncode == FormatError.exit_code, ended.stderr[-3000:]
    line = next(line for line in ended.stderr.splitlines() if line.startswith("error: "))
    assert "1 of 4 utterances could not be scored" in line and "0/book/chapter_0: its worker died 4 times" in line
    crashed = next(item.number for item in select(job).items if item.utterance_id == "0/book/chapter_0")
    done = {int(path.stem) for path in (tmp_path / "report" / "utterances").glob("*.json")}
    assert done == {0, 1, 2, 3} - {crashed}


def test_limits_are_spread_over_speakers(folder: Path) -> None:
    chosen = select(make_job(folder, limit=3))
    assert len({item.row["speaker"] for item in chosen.items}) == 3 and chosen.num_held_out == NUM_UTTERANCES
    assert select(make_job(folder, limit=3)).digest == chosen.digest
    assert any("3 of 6" in note for note in chosen.notes)


def test_a_metric_that_fails_on_one_file_is_reported_and_the_others_go_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = scoring.mel_distance, []

    def fails_once(original: Any, degraded: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise RuntimeError("of its own")
        return real(original, degraded)

    monkeypatch.setattr(scoring, "mel_distance", fails_once)
    job = make_job(folder, out=str(tmp_path / "out"), limit=2, metrics=("mel_distance",), num_probes=0, num_samples=0)
    assert evaluate_here(job)["num_failures"] == 1
    card = read_card(job.out)
    assert [(f.system, f.metric, f.reason) for f in card.failures] == [
        ("ours", "mel_distance", "mel: RuntimeError: of its own")
    ]
    assert card.score("ours", "mel_distance").num_utterances == 1  # type: ignore[union-attr]
    assert card.score("noise", "mel_distance").num_utterances == 2  # type: ignore[union-attr]


def test_silence_and_missing_transcripts_are_said(tmp_path: Path) -> None:
    outputs.claim(str(tmp_path / "shards"), "shards", inputs={}, config={})
    waves = {("1", 0): voiced(np.random.default_rng(0), 1.5, 120), ("2", 0): np.zeros(RATE)}
    write_shard(str(tmp_path / "shards"), "valid-000000", waves)
    evaluate_here(make_job(tmp_path, metrics=("estoi", "wer"), num_samples=1))
    card = read_card(str(tmp_path / "report"))
    assert card.score("ours", "estoi").num_utterances == 1  # type: ignore[union-attr]
    reasons = {f.reason for f in card.failures if f.utterance_id == "2/book/chapter_0" and f.system == "ours"}
    assert reasons == {"the original is silent"}
    assert [a.metric for a in card.absent] == ["wer"] and "--transcripts" in card.absent[0].reason
    assert any("No transcripts" in note for note in card.notes)
    assert card.score("ours", "estoi").low is None  # type: ignore[union-attr]


def test_transcripts_give_word_errors(folder: Path, tmp_path: Path) -> None:
    table = tmp_path / "t.tsv"
    names = [item.utterance_id for item in select(make_job(folder)).items]
    table.write_text("utterance_id\ttext\n" + "".join(f"{name}\tno such words\n" for name in names))
    job = make_job(folder, out=str(tmp_path / "out"), metrics=("wer", "cer"), transcripts=str(table), limit=1,
                   num_probes=0, num_samples=1)  # fmt: skip
    evaluate_here(job)
    card = read_card(job.out)
    assert card.corpus.num_transcripts == 1 and card.samples[0].transcript == "no such words"
    assert card.score("original", "wer").mean > 0  # type: ignore[union-attr]


def test_transcripts_of_other_speech_are_refused(tmp_path: Path) -> None:
    table, shards = tmp_path / "t.tsv", make_speech_shards(str(tmp_path / "shards"), seconds=0.6)
    table.write_text("path\tstart_sec\tend_sec\ttext\nelsewhere.flac\t0\t9\twords\n")
    job = EvaluateJob(tokenizer="x", shards=shards, out=str(tmp_path / "out"), transcripts=str(table))
    with pytest.raises(InputError, match=r"no transcript of any of the 6 .*path as '1\d\d/book/chapter_\d.flac'"):
        select(job)


@pytest.mark.slow
def test_cost_is_measured_once(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from syllabary.workers.evaluation import cost as codec_cost

    monkeypatch.setattr(codec_cost, "CLIP_S", 1.0)
    monkeypatch.setattr(codec_cost, "NUM_REPEATS", 1)
    job = make_job(
        folder, out=str(tmp_path / "out"), limit=1, metrics=("mel_distance",), measure_cost=True, num_probes=0
    )
    evaluate_here(job)
    cost = read_card(job.out).cost
    assert cost and [(p.direction, p.batch_size == 1) for p in cost.points] == [
        ("encode", True), ("encode", False), ("decode", True), ("decode", False),
    ]  # fmt: skip
    assert all(p.real_time_factor > 0 and p.peak_memory_mb > 50 for p in cost.points) and cost.machine.num_cores > 0
    assert {"mel", "read", "system ours", "system opus_6k"} <= {s.name for s in cost.scoring}
    evaluate_here(job)
    assert read_card(job.out).cost == cost, "a repeated run reports what was measured"


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"splits": ("train",)}, InputError, "too few utterances in the splits train"),
        ({"metrics": ("loudness",)}, InputError, "unknown metric: 'loudness'"),
        ({"peers": ("mimi=/absent",)}, InputError, "--peer mimi: no known checkpoint in /absent"),
        ({"peers": ("mimi",)}, InputError, "expected NAME=DIR"),
        ({"shards": "absent"}, NotFoundError, "absent"),
        ({"tokenizer": "absent"}, NotFoundError, "absent"),
        ({"transcripts": "absent.tsv"}, NotFoundError, "absent.tsv"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_each_mistake_is_one_line_and_leaves_nothing(
    folder: Path, tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        evaluate_here(make_job(folder, **{"out": str(tmp_path / "out"), **changes}))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_damaged_shard_is_named_and_the_others_are_scored(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    tar = next((tmp_path / "shards" / "shards").glob("test-*.tar"))
    data = bytearray(tar.read_bytes())
    data[3_000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(FormatError, match=r"1 of 6 utterances could not be scored, .* test-000000"):
        evaluate_here(job)
    assert len(list((tmp_path / "report" / "utterances").glob("*.json"))) == NUM_UTTERANCES - 1


def test_an_output_of_another_kind_is_refused(folder: Path, tmp_path: Path) -> None:
    outputs.claim(str(tmp_path / "out"), "shards", inputs={}, config={})
    with pytest.raises(ConflictError):
        evaluate_here(make_job(folder, out=str(tmp_path / "out")))
    assert json.loads((tmp_path / "out" / "output.json").read_text())["kind"] == "shards"
