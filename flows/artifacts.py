"""Show an operator a flow run in Prefect: progress, ledgers, curves, samples, links and a summary.

Everything comes from what jobs print and return and from files of the output; nothing here reads data. Pictures are
carried in the artifact itself, as the browser of an operator reaches neither the folder nor the bucket. An artifact
that Prefect does not take is a warning in the flow run's log: the run goes on, its output is what counts.
"""

from __future__ import annotations

import base64
import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast
from uuid import UUID

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.exceptions import PrefectException
from prefect.logging import get_run_logger

from syllabary.shards import store
from syllabary.shards.errors import JobError, StorageError
from syllabary.workers.control.log import Reached

_EVERY_S = 2.0
_LARGEST_PICTURE = 1 << 20
_MOST_SAMPLES = 40


class ProgressBars:
    """One progress artifact for each stage of a job."""

    def __init__(self) -> None:
        self._bars: dict[str, tuple[UUID, float, str]] = {}

    def tell(self, reached: Reached) -> None:
        """Move the bar of the stage, at most every two seconds."""
        if not reached.total:
            return
        percent = min(100.0, 100 * reached.done / reached.total)
        known = self._bars.get(reached.stage)
        if known and percent < 100 and time.monotonic() - known[1] < _EVERY_S:
            return
        with _kept_going(f"progress of {reached.stage}"):
            self._show(reached.stage, percent, str(reached), known[0] if known else None)

    def finish(self) -> None:
        """Move all bars to their ends: the job has succeeded."""
        for stage, (bar, _, text) in list(self._bars.items()):
            with _kept_going(f"progress of {stage}"):
                self._show(stage, 100.0, text, bar)

    def _show(self, stage: str, percent: float, text: str, bar: UUID | None) -> None:
        description = f"**{stage}** {text}"
        if bar is None:
            bar = cast(UUID, create_progress_artifact(percent, key=key_of(stage, "progress"), description=description))
        else:
            update_progress_artifact(bar, percent, description=description)
        self._bars[stage] = (bar, time.monotonic(), text)


def summary(stage: str, figures: Mapping[str, Any], places: Mapping[str, str]) -> None:
    """Publish a page with the figures of a finished stage and links to what it wrote, and the first link by itself."""
    scalars = {name: value for name, value in figures.items() if not isinstance(value, dict | list | tuple)}
    rows = [f"| {name.replace('_', ' ')} | {_shown(value)} |" for name, value in scalars.items()]
    links = [f"- {name}: [`{uri}`]({link_of(uri)})" for name, uri in places.items()]
    page = "\n".join([f"# {stage}", "", "| what | figure |", "| --- | --- |", *rows, "", *links])
    with _kept_going(f"summary of {stage}"):
        create_markdown_artifact(page, key=key_of(stage, "summary"), description=f"What {stage} did")
    for name, uri in places.items():
        with _kept_going(f"link to {uri}"):
            create_link_artifact(link_of(uri), link_text=uri, key=key_of(stage, name, "link"), description=name)


def ledger(stage: str, rows: list[dict[str, Any]]) -> None:
    """Publish a table of where every second went."""
    with _kept_going(f"ledger of {stage}"):
        create_table_artifact(rows, key=key_of(stage, "ledger"), description="Where every second went")


def reasons(stage: str, failures: list[dict[str, Any]]) -> None:
    """Publish a table of why utterances were quarantined."""
    with _kept_going(f"quarantine of {stage}"):
        create_table_artifact(failures, key=key_of(stage, "quarantine"), description="Why utterances are missing")


def archive_rows(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The totals of an archive as ledger rows that sum to 100 %."""
    total_s = result["tokenized_s"] + result["quarantined_s"]
    return [
        {"status": status, "utterances": result[f"num_{status}"], "seconds": result[f"{status}_s"],
         "percent": round(100 * result[f"{status}_s"] / total_s, 4) if total_s else 0.0}
        for status in ("tokenized", "quarantined")
    ]  # fmt: skip


def picture(stage: str, name: str, uri: str) -> None:
    """Publish a PNG of the output as an image; one that is too large or missing is named instead."""
    with _kept_going(f"picture {uri}"):
        if store.size_bytes(uri) > _LARGEST_PICTURE:
            create_link_artifact(link_of(uri), link_text=uri, key=key_of(stage, name), description="too large to show")
            return
        data = base64.b64encode(store.read_bytes(uri)).decode()
        create_image_artifact(f"data:image/png;base64,{data}", key=key_of(stage, name), description=f"`{uri}`")


def samples(stage: str, folder: str) -> None:
    """Publish links to the sound below ``folder``, and the newest spectrogram there as an image."""
    with _kept_going(f"samples in {folder}"):
        files = store.list_files(folder)
        sound = [file for file in files if file.name.endswith((".flac", ".wav"))]
        rows = [f"| [{f.name}]({link_of(f.uri)}) | {f.size_bytes:,} |" for f in sound[:_MOST_SAMPLES]]
        more = [f"\nand {len(sound) - len(rows):,} more in `{folder}`"] if len(sound) > len(rows) else []
        page = "\n".join([f"# Samples of {stage}", "", "| file | bytes |", "| --- | --- |", *rows, *more])
        create_markdown_artifact(page, key=key_of(stage, "samples"), description="Sound to listen to")
        pictures = [file for file in files if file.name.endswith(".png")]
        if pictures:
            newest = max(pictures, key=lambda f: (f.name.rpartition("/")[2], f.name))
            picture(stage, "spectrogram", newest.uri)


def failure(stage: str, error: JobError) -> None:
    """Publish the error line of a failed job and its last lines."""
    last = "\n".join(error.last_lines)
    page = f"# {stage} failed\n\n{error}\n\n```\n{last}\n```\n"
    with _kept_going(f"failure of {stage}"):
        create_markdown_artifact(page, key=key_of(stage, "failure"), description=str(error))


def link_of(uri: str) -> str:
    """A URI as a link: ``s3://`` as it is, a local folder as ``file://``."""
    return uri if store.is_remote(uri) else store.local_path(uri).as_uri()


def key_of(*parts: str) -> str:
    """An artifact key of Prefect's alphabet: lower case letters, digits and dashes."""
    text = "-".join(parts).lower()
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def _shown(value: Any) -> str:
    match value:
        case bool() | None:
            return str(value)
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.1f}"
        case _:
            return str(value)


@contextlib.contextmanager
def _kept_going(what: str) -> Iterator[None]:
    """Turn what goes wrong with an artifact into a warning: the run goes on."""
    try:
        yield
    except (PrefectException, httpx.HTTPError, StorageError) as error:
        get_run_logger().warning("%s could not be shown in Prefect: %s", what, error)
