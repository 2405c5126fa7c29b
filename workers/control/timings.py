"""Wall-clock time of a pipeline run's stages, in a file of its own at the run's root. Free of torch.

A stage's output never depends on the machine, so no stage can hold its own time. ``stage_timings.json`` is the run's:
``syllabary plan`` shows it beside what was predicted, and nothing decides by it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from syllabary.shards import outputs
from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder

STAGE_TIMINGS = "stage_timings.json"


class StageTime(BaseModel):
    """Attempts at one stage: how many began, how many ended (well or not), and the seconds of those that ended.

    An attempt that was killed began and never ended; how long it took nobody knows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    began: int = Field(default=0, ge=0)
    ended: int = Field(default=0, ge=0)
    seconds: float = Field(default=0.0, ge=0)


@contextmanager
def timed(run_uri: str, stage: str, output_uri: str) -> Iterator[None]:
    """Count the block as an attempt at ``stage`` of the run at ``run_uri``, unless its output is complete already.

    Raises:
        FormatError: the run's file of times does not parse.
    """
    if outputs.read_done(output_uri) is not None:
        yield
        return
    _add(run_uri, stage, began=1)
    started = time.monotonic()
    try:
        yield
    finally:
        _add(run_uri, stage, ended=1, seconds=time.monotonic() - started)


def read_timings(run_uri: str) -> dict[str, StageTime]:
    """The times of a run's stages by their names; empty where none were taken.

    Raises:
        FormatError: the file does not parse.
    """
    run = Folder(run_uri)
    if not run.exists(STAGE_TIMINGS):
        return {}
    try:
        return {stage: StageTime.model_validate(values) for stage, values in run.read_json(STAGE_TIMINGS).items()}
    except ValidationError as error:
        raise FormatError(
            f"not the times of a run ({error.error_count()} errors)", value=run.join(STAGE_TIMINGS)
        ) from error


def _add(run_uri: str, stage: str, *, began: int = 0, ended: int = 0, seconds: float = 0.0) -> None:
    times = read_timings(run_uri)
    old = times.get(stage, StageTime())
    new = StageTime(began=old.began + began, ended=old.ended + ended, seconds=round(old.seconds + seconds, 3))
    values = {name: one.model_dump() for name, one in (times | {stage: new}).items()}
    Folder(run_uri).publish_json(STAGE_TIMINGS, values)
