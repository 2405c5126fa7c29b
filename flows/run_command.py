"""``syllabary run``: the pipeline flow on this machine; with a Prefect server of its own unless one is configured."""

from __future__ import annotations

import os
import time

from syllabary.shards import outputs, store
from syllabary.shards.errors import refuse_keys
from syllabary.workers.control.extras import require_extras
from syllabary.workers.control.jobs import PipelineParameters
from syllabary.workers.control.log import emit
from syllabary.workers.control.run_layout import PipelineLayout, claim_run, is_done
from syllabary.workers.recipes.named import resolve

_PREFECT = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the job's own lines are echoed instead
    "SYLLABARY_ECHO": "1",
}


def run_command(parameters: PipelineParameters) -> None:
    """Run the pipeline unless it is complete, and print where everything is.

    Raises:
        SyllabaryError: whatever stops the run, in one line.
    """
    require_extras(("flows",), "run")
    layout, source = PipelineLayout(store.normalize(parameters.out)), parameters.source
    refuse_keys(source or "")  # before Prefect stores it among the parameters of a flow run
    wanted = resolve(parameters.recipe, config_uri=parameters.config, overrides=parameters.overrides)
    init = parameters.begins_with
    if is_done(layout, source, wanted, init):
        _say(f"nothing to do: {parameters.out} is complete")
    else:
        claim_run(layout, source, wanted, init)  # what the flow would refuse is refused before Prefect has started
        _run_flow(parameters)
    _say_where(layout)


def _run_flow(parameters: PipelineParameters) -> None:
    started = time.monotonic()
    for key, value in _PREFECT.items():
        os.environ.setdefault(key, value)
    _say("starts Prefect")
    from syllabary.flows.local_server import prefect_server

    with prefect_server() as url:
        from syllabary.flows.run_pipeline import run_pipeline

        _say(f"flow runs are recorded at {url}")
        run_pipeline(**parameters.model_dump())
    _say(f"done in {time.monotonic() - started:.0f} s")


def _say_where(layout: PipelineLayout) -> None:
    done = outputs.read_done(layout.root) or {}
    for name, figure in done.get("headline", {}).items():
        _say(f"  {name:<22} {figure}")
    pages = (("summary", store.join(layout.root, "summary.md")), ("listen", store.join(layout.root, "summary.html")))
    for name, uri in (*layout.stages().items(), *pages):
        _say(f"  {name:<22} {uri}")


def _say(text: str) -> None:
    emit("run", text)
