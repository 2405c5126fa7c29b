"""The stack for real: deployed, run by hand and by schedule, killed piece by piece, cancelled, and ended whole.

Every run ingests the same speech with the same tokenizer into an output of its own: whatever happened on the way, the
outputs end with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from leftovers import everything

from infra.stack import processes, services
from infra.stack.lost_runs import MESSAGE
from infra.stack.pipeline_run import trigger, upload
from infra.stack.stack_files import Stack, open_stack
from syllabary.shards import outputs, store
from tests.helpers.archive_corpus import make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]

ROOT = Path(__file__).parent.parent.parent
NIGHTLY = "ingest-new/nightly"
FINAL_S = 900.0


def command(verb: str, folder: Path, *arguments: str) -> str:
    """A command of the stack; what it says."""
    ended = subprocess.run(
        [sys.executable, "-m", "infra.stack.local_stack", verb, "--folder", str(folder), *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@contextmanager
def as_prefects_client(stack: Stack) -> Iterator[None]:
    """Prefect reads its variables when it is imported, which may have been long before the stack was up."""
    from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

    told = stack.variables()
    found = {setting: told[setting.name] for setting in (PREFECT_API_URL, PREFECT_API_AUTH_STRING)}
    with temporary_settings(found):
        yield


@pytest.fixture(scope="module")
def stack(corpus: Path) -> Iterator[Stack]:
    """A stack with speech and a tokenizer on its S3, in this process's environment."""
    # not pytest's own: it removes the folders of earlier runs, and this one may still be at work when others start
    folder = Path(tempfile.mkdtemp(prefix="syllabary-test-stack-"))
    with pytest.MonkeyPatch.context() as patch:
        try:
            command("up", folder)
            stack = open_stack(folder)
            assert stack is not None
            for name, value in stack.variables().items():
                patch.setenv(name, value)
            import s3fs

            s3fs.S3FileSystem.clear_instance_cache()
            upload(str(corpus), "s3://syllabary/corpora/speech", print)
            make_tokenizer("s3://syllabary/tokenizer")
            with as_prefects_client(stack):
                yield stack
        finally:
            command("down", folder)
            assert not processes.marked(_mark(folder)), "the stack left processes behind"
            shutil.rmtree(folder)


def _mark(folder: Path) -> str:
    return str(json.loads((folder / "stack.json").read_text())["mark"])


def ingest(name: str, **changes: Any) -> dict[str, Any]:
    """Parameters of a nightly run into outputs of its own."""
    return {
        "source": "s3://syllabary/corpora/speech",
        "shards": f"s3://syllabary/{name}/shards",
        "tokenizer": "s3://syllabary/tokenizer",
        "archive": f"s3://syllabary/{name}/archive",
        "overrides": ["ingest.valid_percent=30", "ingest.shard_size_mb=1"],
        **changes,
    }


def contents(name: str) -> dict[str, str]:
    """Digests of all that a run wrote; claims name their own folder, and events their time."""
    return {
        file.name: hashlib.sha256(store.read_bytes(file.uri)).hexdigest()
        for file in store.list_files(f"s3://syllabary/{name}")
        if not (file.name.endswith("output.json") or "/plan" in file.name or "/events/" in file.name)
    }


def client() -> Any:
    from prefect.client.orchestration import get_client

    return get_client(sync_client=True)


def state_of(run: Any) -> Any:
    with client() as prefect:
        return prefect.read_flow_run(run).state


def until(what: str, found: Callable[[], Any], patience_s: float = FINAL_S) -> Any:
    """What ``found`` gives as soon as it gives something."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        with suppress(httpx.HTTPError, ConnectionError, RuntimeError):
            if result := found():
                return result
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {patience_s:.0f} s")


def ended(run: Any) -> Any:
    """The last state of a run."""
    return until("the end of the run", lambda: (s := state_of(run)) is not None and s.is_final() and s)


def complete(run: Any) -> None:
    state = ended(run)
    assert state.is_completed(), f"{state.name}: {state.message}"


def ray_jobs(mentions: str) -> list[Any]:
    from ray.job_submission import JobSubmissionClient

    jobs = JobSubmissionClient(os.environ["RAY_API_SERVER_ADDRESS"]).list_jobs()
    return [job for job in jobs if mentions in job.entrypoint]


def running_job(mentions: str) -> Any:
    return until(
        f"a Ray job on {mentions}",
        lambda: next((job for job in ray_jobs(mentions) if job.status.value == "RUNNING"), None),
    )


@pytest.fixture(scope="module")
def unbroken(stack: Stack) -> dict[str, str]:
    """What an undisturbed run, started by hand, writes."""
    complete(trigger(NIGHTLY, **ingest("unbroken")))
    written = contents("unbroken")
    assert any(name.startswith("archive/parts/") for name in written)
    return written


def test_up_again_says_that_it_is_up(stack: Stack) -> None:
    said = command("up", stack.folder)
    assert "was up already" in said and "starts" not in said
    for address in (stack.prefect_url, stack.dashboard_url, stack.s3_url):
        assert address in said


def test_keys_are_closed_and_asked_for(stack: Stack) -> None:
    for name in ("keys.json", "env.sh", "ray-token", "stack.json"):
        assert stat.S_IMODE((stack.folder / name).stat().st_mode) == 0o600, name
    assert httpx.post(f"{stack.prefect_url}/api/flow_runs/filter", json={}).status_code == 401
    assert httpx.get(f"{stack.dashboard_url}/api/jobs/").status_code == 401
    assert httpx.get(f"{stack.s3_url}/syllabary").status_code == 403


def test_dashboards_and_storage_listen_on_loopback_alone(stack: Stack) -> None:
    """Ray's gRPC servers and its metrics cannot be bound to loopback (docs/stack.md); nothing else may join them."""
    pids = {process.pid for process in processes.marked(stack.mark)}
    listening = [c for c in psutil.net_connections("tcp") if c.status == psutil.CONN_LISTEN and c.pid in pids]
    for name in ("prefect", "dashboard"):
        assert {c.laddr.ip for c in listening if c.laddr.port == stack.ports[name]} == {"127.0.0.1"}
    store_port = stack.ports["object-store"]
    assert {c.laddr.ip for c in listening if store_port <= c.laddr.port < store_port + 16} == {"127.0.0.1"}
    open_ones = {
        psutil.Process(c.pid).name() for c in listening if not c.laddr.ip.removeprefix("::ffff:").startswith("127.")
    }
    assert all(name.startswith(("ray", "gcs_server", "python")) for name in open_ones), open_ones


def no_key_is_left(stack: Stack, output: str) -> None:
    """On command lines, in logs, in Prefect's and Ray's folders and in an output."""
    secrets = [value for name, value in stack.keys.items() if name != "s3_access"]
    for process in processes.marked(stack.mark):
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            assert not any(secret in line for secret in secrets), process.name()
    folders = [stack.folder / "logs", stack.folder / "prefect", stack.ray_folder]
    seen = dict(everything(folders, [output], ""))
    assert any(where.endswith("prefect.db") for where in seen) and any("/logs/job-driver-" in where for where in seen)
    for where, data in seen.items():
        assert not any(secret.encode() in data for secret in secrets), where


def test_no_key_is_on_a_command_line_in_a_log_or_in_what_prefect_stores(stack: Stack, unbroken: dict[str, str]) -> None:
    no_key_is_left(stack, "s3://syllabary/unbroken")


def test_a_worker_without_keys_gives_its_runs_those_of_prefects_blocks(stack: Stack, unbroken: dict[str, str]) -> None:
    """And where a block is missing the run says which."""
    template = str(ROOT / "infra/work_pools/process-with-blocks.json")
    prefect = [sys.executable, "-m", "prefect"]
    subprocess.run(
        [*prefect, "work-pool", "create", "keyless", "--type", "process", "--base-job-template", template], check=True
    )
    with client() as server:
        known = server.read_deployment_by_name(NIGHTLY)
        server.create_deployment(
            flow_id=known.flow_id, name="keyless", work_pool_name="keyless", entrypoint=known.entrypoint,
            path=known.path, pull_steps=known.pull_steps, parameter_openapi_schema=known.parameter_openapi_schema,
        )  # fmt: skip
    keys = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "RAY_AUTH_TOKEN_PATH"}
    keyless = {name: value for name, value in stack.service_environment().items() if name not in keys}
    worker = processes.start([*prefect, "worker", "start", "--pool", "keyless"], keyless, stack.log("keyless"))
    try:
        state = ended(trigger("ingest-new/keyless", **ingest("keyless")))
        assert state.is_crashed() and "Block not found: 'syllabary-" in state.message, state.message
        subprocess.run(
            [sys.executable, "-m", "infra.stack.key_blocks"],
            cwd=ROOT, env=os.environ | {"RAY_AUTH_TOKEN": stack.keys["ray_token"]}, check=True,
        )  # fmt: skip
        complete(trigger("ingest-new/keyless", **ingest("keyless")))
    finally:
        processes.end([psutil.Process(worker.pid)], patience_s=20)
    assert contents("keyless") == unbroken
    no_key_is_left(stack, "s3://syllabary/keyless")


def test_a_scheduled_run_ends_well_though_worker_and_ray_head_are_killed(
    stack: Stack, unbroken: dict[str, str]
) -> None:
    from prefect.client.schemas.schedules import CronSchedule

    with client() as prefect:
        deployment = prefect.read_deployment_by_name(NIGHTLY)
        made = prefect.create_deployment_schedules(deployment.id, [(CronSchedule(cron="* * * * *"), True)])
        prefect.update_deployment_schedule(deployment.id, made[0].id, active=True, parameters=ingest("scheduled"))
    try:
        running_job("syllabary/scheduled/archive")
        run = running_by_schedule(deployment.id)
        kill(stack, "prefect-worker")
        kill(stack, "ray-head")
    finally:
        with client() as prefect:
            prefect.delete_deployment_schedule(deployment.id, made[0].id)
    said = command("up", stack.folder)
    assert "starts ray-head" in said and "starts prefect-worker" in said
    state = ended(run.id)
    assert state.is_completed() or state.message, "a run that did not complete says nothing"
    complete(trigger(NIGHTLY, **ingest("scheduled")))
    assert contents("scheduled") == unbroken


def running_by_schedule(deployment: Any) -> Any:
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterId,
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.states import StateType

    now = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.RUNNING])))
    of_it = DeploymentFilter(id=DeploymentFilterId(any_=[deployment]))
    with client() as prefect:
        (run,) = prefect.read_flow_runs(flow_run_filter=now, deployment_filter=of_it)
    assert run.auto_scheduled
    return run


def kill(stack: Stack, service: str) -> None:
    """SIGKILL to a service and all in its session, as when its host goes away; flow runs have their own sessions."""
    pid = open_stack(stack.folder).services[service].pid  # type: ignore[union-attr]
    session = [p for p in processes.marked(stack.mark) if _session(p.pid) == pid]
    for process in session:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(session, timeout=30)


def _session(pid: int) -> int:
    with suppress(ProcessLookupError):
        return os.getsid(pid)
    return -1


def test_cancelling_a_run_stops_its_ray_job(stack: Stack, unbroken: dict[str, str]) -> None:
    from prefect.states import Cancelling

    run = trigger(NIGHTLY, **ingest("cancelled"))
    job = running_job("syllabary/cancelled/")
    with client() as prefect:
        prefect.set_flow_run_state(run, Cancelling())
    assert ended(run).is_cancelled()
    stopped = until("the end of the Ray job", lambda: [j for j in ray_jobs(job.entrypoint) if j.status.is_terminal()])
    assert [j.status.value for j in stopped] == ["STOPPED"]
    complete(trigger(NIGHTLY, **ingest("cancelled")))
    assert contents("cancelled") == unbroken


def test_a_run_whose_process_is_killed_fails_and_the_next_one_goes_on(stack: Stack, unbroken: dict[str, str]) -> None:
    """The Ray job is left alone for a while; the next run waits for the dead one's lease, then takes the job up."""
    run = trigger(NIGHTLY, **ingest("killed"))
    running_job("syllabary/killed/archive")
    for process in processes.marked(stack.mark, lambda e: e.get("PREFECT__FLOW_RUN_ID") == str(run)):
        process.kill()
    state = ended(run)
    assert state.is_crashed() and state.message
    complete(trigger(NIGHTLY, **ingest("killed")))
    assert contents("killed") == unbroken


def test_a_run_lost_with_its_worker_is_failed_by_the_server(stack: Stack, unbroken: dict[str, str]) -> None:
    """As when their host goes away: nobody is left to tell, and the automation misses the run's heartbeat."""
    run = trigger(NIGHTLY, **ingest("lost"))
    running_job("syllabary/lost/")
    kill(stack, "prefect-worker")
    for process in processes.marked(stack.mark, lambda e: e.get("PREFECT__FLOW_RUN_ID") == str(run)):
        process.kill()
    state = ended(run)
    assert state.is_crashed() and state.message == MESSAGE
    assert "starts prefect-worker" in command("up", stack.folder)
    complete(trigger(NIGHTLY, **ingest("lost")))
    assert contents("lost") == unbroken


def test_a_job_whose_submitter_was_killed_is_taken_up_by_the_next(stack: Stack) -> None:
    """The job's driver is held while nobody follows it, so that it cannot have ended before the next one comes."""
    syllabary = str(Path(sys.executable).parent / "syllabary")
    shard = [syllabary, "shard", "s3://syllabary/corpora/speech", "--out", "s3://syllabary/taken-up/shards"]
    first = subprocess.Popen(shard, stderr=subprocess.DEVNULL)
    job = running_job("syllabary/taken-up/")
    drivers = until("the job's driver", lambda: drivers_of(stack, "syllabary/taken-up/"))
    for driver in drivers:
        driver.suspend()
    first.kill()
    first.wait()
    second = subprocess.Popen(shard, stderr=subprocess.PIPE, text=True)
    assert second.stderr is not None
    said = next(line for line in second.stderr if "is Ray job" in line)
    for driver in drivers:
        driver.resume()
    last = second.communicate(timeout=FINAL_S)[1]
    assert f"{job.submission_id}, still running from before" in said
    assert second.returncode == 0, last
    assert [one.submission_id for one in ray_jobs("syllabary/taken-up/")] == [job.submission_id]
    assert outputs.read_done("s3://syllabary/taken-up/shards") is not None


def drivers_of(stack: Stack, mentions: str) -> list[psutil.Process]:
    """The driver of a Ray job, with the shell around it."""
    found = []
    for process in processes.marked(stack.mark):
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if "-m syllabary.workers " in line and mentions in line:
                found.append(process)
    return found


def test_a_bad_source_fails_the_run_with_the_jobs_words_and_is_not_tried_again(stack: Stack) -> None:
    run = trigger(NIGHTLY, **ingest("bad", source="s3://syllabary/absent"))
    state = ended(run)
    assert state.is_failed()
    assert "s3://syllabary/absent" in state.message and "The job's last lines:" in state.message
    assert len(ray_jobs("syllabary/bad/")) == 1
    assert not contents("bad")


def test_down_ends_what_up_started_and_nothing_else(stack: Stack) -> None:
    bystander = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        ours = processes.marked(stack.mark)
        assert any("ray::DashboardAgent" in process.cmdline() for process in ours), "one whose title hides its mark"
        said = command("down", stack.folder)
        assert "the stack is down" in said
        assert not processes.marked(stack.mark) and not [process for process in ours if process.is_running()]
        assert bystander.poll() is None
        assert not any(services.answers(stack, name) for name in services.SERVICES)
        assert (stack.folder / "s3").exists() and not stack.ray_folder.exists()
    finally:
        bystander.kill()
        bystander.wait()
