"""Artifacts of flow runs: what is shown, and that Prefect refusing one never stops a run.

That real flow runs leave them in a real Prefect server is part of the pipeline's own test.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest

from syllabary.flows import artifacts
from syllabary.workers.control.log import Reached


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """What would be sent to Prefect: (kind, content, keywords)."""
    sent: list[tuple[str, Any, dict[str, Any]]] = []

    def recorder(kind: str) -> Any:
        def send(content: Any, progress: float | None = None, **keywords: Any) -> UUID:
            sent.append((kind, content if progress is None else progress, keywords))
            return uuid4()

        return send

    for name in ("create_image", "create_link", "create_markdown", "create_progress", "create_table"):
        monkeypatch.setattr(artifacts, f"{name}_artifact", recorder(name.removeprefix("create_")))
    monkeypatch.setattr(artifacts, "update_progress_artifact", recorder("update"))
    monkeypatch.setattr(artifacts, "get_run_logger", lambda: logging.getLogger("test"))
    return sent


def test_a_bar_per_stage_moves_with_the_events_and_ends_full(shown: list) -> None:
    bars = artifacts.ProgressBars()
    for reached in (
        Reached("tokenize", "s of audio", 60, 240, note="1/3 shards"),
        Reached("tokenize", "s of audio", 120, 240, note="2/3 shards"),  # within two seconds: not sent
        Reached("restore", "utterances", 8, 8),
    ):
        bars.tell(reached)
    bars.finish()
    assert [(kind, percent) for kind, percent, _ in shown] == [
        ("progress", 25.0), ("progress", 100.0), ("update", 100.0), ("update", 100.0)
    ]  # fmt: skip
    assert shown[0][2]["key"] == "tokenize-progress" and "1/3 shards" in shown[0][2]["description"]


def test_a_total_of_nothing_is_no_division(shown: list) -> None:
    artifacts.ProgressBars().tell(Reached("tokenize", "s of audio", 0, 0))
    assert shown == []


def test_a_summary_has_scalars_and_links(shown: list, tmp_path: Path) -> None:
    figures = {"num_parts": 12_345, "share": 0.25, "size": 123_456.7, "whole": True, "ledger": [1], "best": None}
    artifacts.summary("tokenize", figures, {"archive": "s3://b/a", "folder": str(tmp_path)})
    page = shown[0][1]
    for line in ("| num parts | 12,345 |", "| share | 0.25 |", "| size | 123,456.7 |", "| whole | True |"):
        assert line in page
    assert "ledger" not in page and "- archive: [`s3://b/a`](s3://b/a)" in page
    assert [content for kind, content, _ in shown if kind == "link"] == ["s3://b/a", tmp_path.as_uri()]


def test_archive_rows_sum_to_the_whole() -> None:
    rows = artifacts.archive_rows(
        {"num_tokenized": 3, "num_quarantined": 1, "tokenized_s": 9.0, "quarantined_s": 1.0, "num_parts": 2}
    )
    assert [(row["status"], row["percent"]) for row in rows] == [("tokenized", 90.0), ("quarantined", 10.0)]


def test_a_picture_travels_in_the_artifact_unless_too_large(shown: list, tmp_path: Path) -> None:
    (tmp_path / "small.png").write_bytes(b"\x89PNG")
    (tmp_path / "large.png").write_bytes(bytes(2 << 20))
    artifacts.picture("pretrain", "loss", str(tmp_path / "small.png"))
    artifacts.picture("pretrain", "loss", str(tmp_path / "large.png"))
    assert [kind for kind, _, _ in shown] == ["image", "link"]
    assert shown[0][1] == "data:image/png;base64,iVBORw=="


def test_samples_are_links_and_the_newest_spectrogram(shown: list, tmp_path: Path) -> None:
    for step in (0, 30):
        for end in ("flac", "png"):
            path = tmp_path / "clip-0" / f"step-{step:08}.{end}"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(b"x")
    artifacts.samples("train-codec", str(tmp_path))
    assert shown[0][1].count("](file://") == 2
    assert "step-00000030.png" in shown[1][2]["description"]


@pytest.mark.parametrize("error", [httpx.ConnectError("away"), httpx.ReadTimeout("slow")])
def test_a_server_that_is_away_is_a_warning(
    error: Exception, shown: list, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    for name in ("create_table_artifact", "create_progress_artifact"):
        monkeypatch.setattr(artifacts, name, fail)
    artifacts.ledger("shard", [])
    artifacts.ProgressBars().tell(Reached("tokenize", "s of audio", 60, 240, rate=12.0))
    assert caplog.text.count("could not be shown in Prefect") == 2


def test_a_picture_that_is_gone_is_a_warning(shown: list, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    artifacts.picture("pretrain", "loss", str(tmp_path / "absent.png"))
    assert shown == [] and "absent.png" in caplog.text


@pytest.mark.parametrize(("parts", "key"), [(("write_shards", "failure"), "write-shards-failure"), (("Ä b",), "--b")])
def test_keys_are_of_prefects_alphabet(parts: tuple[str, ...], key: str) -> None:
    assert artifacts.key_of(*parts) == key
