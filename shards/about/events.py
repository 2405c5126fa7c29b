"""The log of fixity checks, in the terms of PREMIS 3 (Library of Congress): who looked when, and what came of it.

One file an event below ``events/``, so that two writers lose nothing and an object store need not append. Names sort
by time. This is the only place where a folder holds a time.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from syllabary.shards import store
from syllabary.shards.errors import FormatError
from syllabary.shards.store import Folder

FOLDER = "events"
FIXITY_CHECK = "fixity check"
_EVENT_TYPES = {FIXITY_CHECK: "http://id.loc.gov/vocabulary/preservation/eventType/fix"}
_MOST_NOTES = 100


def record_event(
    uri: str, event_type: str, outcome: str, detail: str, notes: tuple[str, ...] = (), when: datetime | None = None
) -> str:
    """Write an event of the folder ``uri``; returns the name of its file.

    Args:
        uri: of the folder that the event concerns.
        event_type: a term of the preservation vocabulary, ``fixity check``.
        outcome: ``pass`` or ``fail``.
        detail: what was done.
        notes: what was found, the first hundred.
        when: now where None.

    Raises:
        StorageError: the folder does not take it.
    """
    when = (when or datetime.now(UTC)).astimezone(UTC)
    stamp = when.strftime("%Y%m%dT%H%M%S.%fZ")
    shown = notes[:_MOST_NOTES]
    more = [f"and {len(notes) - len(shown)} more"] if len(notes) > len(shown) else []
    event: dict[str, Any] = {
        "eventIdentifier": {"eventIdentifierType": "local", "eventIdentifierValue": f"{stamp} {event_type}"},
        "eventType": {"value": event_type, "valueURI": _EVENT_TYPES[event_type]},
        "eventDateTime": when.isoformat(timespec="microseconds"),
        "eventDetailInformation": [{"eventDetail": detail}],
        "eventOutcomeInformation": [
            {
                "eventOutcome": outcome,
                "eventOutcomeDetail": [{"eventOutcomeDetailNote": note} for note in (*shown, *more)],
            }
        ],
        "linkingAgentIdentifier": [
            {
                "linkingAgentIdentifierType": "software",
                "linkingAgentIdentifierValue": f"syllabary {version('syllabary')}",
                "linkingAgentRole": ["executing program"],
            }
        ],
    }
    name = f"{FOLDER}/{stamp}-{event_type.replace(' ', '-')}.json"
    Folder(uri).publish_json(name, event)
    return name


def read_events(uri: str) -> Iterator[dict[str, Any]]:
    """The events of a folder, oldest first. Raises FormatError: one does not parse."""
    for entry in (Folder(uri) / FOLDER).list(suffix=".json"):
        try:
            yield json.loads(store.read_bytes(entry.uri))
        except ValueError as error:
            raise FormatError("an event does not parse", value=entry.uri) from error
