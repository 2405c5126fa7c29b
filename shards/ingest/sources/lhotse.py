"""Lhotse's manifests: cuts, or recordings with the supervisions beside them, plain or gzip.

A cut is a recording of ours; one with several speakers becomes one for each supervision, so that a speaker stays on one
side of the split. Lhotse's ids are kept in ``extra``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from syllabary.shards import store
from syllabary.shards.errors import InputError, StorageError
from syllabary.shards.ingest.sources.lines import Line, name_value, seconds_value
from syllabary.shards.ingest.sources.text import json_objects

_TOLERANCE_S = 1e-3
_TYPED = {"id", "recording_id", "start", "duration", "channel", "text", "language", "speaker", "gender", "custom"}


def is_lhotse(values: Mapping[str, Any]) -> bool:
    """Whether a JSON object is a cut, a recording or a supervision of Lhotse's."""
    if values.get("type") in ("MonoCut", "MultiCut", "MixedCut", "PaddingCut", "Cut"):
        return True
    return "sources" in values or ("supervisions" in values and "start" in values) or _is_supervision(values)


def lhotse_lines(uri: str, notes: list[str]) -> Iterator[Line]:
    """The lines of a cut set, a recording set, or a supervision set.

    Args:
        uri: of the manifest; the other half of recordings and supervisions is looked for beside it.
        notes: gets a line for what no supervision covers.

    Raises:
        InputError: audio that is no file, a kind of cut that has no audio of its own, or a missing half.
        StorageError: it cannot be read.
    """
    first = next(json_objects(uri), (0, {}))[1]
    if "sources" in first and "supervisions" not in first:
        return _pairs(uri, _beside(uri, "recordings", "supervisions"), notes)
    if _is_supervision(first):
        recordings = _beside(uri, "supervisions", "recordings")
        if recordings is None:
            raise InputError("supervisions without recordings", value=uri, fix="put the recordings beside them")
        return _pairs(recordings, uri, notes)
    return _cuts(uri)


def _is_supervision(values: Mapping[str, Any]) -> bool:
    return {"recording_id", "start", "duration"} <= set(values) and "sources" not in values and "path" not in values


def _beside(uri: str, own: str, other: str) -> str | None:
    folder, _, name = uri.rpartition("/")
    if own not in name:
        return None
    wanted = name.replace(own, other)
    stem = wanted.removesuffix(".gz")
    for candidate in (wanted, stem, stem + ".gz"):
        beside = f"{folder}/{candidate}" if folder else candidate
        try:
            store.file_entry(beside)
        except StorageError:
            continue
        return beside
    return None


def _cuts(uri: str) -> Iterator[Line]:
    for number, cut in json_objects(uri):
        where = f"{uri} line {number}"
        recording = cut.get("recording")
        if not isinstance(recording, dict):
            what = f"{where}: a {cut.get('type', 'cut')} without a recording"
            raise InputError(what, fix="export mixed and padded cuts as audio first, or cuts with their recordings")
        supervisions = [own for own in cut.get("supervisions") or [] if isinstance(own, dict)]
        speakers = {own.get("speaker") for own in supervisions}
        start = _seconds(cut, "start", where)
        if len(speakers) > 1:
            for own in supervisions:
                yield _line(recording, cut, [own], start + _seconds(own, "start", where), own, number, where)
        else:
            yield _line(recording, cut, supervisions, start, cut, number, where)


def _pairs(recordings_uri: str, supervisions_uri: str | None, notes: list[str]) -> Iterator[Line]:
    recordings = {str(own.get("id")): (number, own) for number, own in json_objects(recordings_uri)}
    if supervisions_uri is None:
        for number, recording in recordings.values():
            where = f"{recordings_uri} line {number}"
            yield _line(recording, recording, [], 0.0, recording, number, where)
        return
    covered = dict.fromkeys(recordings, 0.0)
    for number, own in json_objects(supervisions_uri):
        where = f"{supervisions_uri} line {number}"
        name = str(own.get("recording_id"))
        if name not in recordings:
            raise InputError(f"{where}: no such recording", value=name, fix=f"see {recordings_uri}")
        covered[name] += _seconds(own, "duration", where)
        yield _line(recordings[name][1], own, [own], _seconds(own, "start", where), own, number, where)
    total = sum(_seconds(own, "duration", recordings_uri) for _, own in recordings.values())
    if total > sum(covered.values()) + 1:
        notes.append(f"{total - sum(covered.values()):,.1f} s of the recordings are in no supervision and left out")


def _line(
    recording: Mapping[str, Any],
    cut: Mapping[str, Any],
    supervisions: list[dict[str, Any]],
    start_s: float,
    span: Mapping[str, Any],
    number: int,
    where: str,
) -> Line:
    duration_s, total_s = _seconds(span, "duration", where), _seconds(recording, "duration", where)
    whole = start_s < _TOLERANCE_S and abs(duration_s - total_s) <= _TOLERANCE_S
    path, channels = _audio(recording, where)
    said = {name: _joined(supervisions, name, where) for name in ("speaker", "language", "gender", "text")}
    extra: dict[str, Any] = {"id": cut.get("id"), "recording_id": recording.get("id")}
    for own in (cut, *supervisions):
        custom = own.get("custom")
        extra |= custom if isinstance(custom, dict) else {}
    if len(supervisions) == 1:
        extra |= {key: value for key, value in supervisions[0].items() if key not in _TYPED}
    return Line(
        number, path, **said, channel=_channel(span.get("channel"), channels), extra=extra,
        start_s=None if whole else start_s, end_s=None if whole else start_s + duration_s,
        duration_s=total_s if whole else None,
    )  # fmt: skip


def _seconds(values: Mapping[str, Any], name: str, where: str) -> float:
    seconds = seconds_value(values.get(name, 0.0), f"{where}: {name}")
    return seconds or 0.0


def _joined(supervisions: list[dict[str, Any]], name: str, where: str) -> str | None:
    """Join the supervisions of a cut: texts in order, of the rest the value that they agree on."""
    values = [name_value(own.get(name), f"{where}: {name}") for own in supervisions]
    given = [value for value in values if value]
    if name == "text":
        return " ".join(given) or None
    return given[0] if len(set(given)) == 1 else None


def _audio(recording: Mapping[str, Any], where: str) -> tuple[str, int]:
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], dict):
        raise InputError(f"{where}: a recording of several files, or of none", fix="export it as one file first")
    kind, source = sources[0].get("type"), sources[0].get("source")
    if kind not in ("file", "url") or not isinstance(source, str) or not source:
        what = f"{where}: audio of type {kind!r} is not run or unpacked here"
        raise InputError(what, expected="a file", fix="export the recordings as files first")
    channels = sources[0].get("channels")
    return source, len(channels) if isinstance(channels, list) else 1


def _channel(channel: Any, num_channels: int) -> int | None:
    """The one channel that is meant, where the file has others."""
    if isinstance(channel, list):
        channel = channel[0] if len(channel) == 1 else None
    return channel if isinstance(channel, int) and num_channels > 1 else None
