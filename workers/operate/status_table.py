"""The status of one output, and the table of several: plain text, or with colours on a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from syllabary.shards.store import Folder

COMPLETE, UNFINISHED, DAMAGED = "complete", "unfinished", "damaged"
_MOST_FAILURES = 20
_STYLES = {COMPLETE: "green", UNFINISHED: "yellow", DAMAGED: "red"}

# What to run next, by what a folder holds; {uri} is its own, a word of capitals is for the reader to fill in.
_AFTER_COMPLETE = {
    "shards": "tokenize --shards {uri} --tokenizer builtin:speech16k --archive ARCHIVE",
    "pretrain": "train-codec --shards SHARDS --encoder {uri} --out OUT",
    "codec": "export --codec {uri} --out TOKENIZER",
    "tokenizer": "tokenize --shards SHARDS --tokenizer {uri} --archive ARCHIVE",
    "archive": "verify --archive {uri}",
    "packed": "lm-train --blocks {uri} --out OUT",
    "language_model": "lm-eval --model {uri}/model --blocks BLOCKS",
    "run": "listen {uri}/archive",
}
_AGAIN = {
    "shards": "shard SOURCE --out {uri}",
    "pretrain": "pretrain --shards SHARDS --out {uri}",
    "codec": "train-codec --shards SHARDS --encoder PRETRAIN --out {uri}",
    "tokenizer": "export --codec CODEC --out {uri}",
    "archive": "tokenize --shards SHARDS --tokenizer TOKENIZER --archive {uri}",
    "restored": "restore --archive ARCHIVE --tokenizer TOKENIZER --out {uri}",
    "evaluation": "evaluate --tokenizer TOKENIZER --shards SHARDS --out {uri}",
    "packed": "pack --archive ARCHIVE --out {uri}",
    "language_model": "lm-train --blocks BLOCKS --out {uri}",
    "run": "run SOURCE --out {uri}",
}
_LOOK_AT = {"restored": "listen to {uri}/audio", "evaluation": "open {uri}/report.html"}


@dataclass(frozen=True)
class Failure:
    """A reason for which items of an output failed: how many, and their seconds where known."""

    reason: str
    count: int
    duration_s: float | None = None

    def __str__(self) -> str:
        span = f", {_clock(self.duration_s)}" if self.duration_s is not None else ""
        return f"failed: {self.count:,} x {self.reason}{span}"


@dataclass(frozen=True)
class Status:
    """The status of one folder.

    Attributes:
        uri: of the folder.
        holds: the kind of output.
        state: complete, unfinished or damaged.
        progress: how far it is, in words.
        done, total: the same in numbers of ``unit``, where known.
        duration_s: of the audio in it, where it has any.
        size_bytes: of all its files.
        failures: what failed, most frequent first.
        next_step: what to do with it next; empty where there is nothing to do.
    """

    uri: str
    holds: str
    state: str = UNFINISHED
    progress: str = ""
    done: int | None = None
    total: int | None = None
    unit: str = ""
    duration_s: float | None = None
    size_bytes: int = 0
    failures: tuple[Failure, ...] = ()
    next_step: str = ""

    @property
    def folder(self) -> Folder:
        """The folder as a value to read from."""
        return Folder(self.uri)

    @classmethod
    def read(cls, values: Mapping[str, Any]) -> Status:
        """Read from its dictionary."""
        return cls(**{**values, "failures": tuple(Failure(**one) for one in values["failures"])})


def next_step(status: Status, run: Status | None = None) -> str:
    """What to do next with an output; ``run`` is the pipeline run whose stage it is, which continues by itself."""
    uri = shlex.quote(status.uri)
    if status.state == DAMAGED:
        check = f"syllabary verify --archive {uri} names what; " if status.holds == "archive" else ""
        return f"{check}put a copy of what is damaged there, or delete the folder and make it anew"
    if status.state == UNFINISHED:
        again = _AGAIN.get(status.holds) if run is None else None
        return f"syllabary {again.format(uri=uri)}, as before: it goes on" if again else ""
    if status.holds in _LOOK_AT:
        return _LOOK_AT[status.holds].format(uri=uri)
    used_by_the_run = run is not None and status.holds in ("shards", "pretrain", "codec")
    after = None if used_by_the_run else _AFTER_COMPLETE.get(status.holds)
    return f"syllabary {after.format(uri=uri)}" if after else ""


def as_table(statuses: Sequence[Status]) -> str:
    """One line per output, and below it the reasons of failures and what to do next."""
    names = _names(statuses)
    width = max(len(name) for name in (*names, "output"))
    lines = [f"{'output':<{width}}  {'holds':<10} {'state':<10} {'audio':>12} {'bytes':>17}  progress"]
    for name, one in zip(names, statuses, strict=True):
        line = (
            f"{name:<{width}}  {one.holds:<10} {one.state:<10} {_audio(one):>12} {one.size_bytes:>17,}  {one.progress}"
        )
        lines.append(line.rstrip())
        lines.extend(f"{'':<{width}}  {failed}" for failed in _failed(one))
        if one.next_step:
            lines.append(f"{'':<{width}}  next: {one.next_step}")
    return "\n".join(lines)


def print_table(statuses: Sequence[Status]) -> None:
    """Print the table on a terminal, as wide as it is."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
    for title in ("output", "holds", "state"):
        table.add_column(title, overflow="fold")
    for title in ("audio", "bytes"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("progress", "next"):
        table.add_column(title, overflow="fold", ratio=1)
    for name, one in zip(_names(statuses), statuses, strict=True):
        progress = Text("\n".join([one.progress] if one.progress else []))
        for failed in _failed(one):
            progress.append(("\n" if progress else "") + failed, style="red")
        state = Text(one.state, style=_STYLES[one.state])
        size = Text(f"{one.size_bytes:,}")
        table.add_row(Text(name), Text(one.holds), state, Text(_audio(one)), size, progress, Text(one.next_step))
    Console().print(table)


def _names(statuses: Sequence[Status]) -> list[str]:
    root = statuses[0].uri
    return [root, *(f"  {one.uri[len(root) + 1 :]}" for one in statuses[1:])]


def _audio(one: Status) -> str:
    return _clock(one.duration_s) if one.duration_s is not None else "-"


def _failed(one: Status) -> Iterator[str]:
    yield from map(str, one.failures[:_MOST_FAILURES])
    if (more := len(one.failures) - _MOST_FAILURES) > 0:
        yield f"failed: {more:,} other reasons; --json has them all"


def _clock(seconds: float) -> str:
    """Hours, minutes, seconds."""
    whole = round(seconds)
    return f"{whole // 3600:,}:{whole % 3600 // 60:02}:{whole % 60:02}"
