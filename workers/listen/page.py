"""The application behind the page: what it asks for by ids that are looked up, never by paths.

Everything a request names (an id, a word, a take) is compared with what the archive holds; the files that are served
stand in a table.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import anyio
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from syllabary.shards.errors import (
    DamageError,
    FormatError,
    InputError,
    NotFoundError,
    SyllabaryError,
    UnavailableError,
)
from syllabary.workers.listen.catalogue import Catalogue, Query, Row
from syllabary.workers.listen.clips import HEADER_BYTES, Clip, payload_bits
from syllabary.workers.listen.guard import Guard
from syllabary.workers.listen.takes import RESTORED, Take
from syllabary.workers.listen.trying import MOST_BYTES, MOST_S, Tries
from syllabary.workers.report import page as report_page

ASSETS = Path(__file__).parent / "assets"
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_SERVED = {path.name: path for path in (*ASSETS.iterdir(), report_page.ASSETS / "page.css") if path.suffix in _TYPES}
MOST_ROWS = 200
MOST_NAME = 100
_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_STATUS: tuple[tuple[type[SyllabaryError], int], ...] = (
    (NotFoundError, 404), (UnavailableError, 503), (DamageError, 500), (FormatError, 415), (InputError, 400),
)  # fmt: skip


@dataclass(frozen=True)
class Shown:
    """What the page is of.

    Attributes:
        title: of the archive.
        catalogue: its rows.
        takes: what can be heard of a row, by name.
        tries: what somebody says into the page; None without a tokenizer.
        tokenizer: its URI, for people; empty where there is none.
        missing: what to do about that, in one line.
    """

    title: str
    catalogue: Catalogue
    takes: dict[str, Take]
    tries: Tries | None
    tokenizer: str
    missing: str

    def clip(self, asked: Request, *, with_tokens: bool = False) -> Clip:
        """The clip that a request names: an utterance, a time range of a recording, or a try.

        ``with_tokens`` reads those of all its rows at once; otherwise each row's are read when it is to be heard.

        Raises:
            NotFoundError: the archive has no such thing.
            InputError: nothing is named, or a number is none.
        """
        values = asked.query_params
        if "try" in values:
            if self.tries is None:
                raise NotFoundError(self.missing)
            return self.tries.clip(values["try"])
        snapshot = self.catalogue.newest()
        if "id" in values:
            row = snapshot.utterance(values["id"])
            start = row["start_sample"]
            return self._clip(row["utterance_id"], [row], start, start + row["num_samples"], with_tokens)
        if "recording" not in values:
            raise InputError("nothing is asked for", expected="id, recording or try")
        rows = snapshot.recording(values["recording"])
        rate = rows[0]["sample_rate"]
        if {row["sample_rate"] for row in rows} != {rate}:
            raise InputError("a recording of several rates", value=values["recording"][:200])
        start = round(number(asked, "start", 0.0) * rate)
        last = max(row["start_sample"] + row["num_samples"] for row in rows)
        stop = min(round(number(asked, "end", last / rate) * rate), last)
        if start >= stop:
            raise InputError("no time range", value=f"{start / rate} to {stop / rate} s", expected="start before end")
        within = [r for r in rows if r["start_sample"] < stop and r["start_sample"] + r["num_samples"] > start]
        return self._clip(values["recording"], within, start, stop, with_tokens, rate)

    def _clip(
        self, title: str, rows: list[Row], start: int, stop: int, with_tokens: bool, rate: int | None = None
    ) -> Clip:
        rate = rate or rows[0]["sample_rate"]
        rows = self.catalogue.tokens(rows) if with_tokens else rows
        return Clip(title, rows, start, stop, rate, self.catalogue.reader.format, self.takes)


def application(shown: Shown) -> Guard:
    """The page as an ASGI application, guarded."""

    def route(path: str, answer: Callable[[Shown, Request], Response]) -> Route:
        def endpoint(request: Request) -> Response:  # no coroutine: starlette runs it in a thread
            return answer(shown, request)

        return Route(path, endpoint, methods=["GET"])

    async def add_try(request: Request) -> Response:
        if shown.tries is None:
            raise NotFoundError(shown.missing)
        data = await _body(request)
        name = request.query_params.get("name", "")[:MOST_NAME] or "recording"
        return JSONResponse({"try": await run_in_threadpool(shown.tries.add, data, name)})

    routes = [
        route("/", _page), route("/assets/{name}", _asset), route("/api/archive", _archive),
        route("/api/utterances", _utterances), route("/api/groups", _groups), route("/api/clip", _clip),
        route("/api/frame", _frame), route("/sound", _sound), route("/picture", _picture), route("/saved", _saved),
        Route("/api/try", add_try, methods=["POST"]),
    ]  # fmt: skip
    return Guard(Starlette(routes=routes, exception_handlers={SyllabaryError: _told}))


def _told(_: Request, error: Exception) -> Response:
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 500)
    return JSONResponse({"error": str(error)}, status)


def number(request: Request, name: str, default: float | None = None) -> float:
    """A number of a request, finite and not below 0. Raises InputError."""
    text = request.query_params.get(name)
    if text is None and default is not None:
        return default
    try:
        value = float(text or "")
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e12:
        raise InputError(f"{name} is no number", value=(text or "")[:40], expected="0 or more")
    return value


async def _body(request: Request) -> bytes:
    """What is sent, as long as it is not too much: nobody can fill the memory."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > MOST_BYTES:
            raise InputError("too large to try", expected=f"at most {MOST_BYTES >> 20} MiB")
        await anyio.lowlevel.checkpoint()
    return bytes(data)


def _page(shown: Shown, _: Request) -> Response:
    form = shown.catalogue.reader.format
    frame_rate = form.model_sample_rate / form.hop_length
    page = report_page.template("listen.html", ASSETS).render(
        title=shown.title,
        bits_per_s=payload_bits(form.packing) * frame_rate,
        can_hear=RESTORED in shown.takes,
        missing=shown.missing,
        most_s=MOST_S,
        most_mb=MOST_BYTES >> 20,
    )
    return HTMLResponse(page)


def _asset(_: Shown, request: Request) -> Response:
    path = _SERVED.get(request.path_params["name"])
    if path is None:
        raise NotFoundError("no such file", value=request.path_params["name"][:80])
    return Response(path.read_bytes(), media_type=_TYPES[path.suffix])


def _archive(shown: Shown, _: Request) -> Response:
    snapshot = shown.catalogue.newest()
    recordings = snapshot.groups(Query(), "recording_id")
    form = shown.catalogue.reader.format
    told = {
        "title": shown.title,
        "version": snapshot.version,
        "faults": list(snapshot.faults),
        "num_utterances": len(snapshot.rows),
        "num_recordings": len(recordings),
        "num_speakers": len(snapshot.groups(Query(), "speaker")),
        "duration_s": sum(recordings["duration_s"].to_pylist()),
        "size_bytes": snapshot.size_bytes,
        "payload_bits_per_s": payload_bits(form.packing) * form.model_sample_rate / form.hop_length,
        "columns": [*(n for n in snapshot.rows.column_names if n != "shard"), "start_s", "end_s", "duration_s"],
        "takes": sorted(shown.takes),
        "tokenizer": shown.tokenizer,
        "missing": shown.missing,
    }
    return JSONResponse(told)


def _query(request: Request) -> Query:
    values = request.query_params
    return Query(values.get("words", ""), values.get("where", ""), values.get("speaker"), values.get("recording"))


def _window(request: Request) -> tuple[int, int]:
    return int(number(request, "offset", 0)), min(int(number(request, "limit", 50)), MOST_ROWS)


def _utterances(shown: Shown, request: Request) -> Response:
    snapshot = shown.catalogue.newest()
    matches, (offset, limit) = snapshot.find(_query(request)), _window(request)
    bits = payload_bits(shown.catalogue.reader.format.packing)
    rows = [
        {
            "id": row["utterance_id"],
            "recording": row["recording_id"],
            "speaker": row["speaker"],
            "text": row.get("text"),
            "start_s": row["start_sample"] / row["sample_rate"],
            "duration_s": row["num_samples"] / row["sample_rate"],
            "bytes": -(-int(row["num_frames"] * bits) // 8),
        }
        for row in matches.slice(offset, limit).to_pylist()
    ]
    return JSONResponse({"version": snapshot.version, "total": len(matches), "offset": offset, "rows": rows})


def _groups(shown: Shown, request: Request) -> Response:
    """Recordings or speakers of what is looked for."""
    names = {"recordings": "recording_id", "speakers": "speaker"}
    by = request.query_params.get("by", "")
    if by not in names:
        raise InputError("grouped by", value=by[:40], expected=", ".join(names))
    snapshot = shown.catalogue.newest()
    groups, (offset, limit) = snapshot.groups(_query(request), names[by]), _window(request)
    bits = payload_bits(shown.catalogue.reader.format.packing)
    rows = [
        {
            "id": row[names[by]],
            "speaker": row["of_speaker"],
            "count": row["count"],
            "duration_s": row["duration_s"],
            "bytes": -(-int(row["frames"] * bits) // 8),
        }
        for row in groups.slice(offset, limit).to_pylist()
    ]
    return JSONResponse({"version": snapshot.version, "total": len(groups), "offset": offset, "rows": rows})


def _clip(shown: Shown, request: Request) -> Response:
    return JSONResponse(shown.clip(request, with_tokens=True).told())


def _frame(shown: Shown, request: Request) -> Response:
    return JSONResponse({"frame": shown.clip(request, with_tokens=True).frame(number(request, "at"))})


def _sound(shown: Shown, request: Request) -> Response:
    """A take as WAV, or the range of it that is asked for."""
    clip, take = shown.clip(request), _take(request)
    size = clip.size_bytes
    headers = {"accept-ranges": "bytes"}
    start, stop, status = 0, size, 200
    if asked := _RANGE.fullmatch(request.headers.get("range", "")):
        first, last = asked.groups()
        start = int(first) if first else max(size - int(last or 0), 0)
        stop = min(int(last) + 1, size) if first and last else size
        if start >= stop:
            return Response(status_code=416, headers=headers | {"content-range": f"bytes */{size}"})
        status, headers["content-range"] = 206, f"bytes {start}-{stop - 1}/{size}"
    headers["content-length"] = str(stop - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="audio/wav")
    parts = _begun(clip.wav(take, start, stop), 2 if start < HEADER_BYTES else 1)
    return StreamingResponse(parts, status, headers, "audio/wav")


def _begun(parts: Iterator[bytes], count: int) -> Iterator[bytes]:
    """The parts, the first ``count`` made at once (a header, a sound): what is wrong can still be told."""
    first = list(itertools.islice(parts, count))

    def all_of_them() -> Iterator[bytes]:
        yield from first
        yield from parts

    return all_of_them()


def _picture(shown: Shown, request: Request) -> Response:
    clip = shown.clip(request)
    window = number(request, "from", 0.0), number(request, "to", clip.duration_s)
    return Response(clip.picture(_take(request), *window), media_type="image/png")


def _saved(shown: Shown, request: Request) -> Response:
    """A take as a FLAC file to keep."""
    clip, take = shown.clip(request), _take(request)
    name = re.sub(r"[^\w.@-]+", "_", clip.title)[-80:].strip("._") or "clip"
    disposition = f"attachment; filename*=UTF-8''{quote(name)}.{take}.flac"
    return Response(clip.flac(take), media_type="audio/flac", headers={"content-disposition": disposition})


def _take(request: Request) -> str:
    return request.query_params.get("take", RESTORED)
