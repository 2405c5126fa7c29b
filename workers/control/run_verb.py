"""Run a verb for ``python -m syllabary.workers``: read the job, run it, print one result or one error."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, NoReturn

from pydantic import ValidationError

from syllabary.shards.errors import InputError, SyllabaryError, first_fault
from syllabary.workers.control import log as job_log
from syllabary.workers.control.extras import extras_told, require_extras, torch_told
from syllabary.workers.control.job import Job, jobs_by_verb
from syllabary.workers.control.jobs import ON_STANDARD_INPUT, RESULT_PREFIX
from syllabary.workers.control.processes import die_with_parent


def main() -> None:
    """Run the job that the command line gives as ``VERB '<json>'``; exits with the job's status.

    Standard output carries the result line alone, so that a caller can read it; progress and errors go to standard
    error. A :class:`SyllabaryError` becomes one line and its exit code; anything else keeps its traceback.
    """
    die_with_parent()
    result_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries that print to standard output must not be taken for the result
    _log_warnings()
    try:
        job = _read_job(sys.argv[1:])
        _name_run(job)
        require_extras(job.extras, job.verb)
        with extras_told(job.verb):
            with torch_told():
                function = _function(job)
            result = function(job)
    except SyllabaryError as error:
        stage = sys.argv[1] if len(sys.argv) > 1 else "syllabary"
        job_log.record(stage, str(error), level="error", exit_code=error.exit_code)
        sys.stderr.write(f"error: {error}\n")  # the submitter looks for this line
        _leave(error.exit_code)
    result_stream.write(RESULT_PREFIX + json.dumps(result) + "\n")
    result_stream.flush()
    _leave(0)


def _log_warnings() -> None:
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    if job_log.is_json():
        for handler in logging.getLogger().handlers:
            handler.setFormatter(job_log.JsonFormatter())


def _name_run(job: Job) -> None:
    values = job.model_dump(mode="json")
    run = next((values[name] for name in ("out", "archive", "run") if values.get(name)), None)
    job_log.begin(job=job.verb, run=run, recipe=values.get("recipe"))


def _leave(status: int) -> NoReturn:
    """End at once: native threads (Arrow's readahead, say) that outlive the interpreter abort a finished job."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _read_job(arguments: list[str]) -> Job:
    jobs = jobs_by_verb()
    if len(arguments) != 2 or arguments[0] not in jobs:
        raise InputError(
            "wrong arguments",
            value=arguments,
            expected=f"a verb ({', '.join(sorted(jobs))}) and one JSON object, the job, or - and it on standard input",
            fix="use the `syllabary` command",
        )
    try:
        verb, text = arguments
        return jobs[verb].model_validate_json(sys.stdin.buffer.read() if text == ON_STANDARD_INPUT else text)
    except ValidationError as error:
        where, message, value = first_fault(error)
        raise InputError(f"job parameter {where}: {message}", value=value) from error


def _function(job: Job) -> Callable[[Job], Mapping[str, Any]]:
    module, _, name = job.runs.partition(":")
    function: Callable[[Job], Mapping[str, Any]] = getattr(import_module(f"syllabary.workers.{module}"), name)
    return function
