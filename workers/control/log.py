"""What a job tells while it runs: lines for people, or JSON lines for a log store. Free of torch and ray.

With ``SYLLABARY_LOG=json`` every line is one JSON object: ``time`` (UTC), ``level``, ``stage``, ``message``, and where
known ``run`` (the output's URI), ``recipe`` and ``shard``; how far a stage is (``progress.py``) has its fields there,
too. The run's own fields travel to Ray's workers in the environment. What libraries print by themselves (Ray's notices,
a traceback) stays as it is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
from datetime import UTC, datetime
from typing import Any

MODE_VARIABLE = "SYLLABARY_LOG"
CONTEXT_VARIABLE = "SYLLABARY_LOG_CONTEXT"
EVENTS_VARIABLE = "SYLLABARY_EVENTS"
_RAY_PREFIX = re.compile(r"^(?:\x1b\[\d+m)?\(.*?pid=\d+[^)]*\)(?:\x1b\[\d+m)? (?=\{)")


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
    """What a job needs to log as its submitter does, and to tell it events.

    Ray refuses a job of a cluster where the job gives one of these names to its workers, too.
    """
    mode = os.environ.get(MODE_VARIABLE)
    return {EVENTS_VARIABLE: "1"} | ({MODE_VARIABLE: mode} if mode else {})


def emit(stage: str, message: str, *, level: str = "info", **fields: Any) -> None:
    """Tell one line on standard error."""
    write(format_line(stage, message, level=level, **fields))


def say(stage: str, text: str, *, shard: str | None = None) -> None:
    """Tell one line of a stage; ``shard`` is a field of a JSON line."""
    emit(stage, text, **({"shard": shard} if shard else {}))


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
