"""What a run's summary says of its learning: no loss without what is had without listening, and every warning."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from syllabary.shards import audio, dataset, outputs, store
from syllabary.shards.errors import InputError
from syllabary.workers.control.jobs import SummaryJob
from syllabary.workers.evaluation import held_out_estoi
from syllabary.workers.operate.summary import summarize, warnings_in_force
from syllabary.workers.tokenizer.token_file import read_token_file
from syllabary.workers.tokenizer.tokenizer import Tokenizer
from syllabary.workers.training.history import METRICS, History
from syllabary.workers.training.watches import words as watch_words
from tests.helpers.small_models import small_tokenizer
from tests.helpers.training_testing import Gang, train_here, training_recipe, write_training_shards

JEPA = {"relative_loss": 0.42, "relative_loss_other": 1.63}
CODEC = {
    "mrstft": 1.888, "mrstft_right": 1.890, "mrstft_shuffled": 1.892, "mrstft_other": 1.895, "mrstft_constant": 1.916,
    "token_gain": 1 - 1.890 / 1.892, "between_clips": 0.0154, "level_entropy_bits": 1.42,
    "level_entropy_given_place": 0.2, "latent_rank_given_place": 1.83, "latent_dims": 128.0,
}  # fmt: skip


def test_every_figure_stands_beside_what_is_had_without_listening():
    assert watch_words.prediction({"relative_loss": 1.3}, JEPA) == (
        "relative loss 1.300 → 0.420 (1 is a guess that knows only the place), 1.630 with another clip's context"
    )
    assert watch_words.reconstruction({"mrstft": 2.6}, CODEC, "mrstft") == (
        "mrstft 2.600 → 1.888; on the same clips 1.890 with the right tokens, 1.892 with its frames shuffled, "
        "1.895 with another utterance's tokens, 1.916 with one constant frame: 0.1 % gained"
    )
    assert watch_words.gained(-0.005) == "nothing gained"
    assert watch_words.latents(CODEC) == (
        "1.5 % of their variance lies between clips, 98.5 % tells the place in the clip; "
        "2 of 128 dims once the place is known"
    )
    assert watch_words.digits(CODEC, 4) == "1.42 of 2 bits per dim, 0.20 once the place is known"
    assert watch_words.in_short(CODEC) == " · token gain 0.1 % · 1.5 % between clips · 0.20 bits given the place"


def test_figures_that_do_not_exist_are_said_to():
    few = "not known (too few held-out clips, or nothing that moves)"
    assert watch_words.prediction({}, {}) == f"relative loss {few}"
    assert watch_words.latents({}) == f"share between clips {few}"
    assert watch_words.digits({"level_entropy_bits": 0.0}, 4) == f"0.00 of 2 bits per dim, given the place {few}"
    alone = watch_words.reconstruction({"mrstft": 2.6}, {"mrstft": 1.9}, "mrstft")
    assert alone == "mrstft 2.600 → 1.900; wrong tokens could not be tried"
    assert watch_words.in_short({}) == ""


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> SummaryJob:
    """A finished run of the small models: real shards, both stages, a tokenizer; archive and sound in name only."""
    root = tmp_path_factory.mktemp("summary")
    recipe = training_recipe(pretrain__num_steps=4, codec__num_steps=4, codec__watch__min_entropy_given_place_bits=2.5)
    uris = {name: str(root / name) for name in ("shards", "pretrain", "codec", "tokenizer", "archive", "restored")}
    _shards(uris["shards"])
    with Gang(1) as gang:
        gang.run(train_here, "pretrain", recipe, uris["pretrain"], uris["shards"])
        gang.run(train_here, "codec", recipe, uris["codec"], uris["shards"], uris["pretrain"])
    begun = small_tokenizer("waveform", root / "begun", seed=1)
    small_tokenizer("waveform", root / "tokenizer")
    init = {"uri": str(root / "begun"), "kind": "tokenizer"}
    init |= {"encoder_digest": begun.encoder_digest, "decoder_digest": begun.decoder_digest}
    outputs.claim(str(root), "run", inputs={"init": init}, config=recipe.model_dump(mode="json"))
    outputs.mark_done(uris["archive"], {"size_bytes": 1000, "tokenized_s": 10.0, "num_tokenized": 5})
    _restored(uris["restored"], uris["shards"])
    return SummaryJob(run=str(root))


def _restored(uri: str, shards: str) -> None:
    """Two utterances given back as they were, and one of no samples that has no file."""
    rows = dataset.read_index(shards, splits=["valid"]).to_pylist()[:3]
    for row in rows[:2]:
        row["file"] = f"audio/{row['utterance_id']}.flac"
        store.publish_bytes(store.join(uri, row["file"]), dataset.read_utterance(shards, row))
    rows[2]["file"] = None
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    store.publish_bytes(store.join(uri, "manifest.parquet"), buffer.getvalue())
    outputs.mark_done(uri, {"num_utterances": 3})


def _shards(uri: str) -> None:
    write_training_shards(uri)
    claim = json.loads(store.read_bytes(store.join(uri, outputs.CLAIM)))
    claim["config"]["split_by"] = "speaker"
    store.publish_bytes(store.join(uri, outputs.CLAIM), store.pretty_json(claim))
    splits = {"train": {"duration_s": 50.0, "num_utterances": 24}, "valid": {"duration_s": 10.0, "num_utterances": 6}}
    outputs.mark_done(uri, {"splits": splits, "ledger": []})


def test_the_summary_of_a_run_has_the_figures_of_its_validations_and_its_warnings(job: SummaryJob):
    done = summarize(job)
    text = Path(job.run, "summary.md").read_text()
    history = History.from_parquet(store.read_bytes(store.join(f"{job.run}/codec", METRICS)))
    last = {name: history.series("valid", name)[1][-1] for name in history.names("valid")}
    for name, words in (("shuffled", "its frames shuffled"), ("other", "another utterance's tokens")):
        assert f"{last[f'mrstft_{name}']:.3f} with {words}" in text
    assert f"{last['mrstft_right']:.3f} with the right tokens" in text
    assert f"{100 * last['between_clips']:.1f} % of their variance lies between clips" in text
    assert f"{last['level_entropy_given_place']:.2f} once the place is known" in text
    assert f"{last['latent_rank_given_place']:.0f} of {last['latent_dims']:.0f} dims once the place is known" in text
    assert "on held-out speakers" in text and "use of the codes" not in text
    assert done["figures"].items() >= {name: last[name] for name in ("between_clips", "token_gain")}.items()
    warned = {one["name"]: one for one in outputs.read_done(f"{job.run}/codec")["warnings"]}
    assert (warned["entropy_given_place"]["first_step"], warned["entropy_given_place"]["last_step"]) == (0, 4)
    late = [one for one in outputs.read_done(f"{job.run}/pretrain")["warnings"] if one["name"] == "relative_loss"]
    assert [(one["first_step"], one["last_step"]) for one in late] == [(4, 4)]  # never judged in the first half
    assert f"- codec, steps 0 to 4: {warned['entropy_given_place']['text']}" in text
    assert "codec: entropy given place" in done["headline"]["warnings"]
    assert done["headline"]["heard"].startswith("ESTOI ") and "held-out utterances of 5 speakers" in text


def test_the_page_plays_what_was_before_the_training_beside_what_it_made(job: SummaryJob):
    """Original, the tokenizer that was begun with, this run's; tokens and sound of the second lie in the run."""
    headline = summarize(job)["headline"]
    page = Path(job.run, "summary.html").read_text()
    sounds = [base64.b64decode(data) for data in re.findall(r'src="data:audio/flac;base64,([^"]+)"', page)]
    assert len(sounds) == 6 and page.count("data:image/png;base64,") == 6
    ids = re.findall(r'<h3 id="u-\d+">([^<]+)</h3>', page)
    begun = Tokenizer.load(f"{job.run}/begun")
    for name, (original, before, trained) in zip(ids, (sounds[:3], sounds[3:]), strict=True):
        samples, rate = audio.decode(original)
        assert trained == original  # what the fixture has restored
        tokens = read_token_file(f"{job.run}/before/{name}.tokens.safetensors")
        assert np.array_equal(tokens.tokens, begun.encode(samples, rate).tokens)
        decoded = audio.decode(before)[0]
        assert len(decoded) == len(samples)
        assert np.abs(decoded - begun.decode(tokens.tokens, len(samples), rate)).max() < 1e-3
        assert Path(job.run, "before", f"{name}.flac").read_bytes() == before
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    assert headline["begun with"] == f"{job.run}/begun, both stages" and headline["heard before"].startswith("ESTOI ")
    assert "| begun with |" in Path(job.run, "summary.md").read_text()


def test_a_beginning_that_has_changed_since_is_refused(job: SummaryJob, tmp_path: Path):
    shutil.copytree(job.run, tmp_path / "run")
    claim = tmp_path / "run" / outputs.CLAIM
    small_tokenizer("waveform", tmp_path / "other", seed=2)
    claim.write_text(claim.read_text().replace(f"{job.run}/begun", str(tmp_path / "other")))
    with pytest.raises(InputError, match="the tokenizer that the run began with has changed"):
        summarize(SummaryJob(run=str(tmp_path / "run")))


def test_only_warnings_that_the_last_validation_gave_are_in_force():
    told = [{"name": "a", "first_step": 0, "last_step": 2, "text": "healed"},
            {"name": "b_c", "first_step": 2, "last_step": 4, "text": "still so"}]  # fmt: skip
    done: dict[str, dict[str, Any]] = {"pretrain": {"steps": 4, "warnings": told}, "codec": {"steps": 4}}
    assert warnings_in_force(done) == "1 (pretrain: b c)"
    assert warnings_in_force({"pretrain": {"steps": 4, "warnings": told[:1]}, "codec": {"steps": 4}}) == "none"


class _Perfect:
    """A tokenizer that loses nothing, or all but the level."""

    def __init__(self, deaf: bool) -> None:
        self.deaf = deaf

    def encode(self, samples: np.ndarray, rate: int) -> Any:
        return SimpleNamespace(tokens=samples)

    def decode(self, tokens: np.ndarray, num_samples: int, rate: int) -> np.ndarray:
        noise = np.random.default_rng(0).standard_normal(num_samples).astype(np.float32)
        return 0.1 * noise if self.deaf else tokens


def test_estoi_of_a_tokenizer_that_loses_nothing_is_1_and_of_noise_next_to_nothing(tmp_path, monkeypatch):
    shards = write_training_shards(str(tmp_path / "shards"), valid=30)
    for deaf, low, high in ((False, 0.999, 1.001), (True, -0.2, 0.2)):
        monkeypatch.setattr(Tokenizer, "load", lambda uri, deaf=deaf: _Perfect(deaf))
        value, words = held_out_estoi.held_out_estoi(shards, "tokenizer")
        assert value is not None and low < value < high
        shown = "0.00" if abs(value) < 0.005 else f"{value:.2f}"
        assert words == f"ESTOI {shown} over 24 held-out utterances of 5 speakers (1 is the original)"


def test_estoi_without_its_package_is_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    value, words = held_out_estoi.held_out_estoi(str(tmp_path), "tokenizer")
    assert value is None and words.startswith(
        "ESTOI not measured: ESTOI needs a package that is not installed: 'pystoi'"
    )
