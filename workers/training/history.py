"""The numbers of a run: one long table (step, split, name, value), as Parquet and as TensorBoard events.

The table travels in every checkpoint, so a resumed run continues it and a finished one holds each step once. What
depends on the machine (seconds, rates) is kept apart in the split "timing", so that everything else is the same bytes
for the same run. The split "dims" has what a validation says of each latent dim, by names like ``latent_std[017]``.
TensorBoard events carry the step as their wall time for the same reason.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from syllabary.shards.store import Folder

Split = Literal["train", "valid", "dims", "timing"]
SCHEMA = pa.schema([("step", pa.int64()), ("split", pa.string()), ("name", pa.string()), ("value", pa.float64())])
METRICS, TIMINGS = "metrics.parquet", "timings.parquet"
EVENTS = "tensorboard/events.out.tfevents.0.syllabary"


class Validation(NamedTuple):
    """What one validation found, by name."""

    step: int
    values: dict[str, float]


class Row(NamedTuple):
    """One number of one step."""

    step: int
    split: Split
    name: str
    value: float


@dataclass
class History:
    """Every number of a run so far, in the order of its steps."""

    rows: list[Row] = field(default_factory=list)

    def add(self, step: int, split: Split, values: Mapping[str, float]) -> None:
        """Append the values of one step, by name."""
        self.rows += [Row(step, split, name, float(values[name])) for name in sorted(values)]

    def series(self, split: Split, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of one name."""
        chosen = [row for row in self.rows if (row.split, row.name) == (split, name)]
        return [row.step for row in chosen], [row.value for row in chosen]

    def names(self, split: Split) -> list[str]:
        """The names of a split, sorted."""
        return sorted({row.name for row in self.rows if row.split == split})

    def validations(self) -> list[Validation]:
        """What each validation found, in the order of the steps."""
        by_step: dict[int, dict[str, float]] = {}
        for row in self.rows:
            if row.split == "valid":
                by_step.setdefault(row.step, {})[row.name] = row.value
        return [Validation(step, values) for step, values in by_step.items()]

    def by_name(self, split: Split) -> dict[str, list[float]]:
        """The values of every name of a split, names sorted."""
        by_name: dict[str, list[float]] = {}
        for row in self.rows:
            if row.split == split:
                by_name.setdefault(row.name, []).append(row.value)
        return dict(sorted(by_name.items()))

    def to_parquet(self, splits: Iterable[Split] = ("train", "valid", "dims", "timing")) -> bytes:
        """The rows of some splits as one Parquet file: same rows, same bytes."""
        wanted = set(splits)
        chosen = [row for row in self.rows if row.split in wanted]
        columns = [list(column) for column in zip(*chosen, strict=True)] or [[], [], [], []]
        table = pa.table([pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)], schema=SCHEMA)
        buffer = io.BytesIO()
        pq.write_table(table, buffer, compression="zstd", write_page_checksum=True)
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> History:
        """The history that :meth:`to_parquet` wrote."""
        columns = pq.read_table(io.BytesIO(data)).to_pydict().values()
        return cls([Row(*values) for values in zip(*columns, strict=True)])

    def publish(self, run_uri: str) -> None:
        """Write metrics.parquet, timings.parquet and the TensorBoard events below ``run_uri``."""
        run = Folder(run_uri)
        run.publish(METRICS, self.to_parquet(("train", "valid", "dims")))
        run.publish(TIMINGS, self.to_parquet(("timing",)))
        run.publish(EVENTS, self.to_events())

    def to_events(self) -> bytes:
        """The history as one TensorBoard event file; a longer history begins with the bytes of a shorter one."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        buffer = io.BytesIO()
        writer = RecordWriter(buffer)
        writer.write(Event(wall_time=0, file_version="brain.Event:2").SerializeToString())
        for row in self.rows:
            value = Summary.Value(tag=f"{row.split}/{row.name}", simple_value=row.value)
            event = Event(wall_time=row.step, step=row.step, summary=Summary(value=[value]))
            writer.write(event.SerializeToString())
        return buffer.getvalue()
