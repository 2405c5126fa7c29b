"""A job inside a flow, on a real Prefect server: it fails the run, is tried again where that helps, one at a time."""

from __future__ import annotations

import contextlib
import contextvars
import importlib
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import pytest
from prefect import flow
from prefect.client.orchestration import get_client

from syllabary.flows import narration
from syllabary.flows import output_lock as output_lock_module
from syllabary.flows.output_lock import PRIVATE_SERVER_VARIABLE, limit_name, output_lock
from syllabary.shards.errors import JobError
from syllabary.workers.control.jobs import Job

WORKER = """
import os, sys, time
from pathlib import Path
from typing import ClassVar
from syllabary.shards.errors import InputError, UnavailableError
from syllabary.workers.control.log import say
from syllabary.workers.control.jobs import Job

class ProbeJob(Job):
    verb: ClassVar[str] = "probe_of_flows"
    runs: ClassVar[str] = "probe_of_flows:probe"
    how: str
    diary: str

def probe(job):
    with Path(job.diary).open("a") as diary:
        diary.write(f"{os.getpid()} starts\\n")
    say("probe", "opened the drawer")
    tries = Path(job.diary).read_text().count("starts")
    if job.how == "refuse":
        raise InputError("no speech: 'x'; expected a folder")
    if job.how == "away once" and tries == 1:
        raise UnavailableError("cannot read")
    return {"tries": tries}
"""


class ProbeJob(Job):
    verb: ClassVar[str] = "probe_of_flows"
    runs: ClassVar[str] = "probe_of_flows:probe"
    how: str
    diary: str


@pytest.fixture
def diary(add_worker: Callable[[str, str], None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    add_worker("probe_of_flows", WORKER)
    monkeypatch.delenv(narration.ECHO_VARIABLE, raising=False)
    return str(tmp_path / "diary")


@flow
def run_probe(how: str, diary: str) -> dict[str, Any]:
    return narration.run_job(ProbeJob(how=how, diary=diary))


def starts(diary: str) -> int:
    return Path(diary).read_text().count("starts")


def test_a_failed_job_fails_the_flow_with_its_own_last_lines(server: str, diary: str) -> None:
    state = run_probe("refuse", diary, return_state=True)
    assert state.is_failed()
    assert "no speech: 'x'; expected a folder" in str(state.message)
    assert "The job's last lines:\nprobe  opened the drawer\nerror: no speech" in str(state.message)
    assert starts(diary) == 1, "bad input was tried again"


def test_storage_that_was_away_is_asked_again(server: str, diary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(narration, "_submit", narration._submit.with_options(retry_delay_seconds=[0, 0]))
    assert run_probe("away once", diary) == {"tries": 2}


def test_on_a_terminal_the_error_is_one_line(server: str, diary: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(narration.ECHO_VARIABLE, "1")
    with pytest.raises(JobError) as caught:
        run_probe("refuse", diary)
    assert str(caught.value) == "no speech: 'x'; expected a folder"


def test_two_runs_never_work_on_one_output(server: str, tmp_path: Path) -> None:
    inside, most, seen = [0], [0], []

    @flow
    def work(*uris: str) -> None:
        with output_lock(*uris):
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            seen.append(uris)
            time.sleep(1)
            inside[0] -= 1

    ours, other = str(tmp_path / "out"), str(tmp_path / "other")
    wanted = ((ours,), (ours, other), (f"{ours}/../out/",))
    runs = [threading.Thread(target=contextvars.copy_context().run, args=(work, *uris)) for uris in wanted]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(seen) == 3 and most == [1]


HELD = {
    "shard_corpus": ({"source": "in", "out": "out"}, ["out"]),
    "pretrain_encoder": ({"shards": "in", "out": "out"}, ["out"]),
    "train_tokenizer": ({"shards": "in", "encoder": "e", "out": "out", "tokenizer": "t"}, ["out", "t"]),
    "tokenize_shards": ({"shards": "in", "tokenizer": "t", "archive": "out"}, ["out"]),
    "restore_audio": ({"archive": "a", "tokenizer": "t", "out": "out"}, ["out"]),
    "evaluate_tokenizer": ({"tokenizer": "t", "shards": "in", "out": "out"}, ["out"]),
    "verify_archive": ({"archive": "a"}, ["a/verified.json"]),
}


@pytest.mark.parametrize("name", HELD)
def test_a_flow_holds_what_its_job_writes_and_lets_it_go(
    name: str, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, (parameters, outputs_of_it), held = importlib.import_module(f"syllabary.flows.{name}"), HELD[name], []

    def job(_: Job) -> dict[str, Any]:
        held.extend(taken(uri) for uri in outputs_of_it)
        raise JobError("that is all")

    monkeypatch.setattr(module, "run_job", job)
    assert getattr(module, name)(**parameters, return_state=True).is_failed()
    assert held == [1] * len(outputs_of_it)
    assert [taken(uri) for uri in outputs_of_it] == [0] * len(outputs_of_it)


def test_every_flow_that_runs_a_job_is_looked_at() -> None:
    flows = Path(narration.__file__).parent.glob("*.py")
    runs = {path.stem for path in flows if "\n@job_flow\n" in path.read_text() and "run_job(" in path.read_text()}
    assert runs - set(HELD) == {"run_pipeline", "promote_tokenizer"}, "these call the others, and lock by themselves"


def taken(uri: str) -> int:
    """Slots of an output's limit that are held."""
    with get_client(sync_client=True) as client:
        return client.read_global_concurrency_limit_by_name(limit_name(uri)).active_slots


def test_other_outputs_do_not_wait(server: str, tmp_path: Path) -> None:
    @flow
    def work(uri: str, inner: str) -> str:
        with output_lock(uri), output_lock(inner):
            return "both"

    assert work(str(tmp_path / "run"), str(tmp_path / "run" / "archive")) == "both"


def test_a_limit_is_named_after_the_output_alone() -> None:
    assert limit_name("s3://bucket/run/archive/") == limit_name("s3://bucket/run/archive")
    assert limit_name("s3://bucket/run/archive") != limit_name("s3://bucket/run.archive")
    assert limit_name("s3://bucket/run/archive").startswith("output s3.bucket.run.archive ")


def test_a_private_server_locks_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A lease of a killed `syllabary run` must not stop the next: its server is gone with it."""
    monkeypatch.setenv(PRIVATE_SERVER_VARIABLE, "1")
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    with output_lock(str(tmp_path)):  # would fail, and slowly, if it asked the server above
        held = True
    assert held


def test_outputs_are_held_in_one_order_by_a_lease_that_a_restarting_server_may_miss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs that name two outputs in two orders must not each hold what the other waits for."""
    asked: list[tuple[list[str], dict[str, Any]]] = []

    def concurrency(names: list[str], **options: Any) -> contextlib.AbstractContextManager[None]:
        asked.append((names, options))
        return contextlib.nullcontext()

    monkeypatch.delenv(PRIVATE_SERVER_VARIABLE, raising=False)
    monkeypatch.setattr(output_lock_module, "concurrency", concurrency)
    monkeypatch.setattr(output_lock_module, "_make_limits", lambda names: None)
    uris = [str(tmp_path / name) for name in "dbca"]
    for order in (uris, uris[::-1], [*uris, uris[0] + "/"]):
        with output_lock(*order):
            pass
    assert [names for names, _ in asked] == [sorted(map(limit_name, uris))] * 3
    (options,) = {tuple(sorted(options.items())) for _, options in asked}
    # docs/stack.md says 120 s; a lease of a day would keep the output of a killed run for a day.
    assert dict(options) == {
        "timeout_seconds": 24 * 3600, "lease_duration": 120, "strict": True, "raise_on_lease_renewal_failure": False,
    }  # fmt: skip
