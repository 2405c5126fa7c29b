"""A run whose process vanished without a word (its host died, it was killed) is failed by the Prefect server itself.

Flow runs send a heartbeat; an automation marks a run as crashed when three of them are missing. Without it such a run
would stay "running" for ever. ``python -m infra.stack.lost_runs SECONDS`` makes it on the server at PREFECT_API_URL.
"""

from __future__ import annotations

import sys
from datetime import timedelta

from prefect.automations import Automation
from prefect.client.orchestration import get_client
from prefect.events.actions import ChangeFlowRunState
from prefect.events.schemas.automations import EventTrigger, Posture
from prefect.states import StateType

NAME = "Fail lost runs"
MESSAGE = "The process of this run is gone without a word. Run it again: it goes on where it was."
_HEARTBEAT = "prefect.flow-run.heartbeat"
_ENDS = ("Completed", "Failed", "Cancelled", "Crashed")


def fail_lost_runs(after: timedelta) -> None:
    """Make the automation on the server at PREFECT_API_URL, or bring it up to date.

    Args:
        after: how long a run may be silent; three times PREFECT_FLOWS_HEARTBEAT_FREQUENCY of the workers.
    """
    automation = Automation(
        name=NAME,
        description=f"Marks runs as crashed that have been silent for {after.total_seconds():.0f} s.",
        trigger=EventTrigger(
            after={_HEARTBEAT},
            expect={_HEARTBEAT, *(f"prefect.flow-run.{end}" for end in _ENDS)},
            match={"prefect.resource.id": ["prefect.flow-run.*"]},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=after,
        ),
        actions=[ChangeFlowRunState(name=None, state=StateType.CRASHED, message=MESSAGE, force=False)],
    )
    with get_client(sync_client=True) as client:
        for known in client.read_automations_by_name(NAME):
            client.delete_automation(known.id)
    automation.create()


if __name__ == "__main__":
    fail_lost_runs(timedelta(seconds=float(sys.argv[1])))
