"""``summary.md`` of a pipeline run: what went in, what was learned, what came out, and the loss curves beside it."""

from __future__ import annotations

from typing import Any

from syllabary.shards import outputs, store
from syllabary.shards.errors import InputError, explain
from syllabary.shards.ingest import ledger as ingest_ledger
from syllabary.workers.control.jobs import ReportJob
from syllabary.workers.control.run_verb import say
from syllabary.workers.recipes.bitrates import rates_of
from syllabary.workers.recipes.recipe import Recipe, validate
from syllabary.workers.training.history import METRICS, History

CURVES = {"pretrain": "curves/loss.png", "codec": "curves/mrstft.png"}


def report(job: ReportJob) -> dict[str, Any]:
    """Write ``summary.md`` and copy the loss curves to ``curves/`` of the run; returns the headline figures.

    Raises:
        InputError: a stage is not complete.
    """
    recipe = validate(outputs.read_claim(job.run, "run")["config"])
    done = {name: _done(getattr(job, name)) for name in ("shards", "pretrain", "codec", "archive")}
    for stage, curve in CURVES.items():
        picture = store.read_bytes(store.join(getattr(job, stage), curve))
        store.publish_bytes(store.join(job.run, "curves", f"{stage}.png"), picture)
    restored = _done(job.restored)
    headline = _headline(job, recipe, done, restored)
    text = _summary(job, recipe, done, headline)
    store.publish_bytes(store.join(job.run, "summary.md"), text.encode())
    say("report", f"wrote {store.join(job.run, 'summary.md')}")
    return {"headline": headline}


def _done(uri: str) -> dict[str, Any]:
    found = outputs.read_done(uri)
    if found is None:
        raise InputError(explain("stage is not complete", value=uri, fix="run the pipeline again: it goes on there"))
    return found


def _headline(
    job: ReportJob, recipe: Recipe, done: dict[str, dict[str, Any]], restored: dict[str, Any]
) -> dict[str, str]:
    audio_s = sum(split["duration_s"] for split in done["shards"]["splits"].values())
    archive, jepa, codec = done["archive"], done["pretrain"], done["codec"]
    held_out = f"held-out {outputs.read_claim(job.shards)['config']['split_by']}s"
    size = archive["size_bytes"] / max(archive["tokenized_s"], 1e-9)
    return {
        "speech": f"{audio_s / 60:.1f} min in {_utterances(done['shards']):,} utterances",
        "stage-1 masked loss": f"{_fall(jepa, 'loss')} on {held_out}",
        "stage-2 spectral loss": f"{_fall(codec, 'mrstft')} on {held_out}",
        "use of the codes": _code_use(job, recipe),
        "tokens": f"{rates_of(recipe.model).tokens_per_s:g} a second, {archive['num_tokenized']:,} utterances",
        "archive": f"{archive['size_bytes'] / 1e6:.2f} MB, {size:.0f} bytes a second of speech",
        "restored": f"{restored['num_utterances']:,} utterances as FLAC",
    }


def _code_use(job: ReportJob, recipe: Recipe) -> str:
    """How much of the code the tokens use on held-out speakers: a loss alone does not show a collapsed encoder."""
    history = History.from_parquet(store.read_bytes(store.join(job.codec, METRICS)))
    final = {name: history.series("valid", name)[1][-1] for name in ("level_perplexity", "dead_dims")}
    return (
        f"{final['level_perplexity']:.2f} of {recipe.model.fsq.levels} levels a dim, "
        f"{final['dead_dims']:.0f} of {recipe.model.encoder.latent_dim} dims constant"
    )


def _utterances(shards: dict[str, Any]) -> int:
    return sum(split["num_utterances"] for split in shards["splits"].values())


def _fall(done: dict[str, Any], name: str) -> str:
    first, final = done[f"first_valid_{name}"], done[f"final_valid_{name}"]
    return f"{first:.4f} → {final:.4f} ({100 * (final / first - 1):+.0f} %)"


def _summary(job: ReportJob, recipe: Recipe, done: dict[str, dict[str, Any]], headline: dict[str, str]) -> str:
    tokenizer = outputs.read_json(store.join(job.tokenizer, "config.json"))
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
        "## What was learned", "",
        "![stage 1: masked prediction loss](curves/pretrain.png)", "",
        "![stage 2: multi-resolution STFT loss](curves/codec.png)", "",
        "## Where it is", "",
        *(f"- {name}: `{getattr(job, name)}`"
          for name in ("shards", "pretrain", "codec", "tokenizer", "archive", "restored")), "",
    ]  # fmt: skip
    return "\n".join(lines)
