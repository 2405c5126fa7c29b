"""What a job tells while it runs: lines for people, or JSON lines for a log store. Free of torch and ray.

With ``SYLLABARY_LOG=json`` every line is one JSON object: ``time`` (UTC), ``level``, ``stage``, ``message``, and where
known ``run`` (the output's URI), ``recipe``, ``shard``, ``done`` and ``total``. The run's own fields travel to Ray's
workers in the environment. What libraries print by themselves (Ray's notices, a traceback) stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any, NamedTuple

MODE_VARIABLE = "SYLLABARY_LOG"
CONTEXT_VARIABLE = "SYLLABARY_LOG_CONTEXT"
_FRACTION = re.compile(r"(?P<done>[\d,]+)/(?P<total>[\d,]+) (?P<unit>.*?) · ")
_RAY_PREFIX = re.compile(r"^(?:\x1b\[\d+m)?\(.*?pid=\d+[^)]*\)(?:\x1b\[\d+m)? (?=\{)")


class Reached(NamedTuple):
    """How far a stage is."""

    stage: str
    done: float
    total: float
    text: str


def is_json() -> bool:
    """Whether lines are JSON, here or (in a Ray worker) where the job was started."""
    return os.environ.get(MODE_VARIABLE) == "json" or CONTEXT_VARIABLE in os.environ


def begin(**fields: str | None) -> None:
    """Name the run that all further lines of this process and its children belong to."""
    if is_json():
        os.environ[CONTEXT_VARIABLE] = json.dumps({key: value for key, value in fields.items() if value is not None})


def worker_environment() -> dict[str, str]:
    """What a Ray worker on another machine needs in its environment to log as this process does."""
    return {key: value for key in (CONTEXT_VARIABLE,) if (value := os.environ.get(key)) is not None}


def job_environment() -> dict[str, str]:
    """What a job on a cluster needs to log as its submitter does. Ray refuses a name that the job gives it, too."""
    return {key: value for key in (MODE_VARIABLE,) if (value := os.environ.get(key))}


def emit(stage: str, message: str, *, level: str = "info", **fields: Any) -> None:
    """Tell one line on standard error."""
    sys.stderr.write(format_line(stage, message, level=level, **fields) + "\n")
    sys.stderr.flush()


def record(stage: str, message: str, **fields: Any) -> None:
    """Tell what only a log store wants to know: nothing in lines for people."""
    if is_json():
        emit(stage, message, **fields)


def format_line(stage: str, message: str, *, level: str = "info", **fields: Any) -> str:
    """The line that :func:`emit` writes."""
    if not is_json():
        return f"{stage}  {message}"
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    context = json.loads(os.environ.get(CONTEXT_VARIABLE, "{}"))
    values = {"time": now, "level": level, "stage": stage, "message": message, **context, **fields}
    if (found := _FRACTION.match(message)) and "done" not in values:
        values |= {name: _number(found[name]) for name in ("done", "total")} | {"unit": found["unit"]}
    return json.dumps(values, ensure_ascii=False)


def parse_progress(line: str) -> Reached | None:
    """What a progress line says (either form), or None where a line is none."""
    stage, message = _parts(line)
    found = _FRACTION.match(message)
    return Reached(stage, _number(found["done"]), _number(found["total"]), message) if found else None


def without_ray_prefix(line: str) -> str:
    """A worker's JSON line as it wrote it: Ray puts the worker's name before what it repeats."""
    return _RAY_PREFIX.sub("", line)


class JsonFormatter(logging.Formatter):
    """Records of Python's logging in the same form."""

    def format(self, record: logging.LogRecord) -> str:
        """One JSON object; a traceback becomes its field ``exception``."""
        trace = {"exception": self.formatException(record.exc_info)} if record.exc_info else {}
        return format_line(record.name, record.getMessage(), level=record.levelname.lower(), **trace)


def _parts(line: str) -> tuple[str, str]:
    if line.startswith("{"):
        try:
            values = json.loads(line)
            return str(values["stage"]), str(values["message"])
        except (ValueError, KeyError, TypeError):
            return "", ""
    stage, _, message = line.partition("  ")
    return stage, message


def _number(text: str) -> float:
    return float(text.replace(",", ""))
