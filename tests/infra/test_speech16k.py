"""The scripts around the shipped tokenizer: sources and licences, sounds, other kinds of speech, the card."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from infra.speech16k import make_card, make_curve, make_groups, make_sounds
from infra.speech16k.sources import LIBRISPEECH, source_of
from syllabary.shards import audio, dataset, outputs, store
from syllabary.shards.errors import InputError
from syllabary.shards.ingest.config import IngestConfig
from syllabary.workers.recipes.named import resolve
from syllabary.workers.report.card import publish_card, read_card
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from syllabary.workers.training.history import History
from syllabary.workers.training.initial_weights import initial_digest
from tests.helpers.report_card_example import write_example_report
from tests.helpers.standin import save_untrained

RATE = 16_000


@pytest.mark.parametrize(
    ("path", "corpus"),
    [
        ("/data/speech-train/ls19/ls19.ogg", "LibriSpeech"),
        ("/data/speech/19/northangerabbey_219_librispeech_16k/northangerabbey_198_16k.flac", "LibriSpeech"),
        ("so0001/so0001.ogg", "speechocean762"),
        ("x/arslt/arslt.ogg", "CMU ARCTIC"),
        ("x/cathy/cathy.ogg", "Kathleen"),
    ],
)
def test_every_recording_has_one_source(path: str, corpus: str) -> None:
    assert source_of(path).name.startswith(corpus)


@pytest.mark.parametrize("path", ["x/so0001/other.ogg", "8810001/lj/a.flac", "ls19.ogg", "a_librispeech_16k/b.flac"])
def test_a_recording_of_no_known_source_is_refused(path: str) -> None:
    with pytest.raises(InputError, match=r"a recording of no known source: .*add its corpus and licence"):
        source_of(path)


def voice(seed: int, seconds: float) -> np.ndarray:
    time = np.arange(int(seconds * RATE)) / RATE
    beat = 0.6 + 0.4 * np.sin(2 * np.pi * 3 * time)
    noise = 0.01 * np.random.default_rng(seed).standard_normal(len(time))
    return (0.2 * beat * np.sin(2 * np.pi * (150 + 20 * seed) * time) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> str:
    """LibriSpeech of seven held-out readers, 2 to 8 s each, and a trained-on speaker of another corpus."""
    uri = str(tmp_path_factory.mktemp("speech") / "shards")
    outputs.claim(uri, "shards", inputs={}, config={})
    source = "/data/speech/{0}/book_1_librispeech_16k/book_1_16k.flac"
    held_out = [(str(n), source.format(n), 2.0 + n) for n in range(7)]
    _write(uri, "valid-000000", [(*one, n) for n, one in enumerate(held_out)])
    _write(uri, "train-000000", [("so0001", "/data/so0001/so0001.ogg", 3.0, 9)])
    row = {"status": "shard", "detail": "", "num_recordings": 8, "duration_s": 38.0, "percent": 100.0}
    outputs.mark_done(uri, {"ledger": [row]})
    return uri


def _write(uri: str, shard: str, utterances: list[tuple[str, str, float, int]]) -> None:
    rows = []
    with store.publishing(dataset.shard_uri(uri, shard)) as path, dataset.ShardWriter(path) as writer:
        for speaker, source, seconds, seed in utterances:
            flac = audio.encode_flac(voice(seed, seconds), RATE)
            rows.append(
                {
                    "utterance_id": f"{speaker}/u", "recording_id": speaker, "speaker": speaker,
                    "split": shard.partition("-")[0], "shard": shard, "key": speaker,
                    "offset": writer.add(speaker, flac, {}), "size_bytes": len(flac), "sample_rate": RATE,
                    "num_samples": int(seconds * RATE), "start_sample": 0,
                    "sha256": hashlib.sha256(flac).hexdigest(), "source": source, "language": None, "snr_db": None,
                }
            )  # fmt: skip
    dataset.publish_index(uri, shard, rows)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("box") / "standin"
    save_untrained(folder, resolve("tiny"), "bfloat16")
    return str(folder)


def held_out(shards: str) -> list[dict]:
    return dataset.read_index(shards, splits=["valid", "test"]).to_pylist()


def test_sounds_are_chosen_by_name_and_length_one_a_speaker(shards: str) -> None:
    rows = held_out(shards)
    with pytest.raises(InputError, match="too few utterances to show: 4; expected 5 of as many held-out speakers"):
        make_sounds.chosen(rows)  # 4, 5, 6 and 7 s
    rows.append({**rows[3], "speaker": "70", "utterance_id": "70/u"})
    rows.append({**rows[3], "utterance_id": "3/v"})
    chosen = make_sounds.chosen(rows)
    assert chosen == make_sounds.chosen(rows[::-1])
    assert sorted(row["speaker"] for row in chosen) == ["2", "3", "4", "5", "70"]


def test_sounds_keep_their_originals_and_follow_the_tokenizer(shards: str, tokenizer: str, tmp_path: Path) -> None:
    rows, loaded = held_out(shards)[2:4], Tokenizer.load(tokenizer)
    lines = make_sounds.write_sounds(rows, shards, loaded, tmp_path)
    original, rate = audio.decode((tmp_path / "1-2-original.flac").read_bytes())
    restored, _ = audio.decode((tmp_path / "1-2-restored.flac").read_bytes())
    assert np.array_equal(original, audio.decode(dataset.read_utterance(shards, rows[0]))[0])
    wanted = loaded.decode(loaded.encode(original, rate).tokens, len(original), rate)
    assert np.abs(restored - np.clip(wanted, -1, 1)).max() < 1e-3
    picture = (tmp_path / "1-2-spectrograms.png").read_bytes()
    assert len(picture) < 100_000 and Image.open(io.BytesIO(picture)).size == (720, 192)
    page = make_sounds.page_of(lines, loaded, "builtin:standin")
    for named in re.findall(r"\]\(([^)]+\.(?:flac|png))\)", page):
        assert (tmp_path / named).exists(), named
    assert LIBRISPEECH.licence in page and "reader 3" in page and loaded.encoder_digest[:16] in page
    (tmp_path / "2-3-original.flac").write_bytes((tmp_path / "1-2-original.flac").read_bytes())
    make_sounds.write_sounds(rows, shards, loaded, tmp_path)
    assert len(audio.decode((tmp_path / "2-3-restored.flac").read_bytes())[0]) == len(original)


def test_noise_is_10_db_below_the_speech_and_follows_from_the_name() -> None:
    wave = voice(0, 4.0)
    noisy = make_groups.in_noise(wave, "a.flac")
    difference = noisy.astype(np.float64) - wave
    snr_db = 10 * np.log10(np.mean(wave.astype(np.float64) ** 2) / np.mean(difference**2))
    assert snr_db == pytest.approx(10, abs=0.05)
    assert np.array_equal(noisy, make_groups.in_noise(wave, "a.flac"))
    assert not np.array_equal(noisy, make_groups.in_noise(wave, "b.flac"))
    assert np.abs(make_groups.in_noise(20 * wave, "a.flac")).max() <= 1


def test_noise_is_made_of_held_out_speakers_alone_with_their_transcripts(tmp_path: Path) -> None:
    speech, lines = tmp_path / "speech", []
    table = ["path\tutterance\tstart_sec\tend_sec\ttext"]
    for speaker in ("19", "26", "211", "2518"):  # of these only 211 and 2518 hash below 4 percent
        path = speech / speaker / "a.flac"
        store.publish_bytes(str(path), audio.encode_flac(voice(1, 1.0), RATE))
        lines.append({"path": str(path.resolve()), "speaker": speaker})
        table.append(f"{speaker}/a.flac\tu\t0.0\t1.0\tSAID BY {speaker}")
    (speech / "transcripts.tsv").write_text("\n".join(table) + "\n")
    paths = make_groups.write_noise(lines, tmp_path / "out", IngestConfig())
    assert sorted(Path(new).parent.name for new in paths.values()) == ["211", "2518"]
    make_groups.write_table(tmp_path / "noise.tsv", make_groups.transcripts(speech, paths))
    rows = [line.split("\t") for line in (tmp_path / "noise.tsv").read_text().splitlines()]
    assert rows[0] == ["path", "start_sec", "end_sec", "text"]
    assert {(row[0], row[3]) for row in rows[1:]} == {
        (new, f"SAID BY {Path(new).parent.name}") for new in paths.values()
    }


def test_hours_of_a_training_are_those_of_its_logged_stretches() -> None:
    timings = History()
    for step, seconds, rate in ((10, 2.0, 30.0), (20, 4.0, 15.0)):
        timings.add(step, "timing", {"step_s": seconds, "audio_s_per_s": rate})
    assert make_card.heard(timings) == (10 * 2 * 30 + 10 * 4 * 15, 10 * 2 + 10 * 4)


@pytest.fixture
def run(tmp_path: Path) -> str:
    uri, recipe = str(tmp_path / "codec"), resolve("tiny")
    outputs.claim(uri, "codec", inputs={"init": "none"}, config={})
    store.publish_bytes(store.join(uri, "config.json"), store.pretty_json(recipe.model_dump(mode="json")))
    timings = History()
    timings.add(800, "timing", {"step_s": 9.0, "audio_s_per_s": 5.0})
    timings.publish(uri)
    outputs.mark_done(uri, {"steps": 800, "precision": "bf16"})
    return uri


def report_of(tokenizer: str, folder: Path) -> str:
    write_example_report(folder)
    card, digests = read_card(str(folder)), Tokenizer.load(tokenizer).digests
    made = card.provenance.model_copy(update={"encoder_digest": digests.encoder, "decoder_digest": digests.decoder})
    publish_card(str(folder), card.model_copy(update={"provenance": made}))
    return str(folder)


def test_the_card_says_what_shards_runs_and_reports_say(shards: str, tokenizer: str, run: str, tmp_path: Path) -> None:
    report = report_of(tokenizer, tmp_path / "report")
    text = make_card.card_of(tokenizer, shards, [run], report, {"noise": report})
    digests = Tokenizer.load(tokenizer).digests
    assert digests.encoder in text and "| weights stored as | bfloat16 |" in text
    corpora = [line for line in text.splitlines() if line.startswith(("| LibriSpeech", "| speechocean762"))]
    assert "| CC BY 4.0 | 7 | 0.00 | 0.01 |" in corpora[0]  # 2 + ... + 8 s held out
    assert "| CC BY 4.0 | 1 | 0.00 | 0.00 |" in corpora[1]
    assert "| codec | tiny | 800 | none | bf16 | 10.0 | 2.0 | 2 x 1 |" in text  # 7,200 s at 5 s of audio a second
    assert "syllabary shard data/speech16k/train.jsonl" in text
    card = read_card(report)
    for system in card.systems:
        (row,) = [line for line in text.splitlines() if line.startswith(f"| {system.label} |")]
        score, metric = card.score(system.name, "estoi"), next(m for m in card.metrics if m.name == "estoi")
        assert make_card.with_interval(metric, score) in row
    assert "## What it must not be used for" in text and "| noise |" in text


def test_a_report_of_another_tokenizer_is_refused(shards: str, tokenizer: str, run: str, tmp_path: Path) -> None:
    write_example_report(tmp_path / "report")
    with pytest.raises(InputError, match="is of another tokenizer, decoder digest"):
        make_card.card_of(tokenizer, shards, [run], str(tmp_path / "report"), {})
    unfinished = str(tmp_path / "unfinished")
    outputs.claim(unfinished, "codec", inputs={}, config={})
    with pytest.raises(InputError, match="the run is not complete"):
        make_card.card_of(tokenizer, shards, [unfinished], str(tmp_path / "report"), {})


def test_the_trainings_before_are_those_of_the_tokenizer_that_the_run_began_with(
    shards: str, tokenizer: str, run: str, tmp_path: Path
) -> None:
    report, earlier, recipe = report_of(tokenizer, tmp_path / "report"), tmp_path / "earlier", resolve("tiny")
    shutil.copytree(tokenizer, earlier)
    later = str(tmp_path / "later")
    outputs.claim(later, "codec", inputs={"init": initial_digest(str(earlier), recipe)}, config={})
    for name in ("config.json", "timings.parquet"):
        store.publish_bytes(store.join(later, name), store.read_bytes(store.join(run, name)))
    outputs.mark_done(later, {"steps": 300, "precision": "fp32"})
    with pytest.raises(InputError, match="the card has no table of trainings"):
        make_card.card_of(tokenizer, shards, [later], report, {}, earlier=str(earlier))
    (earlier / "README.md").write_text(make_card.card_of(tokenizer, shards, [run], report, {}))
    lines = make_card.card_of(tokenizer, shards, [later], report, {}, earlier=str(earlier)).splitlines()
    at = lines.index("| codec | tiny | 800 | none | bf16 | 10.0 | 2.0 | 2 x 1 |")
    assert lines[at - 2] == make_card.TRAININGS and lines[at + 1].startswith("| codec | tiny | 300 | ")
    assert lines[at + 2] == ""
    with pytest.raises(InputError, match=r"did not begin with .*'none'; expected"):
        make_card.card_of(tokenizer, shards, [run], report, {}, earlier=str(earlier))


def test_a_curve_goes_on_from_the_one_before(tmp_path: Path) -> None:
    run, judged, docs = str(tmp_path / "run"), tmp_path / "judged.csv", tmp_path / "docs"
    numbers = History()
    for step, mel in ((600, 0.5), (1_200, 0.4)):
        numbers.add(step, "valid", {"mel_head": mel})
        numbers.add(step, "timing", {"step_s": 3.0})
    numbers.publish(run)
    judged.write_text("step,hours,estoi,distill_mos\n0,0.0,0.55,2.5\n100,0.25,0.6,3.0\n")
    make_curve.main(["--bottleneck", run, "--judged", str(judged), "4", "--out", str(docs)])
    first = (docs / "speech16k-curve.csv").read_text().splitlines()
    assert first == [
        "figure,training,cpu_hours,value",
        "bottleneck: held-out mel L1,1,0.500,0.5000",
        "bottleneck: held-out mel L1,1,1.000,0.4000",
        "decoder: ESTOI,1,4.000,0.5500",
        "decoder: ESTOI,1,4.250,0.6000",
        "decoder: DistillMOS,1,4.000,2.5000",
        "decoder: DistillMOS,1,4.250,3.0000",
    ]
    earlier = str(docs / "speech16k-curve.csv")
    make_curve.main(["--bottleneck", run, "--out", str(docs), "--earlier", earlier])
    assert (docs / "speech16k-curve.csv").read_text().splitlines() == [
        *first[:3],
        "bottleneck: held-out mel L1,2,1.500,0.5000",
        "bottleneck: held-out mel L1,2,2.000,0.4000",
        *first[3:],
    ]
    assert Image.open(docs / "speech16k-curve.png").width == 3 * 4 * 80


def test_an_interval_stands_beside_its_mean(tmp_path: Path) -> None:
    write_example_report(tmp_path)
    card = read_card(str(tmp_path))
    metric = next(m for m in card.metrics if m.name == "estoi")
    score = card.scores[0].model_copy(update={"mean": 0.521, "low": 0.494, "high": 0.55})
    assert make_card.with_interval(metric, score) == "0.52 [0.49, 0.55]"
    assert make_card.with_interval(metric, score.model_copy(update={"low": None})) == "0.52"
    assert make_card.with_interval(metric, None) == "–"
    assert json.dumps(make_card.commands()).count("syllabary evaluate") >= 4
