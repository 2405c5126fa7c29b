"""Transcripts of utterances: a table of transcripts matched to an index of utterances.

The table is tab-separated with a header. Either it has the columns ``utterance_id`` and ``text``; or ``path`` (the
recording, as the index's ``source``), ``start_sec``, ``end_sec`` and ``text``, one row a stretch of the recording.
Then an utterance has a transcript when every stretch that it touches lies within it: half a word is no reference.
"""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from syllabary.shards import store
from syllabary.shards.errors import FormatError

# Utterances are cut at pauses, stretches often somewhere in them: so much may stick out, so much is no touch.
_MARGIN_S, _TOUCH_S = 0.6, 0.3
_BY_ID, _BY_TIME = {"utterance_id", "text"}, {"path", "start_sec", "end_sec", "text"}


@dataclass(frozen=True)
class Stretch:
    """Seconds ``start_s`` .. ``end_s`` of a recording and what is said in them."""

    start_s: float
    end_s: float
    text: str


def read_transcripts(uri: str, rows: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Read the transcript of each utterance of the index ``rows`` that has one, by utterance_id.

    Raises:
        NotFoundError: no such table.
        FormatError: not a table of transcripts.
    """
    table = _read_table(uri)
    if set(table[0]) >= _BY_ID:
        texts = {row["utterance_id"]: row["text"] for row in table}
        return {row["utterance_id"]: texts[row["utterance_id"]] for row in rows if texts.get(row["utterance_id"])}
    stretches = _by_recording(uri, table)
    transcripts = {row["utterance_id"]: _within(row, stretches.get(row["source"], [])) for row in rows}
    return {utterance_id: text for utterance_id, text in transcripts.items() if text}


def _read_table(uri: str) -> list[dict[str, str]]:
    try:
        text = store.read_bytes(uri).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError("transcripts are not UTF-8", value=uri) from error
    table = list(csv.DictReader(io.StringIO(text), delimiter="\t", quoting=csv.QUOTE_NONE))
    columns = set(table[0]) if table else set()
    if not (columns >= _BY_ID or columns >= _BY_TIME):
        expected = "tab-separated columns utterance_id, text or path, start_sec, end_sec, text"
        raise FormatError(f"not a table of transcripts: {uri}", value=sorted(map(str, columns)), expected=expected)
    return table


def _by_recording(uri: str, table: list[dict[str, str]]) -> dict[str, list[Stretch]]:
    stretches: dict[str, list[Stretch]] = defaultdict(list)
    for number, row in enumerate(table, start=2):
        try:
            stretches[row["path"]].append(Stretch(float(row["start_sec"]), float(row["end_sec"]), row["text"] or ""))
        except (TypeError, ValueError) as error:
            raise FormatError(f"line {number} of {uri}", value=row, expected="seconds and text") from error
    return {path: sorted(own, key=lambda stretch: stretch.start_s) for path, own in stretches.items()}


def _within(row: Mapping[str, Any], stretches: list[Stretch]) -> str:
    start = row["start_sample"] / row["sample_rate"]
    end = start + row["num_samples"] / row["sample_rate"]
    touched = [s for s in stretches if min(end, s.end_s) - max(start, s.start_s) > _TOUCH_S]
    if any(s.start_s < start - _MARGIN_S or s.end_s > end + _MARGIN_S for s in touched):
        return ""
    return " ".join(s.text for s in touched).strip()
