"""Jobs of a cluster, told by a client of the Jobs API that a test answers: taken up again, followed, stopped."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.job_submission import JobStatus

from syllabary.shards.errors import InputError, JobError
from syllabary.workers.control import cluster_job as ray_jobs
from syllabary.workers.control.cluster_job import RayJob
from syllabary.workers.control.jobs import EncodeJob, VerifyJob
from syllabary.workers.control.log import CONTEXT_VARIABLE, EVENTS_VARIABLE, MODE_VARIABLE

JOB = VerifyJob(archive="s3://bucket/archive")
ENTRYPOINT = shlex.join(["python", "-P", "-m", "syllabary.workers", "verify", JOB.model_dump_json()])


@dataclass
class Told:
    """A job as the cluster tells it."""

    submission_id: str | None
    entrypoint: str
    status: JobStatus
    message: str = ""
    driver_exit_code: int | None = None


@dataclass
class Cluster:
    """The part of Ray's JobSubmissionClient that is used; ``logs`` are what each poll finds."""

    jobs: list[Told]
    logs: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    environments: list[dict[str, str]] = field(default_factory=list)

    def list_jobs(self) -> list[Told]:
        return self.jobs

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, dict[str, str]]) -> str:
        self.environments.append(runtime_env["env_vars"])
        self.jobs.append(Told(f"new-{len(self.jobs)}", entrypoint, JobStatus.PENDING))
        return str(self.jobs[-1].submission_id)

    def get_job_info(self, job_id: str) -> Told:
        found = [job for job in self.jobs if job.submission_id == job_id]
        if not found:
            raise RuntimeError(f"Request failed with status code 404: Job {job_id} does not exist")
        return found[0]

    def get_job_status(self, job_id: str) -> JobStatus:
        info = self.get_job_info(job_id)
        if len(self.logs) <= 1 and not self.stopped:
            info.status = JobStatus.SUCCEEDED
        return info.status

    def get_job_logs(self, job_id: str) -> str:
        return self.logs.pop(0)

    def stop_job(self, job_id: str) -> None:
        self.stopped.append(job_id)
        self.get_job_info(job_id).status = JobStatus.STOPPED


def on(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> RayJob:
    monkeypatch.setattr(ray_jobs, "_connect", lambda address: cluster)
    monkeypatch.setattr(ray_jobs, "POLL_S", 0.0)
    return RayJob("http://127.0.0.1:1", JOB)


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.RUNNING])
def test_the_very_same_job_that_still_runs_is_taken_up(status: JobStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    other = shlex.join(
        ["python", "-P", "-m", "syllabary.workers", "verify", VerifyJob(archive="s3://bucket/other").model_dump_json()]
    )
    cluster = Cluster([Told("other", other, status), Told("left", ENTRYPOINT, status)])
    running = on(cluster, monkeypatch)
    assert (running.job_id, running.taken_up) == ("left", True)
    assert len(cluster.jobs) == 2, "a second job works beside the first"


@pytest.mark.parametrize(
    "job",
    [
        Told("over", ENTRYPOINT, JobStatus.SUCCEEDED),
        Told("over", ENTRYPOINT, JobStatus.FAILED),
        Told("over", ENTRYPOINT, JobStatus.STOPPED),
        Told(None, ENTRYPOINT, JobStatus.RUNNING),  # a driver of somebody's own, which the Jobs API cannot follow
    ],
    ids=["succeeded", "failed", "stopped", "not submitted"],
)
def test_a_job_that_is_over_or_was_not_submitted_is_run_again(job: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster([job])
    running = on(cluster, monkeypatch)
    assert (running.job_id, running.taken_up) == ("new-1", False)
    assert cluster.jobs[1].entrypoint == ENTRYPOINT


def test_a_job_longer_than_a_command_line_is_refused_before_the_cluster_is_asked() -> None:
    files = tuple(f"s3://bucket/recording-{number:09}.wav" for number in range(4_000))
    with pytest.raises(InputError, match=r"too long for a cluster's command line, bytes: .*; name fewer files or ids"):
        RayJob("http://127.0.0.1:1", EncodeJob(files=files))


@pytest.mark.parametrize("mode", ["json", ""])
def test_a_job_on_the_cluster_logs_as_its_submitter_does(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(MODE_VARIABLE, mode)
    monkeypatch.delenv(CONTEXT_VARIABLE, raising=False)
    cluster = Cluster([])
    on(cluster, monkeypatch)
    assert cluster.environments == [{EVENTS_VARIABLE: "1"} | ({MODE_VARIABLE: "json"} if mode else {})]


def test_whole_lines_come_once_and_the_last_one_without_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster([], logs=["one\ntw", "one\ntwo\n", "one\ntwo\nthree"])
    running = on(cluster, monkeypatch)
    assert list(running.lines()) == ["one", "two", "three"]
    assert running.outcome() == (True, None, "Ray job new-0 succeeded")


def test_a_job_is_stopped_with_its_submitter_and_a_lost_one_may_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster([], logs=["", "", ""])
    running = on(cluster, monkeypatch)
    with pytest.raises(KeyboardInterrupt), running.stopped_with_us():
        raise KeyboardInterrupt
    assert cluster.stopped == ["new-0"]
    cluster.jobs.clear()  # the cluster's head was started again
    with pytest.raises(JobError, match="has lost the job; run again") as lost:
        running.outcome()
    assert lost.value.may_pass


def test_a_cluster_that_does_not_answer_is_told_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any) -> Any:
        raise ConnectionError("refused\nand more")

    monkeypatch.setattr(ray_jobs, "PATIENCE_S", 0.05)
    monkeypatch.setattr(Cluster, "list_jobs", away)
    with pytest.raises(JobError, match=r"does not answer \(refused\); start it, or check RAY_API_SERVER") as away_error:
        on(Cluster([]), monkeypatch)
    assert away_error.value.may_pass
