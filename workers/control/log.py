"""The output of a job while it runs: lines for people, or JSON lines for a log store. Free of torch and ray.

With ``SYLLABARY_LOG=json`` every line is one JSON object: ``time`` (UTC), ``level``, ``stage``, ``message``, and where
known ``run`` (the output's URI), ``recipe`` and ``shard``, and the fields of an event. The run's own fields travel to
Ray's workers in the environment. What libraries print by themselves (Ray's notices, a traceback) stays as it is.

How far a stage is is an event, :class:`Reached`, reported every few seconds and rendered last: as a line, a JSON line
or a bar. Where a submitter follows the job, the line carries the event's fields behind a separator, and the submitter
takes them from there (:func:`read_line`). What the words of a line say is never read.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

MODE_VARIABLE = "SYLLABARY_LOG"
CONTEXT_VARIABLE = "SYLLABARY_LOG_CONTEXT"
EVENTS_VARIABLE = "SYLLABARY_EVENTS"
_UNITS = {"audio_s_per_s": "s of audio/s"}  # stand for people behind a figure, in place of its name before it
_SEPARATOR = "\x1f"  # ASCII's unit separator: invisible where a line is shown as it is
_RAY_PREFIX = re.compile(r"^(?:\x1b\[\d+m)?\(.*?pid=\d+[^)]*\)(?:\x1b\[\d+m)? (?=\{)")


def is_json() -> bool:
    """Whether lines are JSON, here or (in a Ray worker) where the job was started."""
    return os.environ.get(MODE_VARIABLE) == "json" or CONTEXT_VARIABLE in os.environ


def begin(**fields: str | None) -> None:
    """Name the run that all further lines of this process and its children belong to."""
    if is_json():
        os.environ[CONTEXT_VARIABLE] = json.dumps({key: value for key, value in fields.items() if value is not None})


def worker_environment() -> dict[str, str]:
    """The environment that a Ray worker on another machine needs to log as this process does."""
    return {key: value for key in (CONTEXT_VARIABLE,) if (value := os.environ.get(key)) is not None}


def job_environment() -> dict[str, str]:
    """The environment that a job needs to log as its submitter does, and to report events to it.

    Ray refuses a job of a cluster where the job gives one of these names to its workers, too.
    """
    mode = os.environ.get(MODE_VARIABLE)
    return {EVENTS_VARIABLE: "1"} | ({MODE_VARIABLE: mode} if mode else {})


def emit(stage: str, message: str, *, level: str = "info", **fields: Any) -> None:
    """Write one line of a stage to standard error, with fields for JSON."""
    write(format_line(stage, message, level=level, **fields))


def say(stage: str, text: str, *, shard: str | None = None) -> None:
    """Write one line of a stage for people; ``shard`` is a field of a JSON line."""
    emit(stage, text, **({"shard": shard} if shard else {}))


def record(stage: str, message: str, **fields: Any) -> None:
    """Write a JSON line for a log store; nothing where lines are for people."""
    if is_json():
        emit(stage, message, **fields)


def format_line(stage: str, message: str, *, level: str = "info", **fields: Any) -> str:
    """The line that :func:`emit` writes."""
    if not is_json():
        return f"{stage}  {message}"
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    context = json.loads(os.environ.get(CONTEXT_VARIABLE, "{}"))
    values = {"time": now, "level": level, "stage": stage, "message": message, **context, **fields}
    return json.dumps(values, ensure_ascii=False)


def write(line: str) -> None:
    """Write a line to standard error, at once."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def without_ray_prefix(line: str) -> str:
    """A worker's JSON line as it wrote it: Ray puts the worker's name before what it repeats."""
    return _RAY_PREFIX.sub("", line)


class JsonFormatter(logging.Formatter):
    """Records of Python's logging in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object; a traceback becomes its field ``exception``."""
        trace = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return format_line(record.name, record.getMessage(), level=record.levelname.lower(), **trace)


@dataclass(frozen=True)
class Reached:
    """How far a stage is.

    Attributes:
        stage: the verb.
        unit: what is counted, in the plural.
        done: how much of it is done.
        total: how much there is.
        rate: how much is done per second.
        eta_s: seconds that the rest takes at this rate.
        figures: what else is measured, by name, such as a loss.
        note: further words, such as what was done last.
    """

    stage: str
    unit: str
    done: float
    total: float
    rate: float = 0.0
    eta_s: float = 0.0
    figures: Mapping[str, float] = field(default_factory=dict)
    note: str = ""

    def __str__(self) -> str:
        """The event for people, without the stage."""
        left = int(self.eta_s)
        speed = f"{self.rate:,.0f}" if self.rate >= 10 else f"{self.rate:.2g}"  # "0/s" would say that it stands still
        parts = [
            f"{self.done:,.0f}/{self.total:,.0f} {self.unit}",
            *(_figure(name, value) for name, value in self.figures.items()),
            f"{speed}/s",
            f"{left // 3600}:{left % 3600 // 60:02}:{left % 60:02} left",
            *([self.note] if self.note else []),
        ]
        return " · ".join(parts)


@dataclass(frozen=True)
class Told:
    """One line of a job, as it is to be shown, and the event in it, if any."""

    line: str
    reached: Reached | None = None


class Progress:
    """Counts what a stage has done and reports it, at most once every ``every_s`` seconds.

    >>> progress = Progress("tokenize", total=3600, unit="s of audio")   # doctest: +SKIP
    tokenize  1,200/3,600 s of audio · 412/s · 0:00:06 left
    """

    def __init__(self, stage: str, total: float, unit: str, every_s: float = 2.0) -> None:
        self.stage, self.total, self.unit, self.every_s = stage, total, unit, every_s
        self.done = 0.0
        self._told: tuple[float, str] | None = None
        self._started = self._last = time.monotonic()

    def add(self, amount: float, note: str = "") -> None:
        """Count ``amount`` more of the unit as done."""
        self.done += amount
        if time.monotonic() - self._last >= self.every_s:
            self._tell(note)

    def finish(self, note: str = "") -> None:
        """Report how far the stage is, however recent the last report; not twice in the same words."""
        if self._told != (self.done, note):
            self._tell(note)

    def _tell(self, note: str) -> None:
        self._last, self._told = time.monotonic(), (self.done, note)
        rate = self.done / max(self._last - self._started, 1e-9)
        left = max(self.total - self.done, 0) / rate if rate else 0
        tell(Reached(self.stage, self.unit, self.done, self.total, rate, left, note=note))


def tell(reached: Reached) -> None:
    """Write the event to standard error."""
    values = asdict(reached)
    line = format_line(values.pop("stage"), str(reached), **values)
    if not is_json() and EVENTS_VARIABLE in os.environ:
        line += _SEPARATOR + json.dumps(asdict(reached))
    write(line)


def read_line(line: str) -> Told:
    """Read a line of a job: that of an event has its fields behind the separator, or is JSON."""
    text, separator, values = line.rpartition(_SEPARATOR)
    if separator and (reached := _event(values)):
        return Told(text, reached)
    return Told(line, _event(line) if line.startswith("{") else None)


def _event(text: str) -> Reached | None:
    try:
        values: dict[str, Any] = json.loads(text)
        return Reached(**{one.name: values[one.name] for one in fields(Reached)})
    except (ValueError, KeyError, TypeError):
        return None


def _figure(name: str, value: float) -> str:
    size = abs(value)
    text = f"{value:.4f}" if size < 10 else f"{value:.1f}" if size < 1000 else f"{value:,.0f}"
    return f"{text} {_UNITS[name]}" if name in _UNITS else f"{name} {text}"
