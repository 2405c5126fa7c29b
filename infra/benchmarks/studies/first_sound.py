"""How soon the page of ``syllabary listen`` sounds: from a click to the first sound, in Debian's Chromium.

    python infra/benchmarks/studies/first_sound.py [--seconds 5 15 30] [--rounds 3] [--archive ARCHIVE]

Without ``--archive`` the recordings of docs/sounds, one behind the other to the lengths asked for, are sharded and
tokenized by the shipped tokenizer first. Each round starts the real command anew, so that no sound is at hand, and
clicks each utterance once. ``decode`` is the same tokens through ``Tokenizer.decode`` in this process, in turns with
the clicks; the ratio says what a page, a server and a browser add to it.
"""

from __future__ import annotations

import argparse
import itertools
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import soundfile
from playwright.sync_api import Page, sync_playwright

from syllabary import Tokenizer, open_archive
from syllabary.shards.errors import SyllabaryError

ROOT = Path(__file__).parents[3]
COMMAND = [sys.executable, "-m", "syllabary.flows.cli"]
TOKENIZER = "builtin:speech16k"
CHROMIUM = "/usr/bin/chromium"
LISTEN = """() => {
  document.addEventListener("click", () => { window.clicked = performance.now(); }, { capture: true, once: true });
  window.heard = new Promise((resolve) => document.addEventListener("playing",
    () => resolve((performance.now() - window.clicked) / 1000), { capture: true, once: true }));
}"""


@dataclass
class Utterance:
    """One utterance of the archive, and the seconds that it took."""

    utterance_id: str
    duration_s: float
    tokens: np.ndarray
    num_samples: int
    clicks: list[float] = field(default_factory=list)
    decodes: list[float] = field(default_factory=list)


def make_archive(folder: Path, lengths: Sequence[float]) -> str:
    """Tokenize one recording of each length by the project's own commands; where the archive is."""
    sounds = sorted((ROOT / "docs" / "sounds").glob("*-original.flac"))
    (folder / "speech").mkdir()
    for number, seconds in enumerate(lengths):
        pieces, at, rate = [], 0.0, 0
        for path in itertools.islice(itertools.cycle(sounds), number, None):
            samples, rate = soundfile.read(path, dtype="float32")
            pieces.append(samples)
            at += len(samples) / rate
            if at >= seconds:
                break
        soundfile.write(folder / "speech" / f"{number}.flac", np.concatenate(pieces)[: round(seconds * rate)], rate)
    shards, archive = str(folder / "shards"), str(folder / "archive")
    whole = ["--set", "ingest.coverage=all", "--set", f"ingest.max_utterance_s={max(lengths) + 1}"]
    for command in (
        ["shard", str(folder / "speech"), "--out", shards, "--recipe", "speech16k", *whole],
        ["tokenize", "--shards", shards, "--archive", archive, "--tokenizer", TOKENIZER],
    ):
        subprocess.run([*COMMAND, *command], check=True, stdout=subprocess.DEVNULL)
    return archive


@contextmanager
def served(archive: str) -> Iterator[str]:
    """The address at which ``syllabary listen`` serves an archive, until the block ends."""
    process = subprocess.Popen(
        [*COMMAND, "listen", archive, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout is not None
    try:
        told = ""
        for line in process.stdout:
            told += line
            if found := re.search(r"http://127\.0\.0\.1:\d+/", line):
                yield found[0]
                break
        else:
            raise SystemExit(f"error: `syllabary listen` ended without an address: {told}")
    finally:
        process.terminate()
        process.wait(30)


def click(page: Page, url: str, number: int) -> float:
    """Seconds from a click on a row of the freshly opened page to its first sound."""
    page.goto("about:blank")
    page.goto(url)
    row = page.locator(".row").nth(number)
    row.wait_for()
    page.evaluate(LISTEN)
    row.click()
    return float(page.evaluate("window.heard"))


def measure(archive: str, lengths: Sequence[float], rounds: int) -> list[Utterance]:
    """The utterances nearest to the lengths, clicked and decoded in turns."""
    tokenizer = Tokenizer.load(TOKENIZER)
    rows = [
        Utterance(str(one.row["utterance_id"]), one.row["num_samples"] / one.row["sample_rate"], one.tokens,
                  one.row["num_samples"])
        for one in open_archive(archive)
    ]  # fmt: skip
    asked = {min(rows, key=lambda row: abs(row.duration_s - seconds)).utterance_id for seconds in lengths}
    chosen = sorted((row for row in rows if row.utterance_id in asked), key=lambda row: row.duration_s)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        for _ in range(rounds):
            with served(archive) as url:
                page.goto(url)
                page.locator(".row").first.wait_for()
                listed = page.evaluate("fetch('/api/utterances').then((answer) => answer.json())")["rows"]
                shown = [str(row["id"]) for row in listed]
                for row in chosen:
                    row.clicks.append(click(page, url, shown.index(row.utterance_id)))
                    begin = time.perf_counter()
                    tokenizer.decode(row.tokens, row.num_samples)
                    row.decodes.append(time.perf_counter() - begin)
        browser.close()
    return chosen


def main(archive: str | None, lengths: list[float], rounds: int) -> None:
    """Print a row for each utterance."""
    with tempfile.TemporaryDirectory() as scratch:
        chosen = measure(archive or make_archive(Path(scratch), lengths), lengths, rounds)
    print("| utterance s | click to sound s: median | highest | decode s: median | ratio of medians |")
    print("| --- " * 5 + "|")
    for row in chosen:
        heard, decoded = statistics.median(row.clicks), statistics.median(row.decodes)
        print(f"| {row.duration_s:.1f} | {heard:.2f} | {max(row.clicks):.2f} | {decoded:.2f} | {heard / decoded:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--archive", help="an archive of the shipped tokenizer; default: one that is made")
    parser.add_argument("--seconds", nargs="+", type=float, default=[5, 15, 30])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    try:
        main(options.archive, options.seconds, options.rounds)
    except SyllabaryError as error:
        raise SystemExit(f"error: {error}") from error
