"""The table of verbs: each has one job and one function that takes it, and what is no verb is refused in one line."""

from __future__ import annotations

import importlib
import inspect
import subprocess
import sys

import pytest

from syllabary.workers.control import jobs
from syllabary.workers.control.job import Job, jobs_by_verb
from syllabary.workers.control.jobs import declared_jobs

OURS = {job.verb: job for job in declared_jobs()}


def test_every_job_has_a_verb_of_its_own() -> None:
    declared = [value for value in vars(jobs).values() if isinstance(value, type) and issubclass(value, Job)]
    assert {job for job in declared if job not in (Job, jobs.RecipeJob)} == set(OURS.values())
    assert len(OURS) == len(declared_jobs()) and OURS.items() <= jobs_by_verb().items()
    assert len(OURS) >= 20


@pytest.mark.parametrize("job", OURS.values(), ids=OURS)
def test_what_runs_a_job_takes_it(job: type[Job]) -> None:
    module, _, name = job.runs.partition(":")
    function = getattr(importlib.import_module(f"syllabary.workers.{module}"), name)
    first, *others = inspect.signature(function, eval_str=True).parameters.values()
    assert first.annotation is job
    assert all(other.default is not other.empty for other in others)


@pytest.mark.parametrize("arguments", [(), ("verify",), ("transcribe", "{}"), ("verify", "{}", "{}")])
def test_what_is_no_verb_and_one_job_is_refused_in_one_line(arguments: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "syllabary.workers", *arguments]
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ended.returncode == 2 and ended.stdout == ""
    assert (
        ended.stderr.startswith("error: wrong arguments: ")
        and "verify" in ended.stderr
        and ended.stderr.count("\n") == 1
    )


def test_a_parameter_that_does_not_fit_is_named() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "syllabary.workers", "verify", '{"archive": 3}'],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 2 and ended.stderr.startswith("error: job parameter archive: ")
