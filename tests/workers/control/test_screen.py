"""What a person sees of a job: bars on a terminal, plain lines in a pipe."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

CODE = """
from syllabary.workers.control.log import Reached, Told
from syllabary.workers.control.screen import on_screen
with on_screen() as show:
    show(Told("shard  [bold]3[/bold] recordings"))
    for done in (60.3, 240.57):
        reached = Reached("tokenize", "s of audio", done, 240.57, 12, 15, note="1/3 shards")
        show(Told(f"tokenize  {done:.0f}/240 s", reached))
    show(Told("tokenize  done"))
    show(Told("restore  8/8", Reached("restore", "utterances", 8, 8, 2)))
"""
PLAIN = "shard  [bold]3[/bold] recordings\ntokenize  60/240 s\ntokenize  241/240 s\ntokenize  done\nrestore  8/8\n"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def on_terminal(**environment: str) -> str:
    """What the code above writes to a terminal of 100 columns."""
    ours, theirs = pty.openpty()
    values = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", "SYLLABARY_LOG": "text", **environment}
    with subprocess.Popen([sys.executable, "-c", CODE], stderr=theirs, env=values) as process:
        os.close(theirs)
        chunks = []
        try:
            while chunk := os.read(ours, 1 << 16):
                chunks.append(chunk)
        except OSError:  # how Linux says that nobody writes any more
            pass
        finally:
            os.close(ours)
        assert process.wait(timeout=30) == 0
    return b"".join(chunks).decode()


def test_a_terminal_shows_one_bar_per_stage_below_the_lines() -> None:
    shown = on_terminal()
    assert "\x1b[2K" in shown, "no line was drawn anew"
    *_, last_move = shown.split("\x1b[2K")
    bars = [line for line in ESCAPES.sub("", last_move).replace("\r", "").split("\n") if line.strip()]
    assert len(bars) == 2 and re.match(r"tokenize +━{24} +100% 241/241 s of audio · 12/s · 0:00:15 left", bars[0])
    assert re.match(r"restore +━{24} +100% 8/8 utterances", bars[1])
    lines = ESCAPES.sub("", shown)
    assert "shard  [bold]3[/bold] recordings" in lines and "tokenize  done" in lines
    assert "tokenize  60/240 s" not in lines
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") == 1, "the cursor was not given back"


@pytest.mark.parametrize("environment", [{"TERM": "dumb"}, {"SYLLABARY_LOG": "json"}])
def test_a_terminal_that_cannot_or_shall_not_shows_lines(environment: dict[str, str]) -> None:
    assert on_terminal(**environment).replace("\r\n", "\n") == PLAIN


def test_a_pipe_gets_lines_and_loads_nothing_of_rich() -> None:
    code = CODE + "import sys\nassert 'rich' not in sys.modules\n"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, PLAIN)
