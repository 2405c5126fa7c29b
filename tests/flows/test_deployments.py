"""``prefect.yaml``: a deployment for every flow, each loading as Prefect loads it, with a form of its parameters."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
import yaml
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate, WorkPoolCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.schedules import CronSchedule

from infra.stack import key_blocks
from infra.stack.deploy import _restore, deploy, refuse_keys
from syllabary.shards.errors import InputError, SecretError

ROOT = Path(__file__).parent.parent.parent
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def flow_files() -> list[str]:
    return sorted(p.name for p in (ROOT / "flows").glob("*.py") if "\n@job_flow\n" in p.read_text())


def test_every_flow_has_a_deployment() -> None:
    assert sorted(d["entrypoint"].partition(":")[0].removeprefix("flows/") for d in DEPLOYMENTS) == flow_files()


def test_every_deployment_is_in_the_documents() -> None:
    """By the name that `prefect deployment run` takes: the flow's and the deployment's."""
    table = (ROOT / "docs" / "stack.md").read_text()
    for deployment in DEPLOYMENTS:
        flow = deployment["entrypoint"].partition(":")[2].replace("_", "-")
        assert f"`{flow}/{deployment['name']}`" in table, deployment["name"]


def test_every_entrypoint_loads_with_its_folder_first_on_the_path() -> None:
    """As Prefect does it, in a process of its own: no name in flows/ hides a package (see the architecture tests)."""
    code = (
        "import sys\nfrom prefect.flows import load_flow_from_entrypoint\n"
        "from prefect.utilities.callables import parameter_schema\n"
        "for entrypoint in sys.argv[1:]:\n"
        "    schema = parameter_schema(load_flow_from_entrypoint(entrypoint))\n"
        "    assert schema.properties, entrypoint\n"
        "    for name, field in schema.properties.items():\n"
        "        assert field.get('description'), f'{entrypoint} says nothing of {name}'\n"
        "    for name in ('source', 'shards', 'archive'):\n"
        "        field = schema.properties.get(name, {})\n"
        "        assert 'pattern' in str(field) or not field, f'{entrypoint} takes anything as {name}'\n"
        "    assert 'tiny' in schema.properties.get('recipe', {}).get('enum', ['tiny'])\n"
    )
    entrypoints = [d["entrypoint"] for d in DEPLOYMENTS]
    finished = subprocess.run(
        [sys.executable, "-c", code, *entrypoints], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda d: d["name"])
def test_a_deployment_says_what_it_does(deployment: dict) -> None:
    assert len(deployment["description"]) > 20
    assert deployment["work_pool"]["name"] == "syllabary"


def test_schedules_wait_for_their_parameters() -> None:
    """A cron that is active without parameters would fail every night."""
    schedules = [(d["name"], s) for d in DEPLOYMENTS for s in d.get("schedules", [])]
    assert {name for name, _ in schedules} >= {"nightly", "scrub", "pretrain", "train-tokenizer"}
    for name, schedule in schedules:
        assert schedule["active"] is False and schedule["timezone"] == "UTC", name


def nightly() -> Any:
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name("ingest-new/nightly")


def schedules() -> set[tuple[str, bool, str]]:
    """(cron, active, archive) of each schedule of the nightly run."""
    return {(s.schedule.cron, s.active, str(s.parameters.get("archive"))) for s in nightly().schedules}


@pytest.mark.timeout(900)  # `prefect deploy` twice, on a machine that may be busy
def test_a_schedule_that_was_switched_on_outlives_the_next_deployment(
    server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", server)
    monkeypatch.setenv("SYLLABARY_HOME", str(ROOT))
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="syllabary", type="process"))
    deploy("-n", "nightly")
    assert schedules() == {("0 2 * * *", False, "None")}
    values = {name: f"s3://bucket/{name}" for name in ("source", "shards", "tokenizer", "archive")}
    (made,) = nightly().schedules
    with get_client(sync_client=True) as client:
        client.update_deployment_schedule(nightly().id, made.id, active=True, parameters=values)
        by_hand = DeploymentScheduleCreate(schedule=CronSchedule(cron="0 5 * * *"), active=True, parameters=values)
        client.create_deployment_schedules(nightly().id, [by_hand])
    before = schedules()
    assert before == {("0 2 * * *", True, "s3://bucket/archive"), ("0 5 * * *", True, "s3://bucket/archive")}
    deploy("-n", "nightly")
    assert schedules() == before and len(nightly().schedules) == 2


def test_a_schedule_that_the_file_has_active_is_the_files(monkeypatch: pytest.MonkeyPatch) -> None:
    old = DeploymentSchedule(
        id=uuid4(), deployment_id=uuid4(), slug="nightly", active=False, schedule=CronSchedule(cron="0 2 * * *")
    )
    of_the_file = old.model_copy(update={"active": True, "schedule": CronSchedule(cron="0 3 * * *")})
    changed: list[Any] = []
    client = SimpleNamespace(
        read_deployment=lambda _: SimpleNamespace(schedules=[of_the_file]),
        update_deployment_schedule=lambda *_, **values: changed.append(values),
    )
    before = SimpleNamespace(id=old.deployment_id, schedules=[old])
    _restore(client, before)  # type: ignore[arg-type]
    assert not changed
    of_the_file.active = False
    _restore(client, before)  # type: ignore[arg-type]
    assert changed == [{"active": False, "schedule": old.schedule, "parameters": {}}]


def test_runs_of_a_scheduled_deployment_queue_up() -> None:
    for deployment in DEPLOYMENTS:
        if deployment.get("schedules"):
            assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}


def test_keys_are_stored_as_blocks_all_or_none(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefect.blocks.system import Secret

    monkeypatch.setenv("PREFECT_API_URL", server)
    wanted = key_blocks.blocks()
    for variable in wanted:
        monkeypatch.setenv(variable, f"value of {variable}")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    with pytest.raises(InputError, match=r"not in the environment: 'RAY_AUTH_TOKEN'; export them"):
        key_blocks.save()
    with pytest.raises(ValueError, match="Unable to find block document"):
        Secret.load(wanted["AWS_ACCESS_KEY_ID"])
    for token in ("old", "new"):  # again replaces
        monkeypatch.setenv("RAY_AUTH_TOKEN", token)
        assert key_blocks.save() == list(wanted.values())
    stored = {variable: Secret.load(name).get() for variable, name in wanted.items()}  # type: ignore[union-attr]
    assert stored["RAY_AUTH_TOKEN"] == "new"
    assert stored["AWS_SECRET_ACCESS_KEY"] == "value of AWS_SECRET_ACCESS_KEY"


@pytest.mark.parametrize(
    ("url", "line", "code"),
    [
        ("", "no Prefect server to store keys at; set PREFECT_API_URL", 2),
        ("http://127.0.0.1:9/api", "the Prefect server takes no blocks", 75),
    ],
)
def test_keys_are_stored_nowhere_without_a_server(url: str, line: str, code: int, tmp_path: Path) -> None:
    keys = dict.fromkeys(key_blocks.blocks(), "value-of-a-key")
    environment = {**os.environ, **keys, "PREFECT_API_URL": url, "PREFECT_HOME": str(tmp_path)}
    command = [sys.executable, "-m", "infra.stack.key_blocks"]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == code and ended.stderr.startswith(f"error: {line}") and ended.stderr.count("\n") == 1
    assert not list(tmp_path.glob("*.db*"))


def test_a_file_that_would_store_a_blocks_value_is_not_deployed(tmp_path: Path) -> None:
    refuse_keys(ROOT / "prefect.yaml")
    file = tmp_path / "prefect.yaml"
    by_name = {"KEY": "{{ prefect.blocks.secret.key }}"}
    for reference in (by_name, {"KEY": {"$ref": {"block_document_id": str(uuid4())}}}):
        keyed = {"name": "keyed", "work_pool": {"job_variables": {"env": reference}}}
        file.write_text(yaml.safe_dump({"deployments": [keyed, {"name": "pulls", "pull": [reference]}]}))
        with pytest.raises(SecretError, match="value of a block in plain text: 'keyed'; refer to blocks in the work"):
            refuse_keys(file)
    file.write_text("deployments: [")
    with pytest.raises(InputError, match="not a file of deployments"):
        refuse_keys(file)
