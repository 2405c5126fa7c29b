"""``python -m infra.stack.deploy``: the deployments of prefect.yaml on the server at PREFECT_API_URL; schedules stay.

``prefect deploy`` alone puts every schedule back to what the file says, inactive and without parameters, and removes
those that were made by hand: a nightly run that somebody had switched on would be off after the next deployment,
without a word. Here a schedule of the server stays as it is, unless the file has it active: then the file decides.
It would also put a block's value, a key, in the place of a reference to it and store that; such a file is refused.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse

from syllabary.shards.errors import InputError, SecretError, SyllabaryError

ROOT = Path(__file__).parent.parent.parent
_REFERENCES = ("prefect.blocks.", "block_document_id")  # the two forms in which Prefect resolves a block


def deploy(*which: str) -> None:
    """Deploy (``--all``, or ``-n NAME``) and put the schedules back that were there before.

    Raises:
        InputError: no prefect.yaml that can be read.
        SecretError: it refers to a block where ``prefect deploy`` would store the block's value.
        subprocess.CalledProcessError: ``prefect deploy`` failed; it has said why.
    """
    refuse_keys(ROOT / "prefect.yaml")
    with get_client(sync_client=True) as client:
        before = client.read_deployments()
        try:
            subprocess.run([sys.executable, "-m", "prefect", "--no-prompt", "deploy", *which], cwd=ROOT, check=True)
        finally:
            for deployment in before:
                _restore(client, deployment)


def refuse_keys(path: Path) -> None:
    """Refuse a file whose deployments would be stored with the value of a block; pull steps resolve theirs when run.

    Raises:
        InputError: the file cannot be read.
        SecretError: a deployment refers to a block.
    """
    try:
        deployments = yaml.safe_load(path.read_text())["deployments"]
        kept = {d["name"]: {key: value for key, value in d.items() if key != "pull"} for d in deployments}
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        why = str(error).splitlines()[0]
        raise InputError("not a file of deployments", value=str(path), fix=why) from None
    if keyed := [name for name, deployment in kept.items() if any(form in str(deployment) for form in _REFERENCES)]:
        raise SecretError(
            "deploying would store the value of a block in plain text",
            value=", ".join(keyed),
            fix="refer to blocks in the work pool (infra/work_pools/process-with-blocks.json)",
        )


def _restore(client: SyncPrefectClient, before: DeploymentResponse) -> None:
    now = client.read_deployment(before.id).schedules
    decided = {schedule.slug for schedule in now if schedule.slug and schedule.active}
    for old in before.schedules:
        if not (old.slug and old.slug in decided):
            _put(client, old, next((new for new in now if _same(new, old)), None))


def _same(new: DeploymentSchedule, old: DeploymentSchedule) -> bool:
    return new.id == old.id or (new.slug is not None and new.slug == old.slug)


def _put(client: SyncPrefectClient, old: DeploymentSchedule, there: DeploymentSchedule | None) -> None:
    """The old schedule with its parameters: in the place of the one that is there, or made again."""
    assert old.deployment_id is not None
    values: dict[str, Any] = {"active": old.active, "schedule": old.schedule, "parameters": old.parameters}
    if there is None:
        made = DeploymentScheduleCreate(slug=old.slug, **values)
        client.create_deployment_schedules(old.deployment_id, [made])
    else:
        client.update_deployment_schedule(old.deployment_id, there.id, **values)


if __name__ == "__main__":
    try:
        deploy("--all")
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
    except SyllabaryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
