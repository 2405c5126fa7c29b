"""``summary.md`` of a pipeline run: what went in, what was learned, what came out, and the loss curves beside it.

``summary.html`` has the same figures, and some held-out utterances to listen to: as they were spoken, as the tokenizer
that the run began with gives them back, and as its own does.
"""

from __future__ import annotations

from typing import Any

from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError
from syllabary.shards.ingest import ledger as ingest_ledger
from syllabary.shards.store import Folder
from syllabary.shards.words import counted
from syllabary.workers.control.jobs import SummaryJob
from syllabary.workers.control.log import say
from syllabary.workers.control.run_layout import PipelineLayout
from syllabary.workers.evaluation.held_out_estoi import held_out_estoi
from syllabary.workers.operate.heard import listen, tokenizer_begun_with
from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.recipes.recipe import Recipe, validate
from syllabary.workers.report.summary_page import render_summary
from syllabary.workers.training.history import METRICS, History, Validation
from syllabary.workers.training.watches import words as watch_words

TRAININGS = ("pretrain", "codec")
PAGE = "summary.html"


def summarize(job: SummaryJob) -> dict[str, Any]:
    """Write ``summary.md``, ``summary.html`` and the loss curves in ``curves/`` of the run; returns headline figures.

    Raises:
        InputError: a stage is not complete, or the tokenizer that the run began with has changed.
    """
    run = PipelineLayout(store.normalize(job.run))
    root = Folder(run.root)
    claim = outputs.read_claim(run.root, "run")
    recipe, begun_with = validate(claim["config"]), tokenizer_begun_with(claim)
    done = {name: _done(getattr(run, name)) for name in ("shards", "pretrain", "codec", "archive", "restored")}
    losses = {stage: str(done[stage]["headline"]) for stage in TRAININGS}
    for stage, loss in losses.items():
        root.publish(f"curves/{stage}.png", Folder(getattr(run, stage)).read(f"curves/{loss}.png"))
    learned = {stage: _history(getattr(run, stage)).validations() for stage in losses}
    estoi, heard = held_out_estoi(run.shards, run.tokenizer)
    headline = _corpus(recipe, done) | _learned(run, recipe, learned, losses["codec"])
    headline |= {"heard": heard} | _before(run, begun_with) | {"warnings": warnings_in_force(done)}
    root.publish("summary.md", _summary(run, recipe, done, headline).encode())
    page = render_summary(f"Pipeline run, recipe {recipe.name}", headline, listen(run, begun_with))
    root.publish(PAGE, page)
    say("summary", f"wrote {root.join('summary.md')} and {PAGE}")
    return {"headline": headline, "figures": _figures(learned, estoi)}


def _before(run: PipelineLayout, begun_with: str | None) -> dict[str, str]:
    """What the run began with, and how its speech was understood before the run."""
    if begun_with is None:
        return {}
    _, heard = held_out_estoi(run.shards, begun_with)
    return {"begun with": f"{begun_with}, both stages", "heard before": heard}


def _history(run: str) -> History:
    return History.from_parquet(Folder(run).read(METRICS))


def _done(uri: str) -> dict[str, Any]:
    done = outputs.read_done(uri)
    if done is None:
        raise InputError("stage is not complete", value=uri, fix="run the pipeline again: it goes on there")
    return done


def _corpus(recipe: Recipe, done: dict[str, dict[str, Any]]) -> dict[str, str]:
    """What went in and what came out."""
    audio_s = sum(split["duration_s"] for split in done["shards"]["splits"].values())
    archive = done["archive"]
    size = archive["size_bytes"] / max(archive["tokenized_s"], 1e-9)
    return {
        "speech": f"{audio_s / 60:.1f} min in {counted(_utterances(done['shards']), 'utterance')}",
        "tokens": f"{rates_of(recipe.model).tokens_per_s:g} a second, {counted(archive['num_tokenized'], 'utterance')}",
        "archive": f"{archive['size_bytes'] / 1e6:.2f} MB, {size:.0f} bytes per second of speech",
        "restored": f"{counted(done['restored']['num_utterances'], 'utterance')} as FLAC",
    }


def _learned(run: PipelineLayout, recipe: Recipe, learned: dict[str, list[Validation]], loss: str) -> dict[str, str]:
    """What both stages learned, and whether it is speech: on the clips that were held out."""
    (jepa_first, jepa_last), (first, last) = ((v[0].values, v[-1].values) for v in learned.values())
    held_out = f"on held-out {outputs.read_claim(run.shards)['config']['split_by']}s"
    return {
        "stage 1": f"{watch_words.prediction(jepa_first, jepa_last)}, {held_out}",
        "stage 2": f"{watch_words.reconstruction(first, last, loss)}, {held_out}",
        "latents": watch_words.latents(last),
        "digits": watch_words.digits(last, recipe.model.fsq.levels),
    }


def _figures(learned: dict[str, list[Validation]], estoi: float | None) -> dict[str, float]:
    """What says whether the tokens carry speech, as numbers; one that does not exist is left out."""
    last = learned["codec"][-1].values
    names = ("between_clips", "level_entropy_given_place", "token_gain")
    figures = {name: last[name] for name in names if name in last}
    return figures if estoi is None else figures | {"estoi": estoi}


def warnings_in_force(done: dict[str, dict[str, Any]]) -> str:
    """Which warnings the last validations still gave; the summary has their words, and those that healed."""
    names = [
        f"{stage}: {one['name'].replace('_', ' ')}"
        for stage in TRAININGS for one in done[stage].get("warnings", []) if one["last_step"] == done[stage]["steps"]
    ]  # fmt: skip
    return f"{len(names)} ({', '.join(names)})" if names else "none"


def _utterances(shards: dict[str, Any]) -> int:
    return sum(split["num_utterances"] for split in shards["splits"].values())


def _summary(run: PipelineLayout, recipe: Recipe, done: dict[str, dict[str, Any]], headline: dict[str, str]) -> str:
    tokenizer = Folder(run.tokenizer).read_json("config.json")
    rates, framing = rates_of(recipe.model), recipe.model.framing
    lines = [
        f"# Pipeline run, recipe `{recipe.name}`", "",
        "| what | figure |", "| --- | --- |",
        *(f"| {name} | {figure} |" for name, figure in headline.items()),
        f"| frame rate | {float(framing.frame_rate):g} Hz, hop {framing.hop_length} at {framing.sample_rate} Hz |",
        f"| bit rate | payload {rates.payload_bits_per_s:g}, nominal {rates.nominal_bits_per_s:g}, "
        f"stored as uint16 {rates.stored_bits_per_s:g} bit/s |",
        *(f"| {key.replace('_', ' ')} | `{tokenizer[key]}` |" for key in ("encoder_digest", "decoder_digest")
          if key in tokenizer), "",
        "## Where every second went", "", "```",
        *ingest_ledger.as_table(done["shards"]["ledger"]), "```", "",
        "## Warnings", "",
        *(_warning_lines(done) or ["None: no limit of the watches was passed."]), "",
        "## What was learned", "",
        "![stage 1: masked prediction loss](curves/pretrain.png)", "",
        "![stage 2: spectral loss](curves/codec.png)", "",
        f"To listen to held-out utterances, open [{PAGE}]({PAGE}) in a browser.", "",
        "## Where it is", "",
        *(f"- {name}: `{getattr(run, name)}`"
          for name in ("shards", "pretrain", "codec", "tokenizer", "archive", "restored")), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _warning_lines(done: dict[str, dict[str, Any]]) -> list[str]:
    """Every warning of both stages, with the steps between which it was given."""
    return [
        f"- {stage}, steps {one['first_step']:,} to {one['last_step']:,}: {one['text']}"
        for stage in TRAININGS for one in done[stage].get("warnings", [])
    ]  # fmt: skip
