"""What a restore job selects, from rows without tokens: which utterances, in which shards, and their digest."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa

from syllabary.shards import outputs
from syllabary.shards.archive.reader import ArchiveReader, Place
from syllabary.shards.archive.where import Condition, parse_where
from syllabary.shards.errors import InputError, NotFoundError
from syllabary.workers.control.jobs import RestoreJob


def selection(job: RestoreJob, schema: pa.Schema) -> Condition | None:
    """The condition that a job's ``where``, ``ids``, ``recording`` and time range make together; None selects all."""
    if job.recording is None and (job.start_s is not None or job.end_s is not None):
        raise InputError("a time range without a recording", fix="name the recording_id that it belongs to")
    if job.start_s is not None and job.end_s is not None and job.start_s >= job.end_s:
        what, fix = "a time range that ends before it begins", "give a later end"
        raise InputError(what, value=f"{job.start_s} to {job.end_s} s", fix=fix)
    asked = parse_where(job.where, schema) if job.where is not None else None
    texts = []
    if job.ids:
        texts.append(f"utterance_id in ({', '.join(_quoted(i) for i in job.ids)})")
    if job.recording is not None:
        texts.append(f"recording_id = {_quoted(job.recording)}")
    if job.start_s is not None:
        texts.append(f"end_s > {float(job.start_s)!r}")
    if job.end_s is not None:
        texts.append(f"start_s < {float(job.end_s)!r}")
    if not texts:
        return asked
    own = parse_where(" and ".join(texts), schema)
    return own if asked is None else asked & own


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class Selected:
    """What is to be restored.

    Attributes:
        shards: of each shard that holds any, how many selected utterances each recording has in it.
        places: of each of these shards, where the selected rows are.
        digest: of the ids and checksums of the utterances.
    """

    shards: dict[str, Counter[str]]
    places: dict[str, list[Place]]
    digest: str

    @property
    def recordings(self) -> Counter[str]:
        """How many utterances of each recording are selected."""
        return sum(self.shards.values(), Counter())

    @property
    def num_utterances(self) -> int:
        """How many utterances are selected in all."""
        return sum(own.total() for own in self.shards.values())

    @property
    def is_divided(self) -> bool:
        """Whether some recording lies in more than one shard."""
        return sum(map(len, self.shards.values())) > len(self.recordings)


def select(job: RestoreJob, reader: ArchiveReader, condition: Condition | None) -> Selected:
    """Look the selection over without reading tokens; ``limit`` takes the first in archive order.

    Raises:
        NotFoundError: nothing is selected, or an id does not exist.
    """
    shards: dict[str, Counter[str]] = {}
    places: dict[str, list[Place]] = {}
    missing, digest = set(job.ids), hashlib.sha256()
    left = job.limit
    for shard in reader.shards:
        for (group, rows), table in reader.find(shard, condition, ["utterance_id", "recording_id", "crc32c"]):
            kept = table.slice(0, left)
            ids = kept["utterance_id"].to_pylist()
            missing.difference_update(ids)
            shards.setdefault(shard, Counter()).update(kept["recording_id"].to_pylist())
            places.setdefault(shard, []).append((group, rows[:left]))
            digest.update(outputs.canonical_json([ids, kept["crc32c"].to_pylist()]))
            left = None if left is None else left - len(kept)
            if left == 0:
                return Selected(shards, places, digest.hexdigest())
    if missing:
        raise NotFoundError(f"{len(missing)} of {len(job.ids)} ids are not in the selection", value=min(missing))
    if not shards:
        what = job.where or job.recording or "everything"
        raise NotFoundError("no utterance is selected", value=what, fix=f"see what {job.archive} holds")
    return Selected(shards, places, digest.hexdigest())


def joins(job: RestoreJob) -> bool:
    """Whether the job restores whole recordings."""
    return job.join or job.recording is not None
