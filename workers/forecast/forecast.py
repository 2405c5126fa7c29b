"""``syllabary plan``: what a corpus will take, from a probe of this machine or stated rates; later, what it took.

OUT/plan.json   the inputs, the rates and the prediction; with a finished run also the actual figures
OUT/plan.md     the same as a page, with every formula
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import soundfile
from pydantic import ValidationError

from syllabary.shards import outputs, store
from syllabary.shards.errors import ConfigError, ConflictError, InputError, first_fault
from syllabary.shards.ingest.decoding.decoder import MOST_FRAMES_A_BYTE
from syllabary.shards.ingest.recordings import Recording
from syllabary.shards.ingest.sources.folder import list_recordings
from syllabary.shards.store import Folder
from syllabary.workers.control.jobs import PlanJob
from syllabary.workers.control.log import say
from syllabary.workers.forecast.actual import actual_of, killed_attempts, restored_fraction
from syllabary.workers.forecast.formulas import Corpus, Machine, Sizes, StageRates, predict
from syllabary.workers.forecast.page import page
from syllabary.workers.operate.show import parameters_of
from syllabary.workers.recipes.named import resolve
from syllabary.workers.recipes.recipe import Recipe

PLAN, PAGE = "plan.json", "plan.md"
_HOUR, _SAMPLED, _HEADER = 3600, 200, 1 << 16
PRESETS = {  # hours and archive sizes as published; the FLAC of a second follows from them
    "librilight-small": Corpus(name="LibriLight small", hours=577, flac_bytes_per_s=35e9 / 577 / _HOUR),
    "librilight-medium": Corpus(name="LibriLight medium", hours=5_193, flac_bytes_per_s=321e9 / 5_193 / _HOUR),
    "librilight-large": Corpus(name="LibriLight large", hours=51_934, flac_bytes_per_s=3.05e12 / 51_934 / _HOUR),
}


def plan(job: PlanJob) -> dict[str, Any]:
    """Predict, or read the prediction stored at ``job.out``; compare it with ``job.run`` when given.

    Raises:
        InputError: no corpus, two of them, or one whose length is unknown.
        ConfigError: the rates are not those that a plan needs.
        ConflictError: the run is of another recipe, or the plan at ``job.out`` is of another corpus or recipe.
        NotFoundError: no stored plan to compare a run with.
    """
    values = _stored(job) if _only_compares(job) else _predicted(job)
    if job.run is not None:
        _require_same_recipe(job.run, values["recipe"])
        values["actual"] = actual_of(job.run)
        values["restored_fraction"] = restored_fraction(job.run)
        values["killed_attempts"] = killed_attempts(job.run)
    text = page(values)
    if job.out is not None:
        out = Folder(job.out)
        out.publish_json(PLAN, values)
        out.publish(PAGE, text.encode())
        say("plan", f"wrote {out.join(PAGE)}")
    return {"plan": values, "text": text}


def _only_compares(job: PlanJob) -> bool:
    return job.run is not None and job.source is None and job.hours is None and job.preset is None


def _require_same_recipe(run: str, planned: Mapping[str, Any]) -> None:
    claimed = outputs.read_claim(run, "run")["config"]
    for section in planned:
        if claimed.get(section) != planned[section]:
            what = f"the run at {run} is of another recipe than the plan: {section} differs"
            raise ConflictError(what, fix="plan with the run's recipe, --config and --set")


def _stored(job: PlanJob) -> dict[str, Any]:
    if job.out is None:
        raise InputError("a run to compare, but no plan", fix="give --out, where the plan was stored")
    return Folder(job.out).read_json(PLAN)


def _predicted(job: PlanJob) -> dict[str, Any]:
    recipe = resolve(job.recipe, config_uri=job.config, overrides=job.overrides)
    corpus, machine = corpus_of(job, recipe), machine_of(job)
    subject = {"corpus": corpus.model_dump(), "recipe": recipe.model_dump(mode="json")}
    if job.out is not None:
        _refuse_other_plan(Folder(job.out), subject)
    sizes = sizes_of(recipe)
    rates, origin = rates_for(job, recipe)
    return {
        **subject,
        "machine": machine.model_dump(),
        **origin,
        "rates": rates.model_dump(),
        "parameters": sizes.model_dump(),
        "predicted": predict(corpus, machine, rates, recipe, sizes).model_dump(),
    }


def _refuse_other_plan(out: Folder, subject: Mapping[str, Any]) -> None:
    """A plan of the same corpus and recipe may be made anew; another may wait for its run to be compared with it."""
    if not out.exists(PLAN):
        return
    there = out.read_json(PLAN)
    differs = outputs.what_differs({what: there.get(what) for what in subject}, subject)
    if differs is not None:
        raise ConflictError(f"{out.join(PLAN)} plans another corpus or recipe: {differs[1]}", fix="use another --out")


def rates_for(job: PlanJob, recipe: Recipe) -> tuple[StageRates, dict[str, Any]]:
    """The stated rates, or those of a probe; and where they come from, for plan.json.

    Raises:
        ConfigError: the stated rates are not those that a plan needs.
        InputError: the probe needs more memory than is free.
    """
    if job.rates:
        return stated_rates(job.rates), {"rates_origin": "stated"}
    from syllabary.workers.forecast.probe import probe, what_is_probed

    probed = what_is_probed(recipe)
    say("plan", f"probes this machine with recipe {recipe.name} for about {job.probe_s:.0f} s, or as one unit takes")
    for name, what in probed.items():
        say("plan", f"  {name:<12} {what}")
    origin = f"measured by a probe of {job.probe_s:g} s on this machine, recipe {recipe.name}"
    return probe(recipe, job.probe_s), {"rates_origin": origin, "probed": probed}


def corpus_of(job: PlanJob, recipe: Recipe) -> Corpus:
    """The corpus: a preset, stated hours, or the recordings at a source, counted."""
    given = [name for name in ("source", "hours", "preset") if getattr(job, name) is not None]
    if len(given) != 1:
        raise InputError("which corpus?", value=given or None, expected="one of SOURCE, --hours and --preset")
    update = {"stored_fraction": job.stored_fraction}
    if job.flac_bytes_per_s is not None:
        update["flac_bytes_per_s"] = job.flac_bytes_per_s
    if job.preset is not None:
        if job.preset not in PRESETS:
            raise InputError("unknown preset", value=job.preset, expected=f"one of {', '.join(PRESETS)}")
        return PRESETS[job.preset].model_copy(update=update)
    if job.hours is not None:
        return Corpus(name=f"{job.hours:,g} hours", hours=job.hours).model_copy(update=update)
    return counted(job.source or "", recipe).model_copy(update=update)


def counted(source: str, recipe: Recipe) -> Corpus:
    """The hours of a folder: the lengths of up to 200 files, evenly spaced, scaled by the bytes of all.

    Raises:
        InputError: no file's length can be read.
    """
    if source.endswith((".tar", ".jsonl")):
        raise InputError("only a folder is counted", value=source, fix="state its --hours")
    recordings = [r for r in list_recordings(source, recipe.ingest) if r.size_bytes]
    sampled = recordings[:: max(1, -(-len(recordings) // _SAMPLED))]
    read = [(r.size_bytes, length) for r in sampled if (length := _length_s(r)) > 0]
    if not read:
        raise InputError("no file's length can be read", value=source, fix="state the --hours of the corpus")
    bytes_per_s = sum(size for size, _ in read) / sum(length for _, length in read)
    total_s = sum(r.size_bytes for r in recordings) / bytes_per_s
    note = f"{source}: {len(recordings):,} recordings, lengths read from {len(read):,} of them"
    return Corpus(name=note, hours=total_s / _HOUR, flac_bytes_per_s=bytes_per_s)


def _length_s(recording: Recording) -> float:
    """Seconds by the file's header; 0 where it has none that we can read or believe (FLAC that was streamed)."""
    try:
        with store.open_read(recording.location, block_size=_HEADER) as file:
            info = soundfile.info(file)
        is_believed = info.frames <= MOST_FRAMES_A_BYTE * recording.size_bytes
        return float(info.frames / info.samplerate) if is_believed else 0.0
    except soundfile.LibsndfileError:
        return 0.0


def machine_of(job: PlanJob) -> Machine:
    """The stated machine, or this one."""
    cores = job.cores or len(os.sched_getaffinity(0))
    name = job.machine or ("this machine" if not (job.cores or job.gpus) else "as stated")
    return Machine(
        name=name, cores=cores, gpus=job.gpus, efficiency=job.efficiency, price_core_hour=job.price_core_hour,
        price_gpu_hour=job.price_gpu_hour,
    )  # fmt: skip


def stated_rates(rates: Mapping[str, float]) -> StageRates:
    """The rates of a job, all of them above zero."""
    try:
        return StageRates.model_validate(dict(rates))
    except ValidationError as error:
        where, message, _ = first_fault(error)
        what = f"rate {where} is missing" if error.errors()[0]["type"] == "missing" else f"rate {where}: {message}"
        names = ", ".join(StageRates.model_fields)
        raise ConfigError(what, expected=f"{names}, each in audio-s/s") from error


def sizes_of(recipe: Recipe) -> Sizes:
    """Parameters of the recipe's parts."""
    parts = parameters_of(recipe.model)
    judges = sum(count for name, count in parts.items() if name.startswith("discriminators."))
    return Sizes(
        encoder=parts["encoder"], predictor=parts["predictor"], decoder=parts["decoder"], discriminators=judges,
        mel_head=parts.get("mel_head", 0),
    )  # fmt: skip
