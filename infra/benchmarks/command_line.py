"""Command lines of the benchmarks: their help is their docstring, and a user's mistake is one line with exit code 2."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from syllabary.shards.errors import InputError, SyllabaryError


class Parser(argparse.ArgumentParser):
    """Parses a benchmark's arguments; its help is the benchmark's docstring with the defaults."""

    def __init__(self, doc: str | None) -> None:
        super().__init__(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)

    def error(self, message: str) -> NoReturn:
        """End with one line instead of argparse's usage and a line."""
        self.exit(2, f"error: {message}; see --help\n")


def run(main: Callable[[], int | None]) -> NoReturn:
    """Run a benchmark's ``main`` and exit with what it returns; a mistake of the user's ends it with one line."""
    try:
        sys.exit(main() or 0)
    except SyllabaryError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


def at_least(least: int) -> Callable[[str], int]:
    """The type of an option that is a whole number and not less than ``least``."""

    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return int(text)

    return parse


def seconds_of_audio(text: str) -> float:
    """The type of an option that is a length of sound: more than no seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def known(names: str | Sequence[str], expected: Sequence[str], what: str) -> list[str]:
    """The names that were asked for, a list or one text with commas; refuses those that are not expected."""
    asked = names.split(",") if isinstance(names, str) else list(names)
    for name in asked:
        if name not in expected:
            raise InputError(f"unknown {what}", value=name, expected=f"one of {', '.join(expected)}", fix="see --help")
    return asked


def folder_with(folder: Path, suffixes: Sequence[str], what: str) -> Path:
    """A folder that holds a file of one of these suffixes somewhere; refuses any other path."""
    if not folder.is_dir() or not any(path.suffix.lower() in suffixes for path in folder.rglob("*")):
        found = "no such folder" if not folder.is_dir() else f"no {what} in this folder"
        raise InputError(found, value=str(folder), expected=what, fix="name a folder that has it")
    return folder


def in_process(script: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """What a benchmark prints in a process of its own; where that fails, its own words stand on standard error."""
    command, own = [sys.executable, script, *arguments], os.environ | (environment or {})
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=own)
    if ended.returncode:
        sys.exit(ended.returncode)
    return ended.stdout
