"""How far a stage is: an event, told every few seconds and rendered last, as a line, a JSON line or a bar.

A job tells :class:`Reached`. Its log shows the event as a line for people (or as a JSON line, see ``log.py``); where a
submitter follows the job, the line carries the event's fields behind a separator, and the submitter takes them from
there (:func:`read_line`). What the words of a line say is never read. Free of torch and ray.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from syllabary.workers.control import log

_UNITS = {"audio_s_per_s": "s of audio/s"}  # stand for people behind a figure, in place of its name before it
_SEPARATOR = "\x1f"  # ASCII's unit separator: invisible where a line is shown as it is


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
    """One line of a job, as it is to be shown, and the event that it tells, if any."""

    line: str
    reached: Reached | None = None


class Progress:
    """Counts what a stage has done and tells it, at most once every ``every_s`` seconds.

    >>> progress = Progress("tokenize", total=3600, unit="s of audio")   # doctest: +SKIP
    tokenize  1,200/3,600 s of audio · 412/s · 0:00:06 left
    """

    def __init__(self, stage: str, total: float, unit: str, every_s: float = 2.0) -> None:
        self.stage, self.total, self.unit, self.every_s = stage, total, unit, every_s
        self.done = 0.0
        self._started = self._last = time.monotonic()

    def add(self, amount: float, note: str = "") -> None:
        """Count ``amount`` more of the unit as done."""
        self.done += amount
        if time.monotonic() - self._last >= self.every_s:
            self._tell(note)

    def finish(self, note: str = "") -> None:
        """Tell how far the stage is, however short ago it was told."""
        self._tell(note)

    def _tell(self, note: str) -> None:
        self._last = time.monotonic()
        rate = self.done / max(self._last - self._started, 1e-9)
        left = max(self.total - self.done, 0) / rate if rate else 0
        tell(Reached(self.stage, self.unit, self.done, self.total, rate, left, note=note))


def tell(reached: Reached) -> None:
    """Tell the event on standard error."""
    values = asdict(reached)
    line = log.format_line(values.pop("stage"), str(reached), **values)
    if not log.is_json() and log.EVENTS_VARIABLE in os.environ:
        line += _SEPARATOR + json.dumps(asdict(reached))
    log.write(line)


def read_line(line: str) -> Told:
    """What a line of a job tells: one of an event has its fields behind the separator, or is JSON."""
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
