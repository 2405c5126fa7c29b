"""``prefect.yaml``: a deployment for every flow, each loading as Prefect loads it, with a form of its parameters."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent.parent
DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]


def flow_files() -> list[str]:
    return sorted(p.name for p in (ROOT / "flows").glob("*.py") if "\n@flow(" in p.read_text())


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


def test_runs_of_a_scheduled_deployment_queue_up() -> None:
    for deployment in DEPLOYMENTS:
        if deployment.get("schedules"):
            assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "ENQUEUE"}
