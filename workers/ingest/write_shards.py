"""``syllabary shard``: a speech corpus becomes indexed WebDataset shards, every second accounted for."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import Any

from syllabary.shards.about import origin
from syllabary.shards.about.origin import Origin
from syllabary.shards.ingest import ingest
from syllabary.shards.ingest import ledger as ingest_ledger
from syllabary.shards.ingest.config import IngestConfig
from syllabary.shards.ingest.planning import ShardPlan
from syllabary.shards.ingest.recordings import Recording
from syllabary.shards.ingest.sources.listing import Source, list_source, tell_source
from syllabary.shards.ingest.splits import split_of
from syllabary.shards.outputs import read_done
from syllabary.shards.store import Folder
from syllabary.shards.words import counted
from syllabary.workers.cluster.session import ray_session
from syllabary.workers.control.jobs import ShardJob
from syllabary.workers.control.log import Progress, say
from syllabary.workers.ingest.stream_tar import shard_stream
from syllabary.workers.ingest.tasks import run_all, write_planned_shard
from syllabary.workers.recipes.named import resolve

STAGE = "shard"


def write_shards(job: ShardJob) -> dict[str, Any]:
    """Write the shards that are not there yet; see :mod:`syllabary.shards.ingest.ingest`.

    Returns:
        The summary of ``done.json``, and ``wrote``: the number of shards written by this run.
    """
    config = resolve(job.recipe, config_uri=job.config, overrides=job.overrides).ingest
    if job.layout is not None:
        config = config.model_copy(update={"layout": job.layout})
    source = tell_source(job.source, config)
    summary, wrote = (shard_stream if source.is_streamed else _shard_files)(job, config, source)
    _tell_origin(job)
    return _report(summary, wrote)


def _tell_origin(job: ShardJob) -> None:
    """Store the job's title, licence and origin beside the shards; they replace those of an earlier run."""
    told = Origin.read(job.out) | Origin(job.title, job.licence, job.origin)
    if told != Origin():
        Folder(job.out).publish(origin.NAME, told.encode())


def _shard_files(job: ShardJob, config: IngestConfig, source: Source) -> tuple[dict[str, Any], int]:
    say(STAGE, f"lists {source.uri}" + ("" if source.layout == "auto" else f" as {source.layout}"))
    listing = list_source(source, config)
    recordings = listing.recordings
    if job.hold_out == "recordings_if_no_speaker":
        config = with_held_out(config, recordings)
    ingest.claim_output(job.out, job.source, config)
    plans = ingest.update_plan(job.out, recordings, config)
    todo = ingest.pending(job.out, plans)
    what = f"{counted(len(recordings), 'recording')} in {counted(len(plans), 'shard')}"
    say(STAGE, f"{what}, {len(todo):,} of them to write")
    if todo:
        _write(job, config, plans, todo)
    summary = read_done(job.out) if not todo else None
    return summary or ingest.finish(job.out, plans, config, {"source_notes": listing.notes}), len(todo)


def with_held_out(config: IngestConfig, recordings: list[Recording]) -> IngestConfig:
    """The configuration, or the same split by recording where no speaker of ``recordings`` falls into valid."""
    if any(split_of(r.speaker, r.recording_id, config) == "valid" for r in recordings):
        return config
    speakers = counted(len({r.speaker for r in recordings}), "speaker")
    say(STAGE, f"none of {speakers} hashes into valid: splits by recording, which shares speakers")
    return config.model_copy(update={"split_by": "recording"})


def _write(job: ShardJob, config: IngestConfig, plans: list[ShardPlan], todo: list[ShardPlan]) -> None:
    num_recordings = sum(len(plan.recordings) for plan in plans)
    sizes = {plan.shard: sum(recording.size_bytes for recording in plan.recordings) / 1e6 for plan in todo}
    progress = Progress(STAGE, sum(sizes.values()), "MB of audio")
    quarantined = 0
    with ray_session(num_cpus=job.num_workers):
        for result in run_all(write_planned_shard, ((job.out, plan, config) for plan in todo), job.out):
            quarantined += result["num_quarantined"]
            ingest.require_few_quarantined(quarantined, num_recordings, config, result["reason"])
            progress.add(sizes[result["shard"]])
    progress.finish()


def _report(summary: dict[str, Any], wrote: int) -> dict[str, Any]:
    _print_lines(ingest_ledger.as_table(summary["ledger"]))
    decoded_s = summary["input_s"]
    say(STAGE, f"decoded {decoded_s:,.1f} s; headers and lists promise {summary['promised_s']:,.1f} s")
    for line in summary["source_notes"]:
        say(STAGE, f"note: {line}")
    for note, count in summary["notes"].items():
        say(STAGE, f"note: {note}: {count:,} (see the ledger)")
    for split, figures in summary["splits"].items():
        size = counted(figures["num_utterances"], "utterance"), counted(figures["num_speakers"], "speaker")
        say(STAGE, f"{split}: {', '.join(size)}, {figures['duration_s']:,.1f} s")
    for line in _empty(summary):
        say(STAGE, line)
    return {**summary, "wrote": wrote}


def _empty(summary: dict[str, Any]) -> Iterator[str]:
    """A line for each split that holds nothing, or one for a corpus that gave nothing, with what became of it."""
    splits = summary["splits"]
    if not any(figures["num_utterances"] for figures in splits.values()):
        went = ", ".join(
            f"{row['percent']:.0f} % {ingest_ledger.named(row)}" for row in summary["ledger"] if row["percent"]
        )
        yield f"warning: no utterance at all: there is nothing to learn from ({went or 'no audio'}); check the corpus"
        return
    for split, figures in splits.items():
        if not figures["num_utterances"]:
            yield f"note: {split} is empty; ingest.split_by=recording or other split percentages would fill it"


def _print_lines(lines: Iterable[str]) -> None:
    sys.stderr.write("\n".join(lines) + "\n")
    sys.stderr.flush()
