"""``tokenize``: shards become archive parts, exactly once, by Ray Data with one row per shard.

An actor streams its shard, encodes it and publishes the part under the shard's name (workers/archive/encode_shard.py).
The part's presence is the commit: what is there and intact is skipped, what is missing or damaged is made again, and
always comes out the same. So killing and repeating this verb, or running it twice at once, changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from syllabary.shards import dataset, outputs, store
from syllabary.shards.about.origin import Origin
from syllabary.shards.archive import parts as token_archive
from syllabary.shards.archive.ledger import intact_ledger, read_archive_digest, shards_in
from syllabary.shards.archive.parts import ArchiveFormat
from syllabary.shards.errors import ConflictError, FormatError, NotFoundError, StorageError
from syllabary.shards.words import counted
from syllabary.workers.archive.describe import describe, holds_weights
from syllabary.workers.archive.encode_shard import NO_FIGURES, ShardEncoder, archive_format, figures, persist
from syllabary.workers.cluster.actors import error_of, through_actors
from syllabary.workers.cluster.devices import ClusterGpus, choose_device
from syllabary.workers.cluster.prometheus import Meter
from syllabary.workers.cluster.session import ray_session
from syllabary.workers.control.jobs import TokenizeJob
from syllabary.workers.control.log import Progress, record, say

_READERS = 8


def tokenize(job: TokenizeJob) -> dict[str, Any]:
    """Tokenize the shards that the archive does not hold intact; returns the archive's totals.

    Raises:
        ConflictError: the archive belongs to another encoder, a shard changed since, or a part is foreign.
        FormatError: a shard is damaged, or more utterances are quarantined than allowed.
        StorageError: the store fails and does not come back in time.
    """
    shards = _read_shards(job.shards)
    seconds = {shard: own.duration_s for shard, own in shards.items()}
    form = _claim(job)
    if orphans := store.sweep_temporary(job.archive):
        say("tokenize", f"removed {orphans} half-written files of killed writers")
    done = _intact_parts(job, form, shards)
    todo = [shard for shard in sorted(seconds) if shard not in done]
    totals = list(done.values())
    if todo:
        todo_s = sum(seconds[shard] for shard in todo)
        say("tokenize", f"{len(todo)} of {counted(len(seconds), 'shard')} to do, {todo_s:,.0f} s of audio")
        totals += _tokenize_shards(job, todo, seconds)
    else:
        say("tokenize", f"all {len(seconds)} shards are there: nothing to do")
    summary: dict[str, Any] = {"num_parts": len(seconds)} | {
        key: _total([t[key] for t in totals]) for key in NO_FIGURES
    }
    _require_few_quarantined(job, summary)
    own = persist(lambda: read_archive_digest(job.archive), job.storage_patience_s, "reading the checksums")
    summary["archive_digest"] = own
    persist(lambda: _describe(job, summary), job.storage_patience_s, "writing the card")
    persist(lambda: outputs.mark_done(job.archive, summary), job.storage_patience_s, "writing done.json")
    return {**summary, "num_new_parts": len(todo)}


def _describe(job: TokenizeJob, summary: dict[str, Any]) -> None:
    with_weights = job.with_tokenizer or holds_weights(job.archive)  # what is there stays described and checked
    describe("tokenize", job.archive, summary, Origin.read(job.shards), job.tokenizer, with_weights)


@dataclass(frozen=True)
class _Shard:
    """What the index says of a shard: seconds of audio, and the digest of what a part would be made from."""

    duration_s: float
    digest: str

    @classmethod
    def read(cls, shards_uri: str, shard: str) -> _Shard:
        part = dataset.read_index_part(shards_uri, shard)
        pairs = zip(part["num_samples"].to_pylist(), part["sample_rate"].to_pylist(), strict=True)
        return cls(float(sum(num / rate for num, rate in pairs)), token_archive.shard_digest(part))


def _read_shards(shards_uri: str) -> dict[str, _Shard]:
    """Every committed shard by name; each index part is read once."""
    outputs.read_claim(shards_uri, "shards")
    names = dataset.committed_shards(shards_uri)
    if not names:
        raise NotFoundError("no index of shards", value=shards_uri, fix="run `syllabary shard` to write it")
    with ThreadPoolExecutor(_READERS) as pool:
        return dict(zip(names, pool.map(lambda name: _Shard.read(shards_uri, name), names), strict=True))


def _claim(job: TokenizeJob) -> ArchiveFormat:
    from syllabary.workers.tokenizer.directory import load_tokenizer

    form = archive_format(load_tokenizer(job.tokenizer, decoder=False), job.encoding)
    form.claim(job.archive)
    return form


def _intact_parts(job: TokenizeJob, form: ArchiveFormat, shards: Mapping[str, _Shard]) -> dict[str, dict[str, Any]]:
    """Figures of the parts that need no work. Every part there is read: a damaged one is not skipped but remade."""
    present = shards_in(job.archive, token_archive.PARTS)
    if foreign := sorted(set(present) - set(shards)):
        uri = store.join(job.archive, token_archive.part_name(foreign[0]))
        raise ConflictError(
            "a part of no shard",
            value=uri,
            expected=f"parts of {job.shards}",
            fix="move it away, or use another --archive",
        )
    intact: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(_READERS) as pool:
        read = pool.map(lambda name: _figures_if_intact(job, form, name, shards[name]), present)
        for shard, done in zip(present, read, strict=True):
            if done is None:
                say("tokenize", f"part {shard} is damaged: making it again")
            else:
                intact[shard] = done
    return intact


def _figures_if_intact(job: TokenizeJob, form: ArchiveFormat, shard: str, own: _Shard) -> dict[str, Any] | None:
    """Figures of a shard's part, or None when it is damaged; its rows are not kept. Raises ConflictError."""
    ledger = intact_ledger(job.archive, shard, form)
    if ledger is None:
        return None
    if ledger.shard_digest != own.digest:
        fix = "use another --archive, or put the shard back"
        raise ConflictError("the shard has changed since it was tokenized", value=shard, fix=fix)
    return figures(ledger)


def _tokenize_shards(job: TokenizeJob, todo: list[str], seconds: dict[str, float]) -> list[dict[str, Any]]:
    progress = Progress("tokenize", sum(seconds[s] for s in todo), "s of audio")
    finished: list[dict[str, Any]] = []
    errors: list[str] = []
    for row in _encoded_shards(job, todo):
        if row["error"]:
            _note_failure(row, errors)
            continue
        finished.append(row)
        progress.add(seconds[row["shard"]], f"{len(finished)}/{len(todo)} shards")
        record("tokenize", "shard done", shard=row["shard"], num_quarantined=row["num_quarantined"])
    progress.finish(f"{len(finished)}/{len(todo)} shards")
    if errors:
        raise FormatError(f"{len(errors)} of {len(todo)} shards failed, the others are done; first: {errors[0]}")
    return finished


def _note_failure(row: dict[str, Any], errors: list[str]) -> None:
    """Say what is wrong with a shard; the others go on. Storage that fails concerns all of them, and is raised."""
    error = error_of(row)
    if isinstance(error, StorageError) and not isinstance(error, NotFoundError):
        raise error
    errors.append(f"{row['shard']}: {error}")
    say("tokenize", errors[-1], shard=row["shard"])


def _encoded_shards(job: TokenizeJob, todo: list[str]) -> Iterator[dict[str, Any]]:
    """Run the actors; yields the figures of each shard as it is published."""
    with ray_session(num_cpus=job.num_workers):
        import ray

        gpus = ClusterGpus.of_ray()
        choice = choose_device("auto", 1, gpus)
        say("tokenize", choice.why)
        num_gpus = gpus.at_most if choice.device == "cuda" else 0
        available = num_gpus or int(ray.cluster_resources().get("CPU", 1))
        num_workers = min(job.num_workers or available, len(todo))
        rows = [{"shard": shard} for shard in todo]
        arguments = (job.shards, job.tokenizer, job.archive, job.storage_patience_s, job.encoding)
        meter = Meter("tokenize", job.archive)
        for row in through_actors(ShardEncoder, arguments, rows, num_workers, num_gpus=1 if num_gpus else 0):
            if not row["error"]:
                meter.shard_done(row["tokenized_s"], row["num_quarantined"])
            yield row


def _total(values: list[float]) -> float:
    return sum(values) if all(isinstance(v, int) for v in values) else round(math.fsum(values), 3)


def _require_few_quarantined(job: TokenizeJob, summary: dict[str, Any]) -> None:
    total_s = summary["tokenized_s"] + summary["quarantined_s"]
    percent = 100 * summary["quarantined_s"] / total_s if total_s else 0.0
    if percent > job.max_quarantined_percent:
        raise FormatError(
            f"{percent:.1f} % of the audio ({summary['num_quarantined']} utterances) is quarantined",
            expected=f"at most {job.max_quarantined_percent} %",
            fix=f"the reasons are in {store.join(job.archive, 'ledger')}; max_quarantined_percent allows more",
        )
