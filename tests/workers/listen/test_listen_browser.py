"""The page in a real Chromium: it plays, seeks, records; keys work; hostile names are text; nothing complains."""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import soundfile

from syllabary.shards import dataset
from syllabary.workers.control.jobs import ListenJob
from syllabary.workers.listen import catalogue
from syllabary.workers.listen.serve import listening, prepare, server
from tests.helpers.archive_corpus import make_part, utterance_rows
from tests.helpers.headless_chromium import CONTRASTS, FAKE_MICROPHONE, Browser

pytestmark = pytest.mark.xdist_group("browser")

HOSTILE = "<script>document.title='owned'</script><img src=x onerror=alert(1)>"
AUDIO = "document.querySelector('audio[data-take={}]')"
PLAYS = "[...document.querySelectorAll('audio')].some((a) => a.currentTime > {})"  # or has played: some last 0.4 s
ROWS = "[...document.querySelectorAll('.row')].map((row) => row.textContent)"


@pytest.fixture(scope="module")
def archive(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive with one part more: sixty utterances of a speaker of hostile name who says hostile things."""
    folder = tmp_path_factory.mktemp("hostile") / "archive"
    shutil.copytree(base / "archive", folder)
    add_part(folder, "train-000009", 9, 60)
    return folder


def add_part(archive: Path, shard: str, seed: int, num_utterances: int) -> None:
    rows = [row | {"speaker": HOSTILE, "text": HOSTILE} for row in utterance_rows(shard, seed, num_utterances)]
    table = pa.Table.from_pylist(rows, schema=dataset.INDEX_SCHEMA)
    make_part(str(archive), table, catalogue.ArchiveReader.open(str(archive)).format, shard, seed, row_group_size=64)


@pytest.fixture(scope="module")
def url(base: Path, archive: Path) -> Iterator[str]:
    """Where the page is served, by the real server."""
    before, catalogue.LISTED_EVERY_S = catalogue.LISTED_EVERY_S, 0.0
    shown = prepare(
        ListenJob(archive=str(archive), tokenizer=str(base / "tokenizer"), shards=str(base / "shards"), port=0)
    )
    with listening(0) as listener:
        serving = server(shown)
        thread = threading.Thread(target=serving.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        serving.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
    catalogue.LISTED_EVERY_S = before


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser(*FAKE_MICROPHONE, permissions=("microphone",))
    yield opened
    opened.close()


@pytest.fixture
def page(browser: Browser, url: str) -> Iterator[Browser]:
    """The page, freshly opened in a light desktop window; nothing may complain in the end."""
    browser.window(1280, 900)
    browser.open(url)
    browser.until("document.querySelectorAll('.row').length > 0")
    yield browser
    assert browser.complaints() == []
    assert all(asked.startswith(url) or asked == "about:blank" for asked in browser.requests())


def pick(page: Browser, number: int) -> None:
    page.page.locator(".row").nth(number).click()
    page.until(PLAYS.format(0))
    page.until("document.querySelectorAll('#takes .take:not(.waiting)').length >= 1")


def chosen(page: Browser) -> float:
    return float(page.evaluate("document.querySelector('audio[data-take=restored]').currentTime"))


def test_a_click_plays_an_utterance_from_its_tokens_and_shows_it_beside_its_original(page: Browser) -> None:
    pick(page, 1)
    page.until("document.querySelectorAll('#takes .take:not(.waiting)').length === 2")
    widths = page.evaluate("[...document.querySelectorAll('#takes img')].map((image) => image.naturalWidth)")
    assert widths == [480, 480]
    seconds = page.evaluate(f"{AUDIO.format('restored')}.duration")
    said = page.evaluate("document.getElementById('clip-meta').textContent")
    assert said.startswith(f"{seconds:.1f} s · speaker 100 · its whole recording")
    sizes = page.evaluate("document.getElementById('sizes').textContent")
    assert "Sound, 16 bit" in sizes and "32,000 a second" in sizes
    assert page.evaluate("document.querySelectorAll('#salience .hill').length") == 1
    page.page.get_by_role("button", name="Original").click()
    page.until(f"{AUDIO.format('original')}.currentTime > 0")
    assert page.evaluate(f"{AUDIO.format('restored')}.paused")


def test_a_click_on_the_salience_plays_from_there_and_arrows_seek(page: Browser) -> None:
    pick(page, 1)
    page.press("Escape")
    box = page.page.locator("#salience").bounding_box()
    assert box is not None
    seconds = page.evaluate(f"{AUDIO.format('restored')}.duration")
    page.page.mouse.click(box["x"] + 0.5 * box["width"], box["y"] + 20)
    page.until(PLAYS.format(0.5 * seconds))
    page.press("Escape")
    page.evaluate(f"{AUDIO.format('restored')}.currentTime = 0.05")
    page.press("ArrowRight", shift=True)
    assert chosen(page) == pytest.approx(0.45, abs=0.02)
    page.press("ArrowLeft")
    assert chosen(page) == 0
    assert page.evaluate("document.getElementById('salience').getAttribute('aria-valuetext')").startswith("0.0 s of")


def test_the_tokens_of_a_moment_are_shown_when_they_are_asked_for(page: Browser) -> None:
    pick(page, 1)
    page.press("Escape")
    assert not [asked for asked in page.requests() if "/api/frame" in asked]
    page.page.get_by_text("Tokens of this moment").click()
    page.until("document.querySelectorAll('#tokens li').length === 19")
    assert "19 tokens" in page.evaluate("document.getElementById('frame-note').textContent")


def test_keys_search_choose_play_and_switch(page: Browser) -> None:
    page.press("/")
    assert page.evaluate("document.activeElement.id") == "words"
    page.page.keyboard.type("101 chapter_1")
    page.until("document.getElementById('count').textContent === '2 utterances'")
    page.press("Escape")
    page.press("ArrowDown")
    page.until(PLAYS.format(0))
    page.until("document.querySelectorAll('#takes .take').length === 2")
    first = page.evaluate("document.getElementById('clip-title').textContent")
    page.press("ArrowDown")
    page.until("document.querySelectorAll('.row')[1].getAttribute('aria-current') === 'true'")
    page.until(f"document.getElementById('clip-title').textContent !== {json.dumps(first)}")  # not the takes of before
    page.until("document.querySelectorAll('#takes .take').length === 2")
    page.evaluate(f"({AUDIO.format('restored')}.loop = true, {AUDIO.format('restored')}.play())")
    page.press(" ")
    page.until("[...document.querySelectorAll('audio')].every((a) => a.paused)")
    page.press("o")
    page.until("document.querySelector('.take.chosen').dataset.take === 'original'")
    page.press(" ")
    page.until(f"{AUDIO.format('original')}.currentTime > 0")


def test_a_condition_filters_and_a_wrong_one_is_told(page: Browser) -> None:
    page.page.get_by_text("By a condition").click()
    page.page.fill("#where", "speaker = '102'")
    page.until("document.getElementById('count').textContent === '4 utterances'")
    page.page.fill("#where", "speaker = 102")
    page.until("document.getElementById('where').getAttribute('aria-invalid') === 'true'")
    assert "a text in" in page.evaluate("document.getElementById('count').textContent")
    page.page.fill("#where", "")
    page.until("document.getElementById('count').textContent.startsWith('72')")
    page._complaints.clear()  # the browser notes the refused request


def test_recordings_are_heard_whole_and_by_range_and_lead_to_their_utterances(page: Browser) -> None:
    page.page.locator("[data-view=recordings]").click()
    page.until("document.getElementById('count').textContent.endsWith('recordings')")
    pick(page, 0)
    page.page.fill("#from", "0.3")
    page.page.fill("#to", "0.9")
    page.page.get_by_text("Hear this range").click()
    page.until("document.getElementById('clip-kind').textContent === 'Recording, 0.3 s to 0.9 s'")
    page.until("document.querySelector('audio').duration > 0")
    assert page.evaluate("document.querySelector('audio').duration") == pytest.approx(0.6, abs=1e-3)
    page.page.get_by_text("its 1 utterance").click()
    page.until("document.getElementById('count').textContent === '2 utterances'")
    page.page.locator("#chips button").click()
    page.until("document.getElementById('count').textContent === '72 utterances'")


def test_pages_turn_and_hostile_names_and_texts_are_shown_and_not_run(page: Browser) -> None:
    first = page.evaluate(ROWS)
    page.page.get_by_role("button", name="Later").click()
    page.until("document.querySelectorAll('.row').length === 22")
    rows = page.evaluate(ROWS)
    assert len(first) == 50 and len(rows) == 22 and HOSTILE in rows[0]
    pick(page, 10)
    assert page.evaluate("document.getElementById('clip-text').textContent") == HOSTILE
    page.page.get_by_text("All that is known of it").click()
    assert HOSTILE in page.evaluate("document.getElementById('known').textContent")
    assert page.evaluate("document.getElementById('clip-meta').textContent").endswith("the original is not at hand")
    page.page.locator("#clip-meta button").first.click()
    page.until("document.getElementById('count').textContent === '60 utterances'")
    assert page.evaluate("document.title") == "archive: listen"
    assert page.evaluate("document.querySelectorAll('main img:not(#takes img), main script').length") == 0


def test_a_voice_is_recorded_and_heard_from_its_tokens(page: Browser) -> None:
    page.page.get_by_role("tab", name="Your own voice").click()
    page.page.get_by_role("button", name="Record").click()
    page.until("parseFloat(document.getElementById('recorded').textContent) >= 1")
    page.page.get_by_role("button", name="Stop").click()
    page.until("document.getElementById('clip-kind').textContent === 'Your own voice'")
    page.until(PLAYS.format(0.1))
    page.until("document.querySelectorAll('#takes .take:not(.waiting)').length === 2")
    seconds = page.evaluate("document.querySelector('audio[data-take=restored]').duration")
    shown = page.evaluate("parseFloat(document.getElementById('recorded').textContent)")  # in tenths of a second
    assert 1.0 <= shown < 30
    assert seconds == pytest.approx(shown, abs=0.051)
    loudest = """(async () => {
      const data = await (await fetch(document.querySelector('audio[data-take=restored]').src.replace('restored',
        'original'))).arrayBuffer();
      return new Int16Array(data.slice(44)).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    })()"""
    assert page.evaluate(loudest) > 1_000  # the fake microphone beeps
    assert page.evaluate("document.getElementById('own-status').textContent") == ""


def test_a_dropped_file_is_heard_and_what_is_no_sound_is_told(page: Browser, tmp_path: Path) -> None:
    page.page.get_by_role("tab", name="Your own voice").click()
    (tmp_path / "words.txt").write_text("no sound at all")
    page.page.set_input_files("#file", tmp_path / "words.txt")
    page.until("document.getElementById('own-status').textContent.includes('cannot be heard')")
    page._complaints.clear()  # the browser notes the refused request
    soundfile.write(tmp_path / "tone <b>.wav", 0.3 * np.sin(np.arange(16_000) / 9), 16_000)
    page.page.set_input_files("#file", tmp_path / "tone <b>.wav")
    page.until("document.getElementById('clip-title').textContent === 'tone <b>.wav'")
    page.until(PLAYS.format(0))


def test_a_refused_microphone_is_told_in_one_line(page: Browser) -> None:
    context = page.page.context
    context.clear_permissions()
    page.page.get_by_role("tab", name="Your own voice").click()
    page.page.get_by_role("button", name="Record").click()
    page.until("document.getElementById('own-status').textContent !== ''")
    assert page.evaluate("document.getElementById('own-status').textContent").startswith("The microphone was refused")
    assert page.evaluate("document.getElementById('record').getAttribute('aria-pressed')") == "false"
    context.grant_permissions(["microphone"])


def test_an_archive_that_grows_is_picked_up_while_it_is_shown(page: Browser, archive: Path) -> None:
    before = int(page.evaluate("document.querySelector('#facts dd').textContent"))
    pick(page, 0)
    add_part(archive, "valid-000001", 11, 3)
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.until(f"document.getElementById('count').textContent === '{before + 3} utterances'")
    assert page.evaluate("document.querySelector('#facts dd').textContent") == str(before + 3)
    assert page.evaluate("document.querySelectorAll('.row[aria-current]').length") == 1
    (archive / "parts" / "valid-000001.parquet").unlink()
    page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")
    page.until(f"document.getElementById('count').textContent === '{before} utterances'")


@pytest.mark.parametrize("dark", [False, True])
def test_every_text_can_be_read_in_light_and_dark(page: Browser, dark: bool) -> None:
    page.window(1280, 900, dark=dark)
    pick(page, 1)
    page.press("Escape")
    for details in ("By a condition", "Tokens of this moment", "All that is known of it"):
        page.page.get_by_text(details).click()
    page.until("document.querySelectorAll('#tokens li').length === 19")
    time.sleep(0.2)
    pale = [found for found in page.evaluate(CONTRASTS) if found[0] < (3.0 if found[1] else 4.5)]
    assert pale == []


@pytest.mark.parametrize("width", [320, 390, 768])
def test_nothing_is_wider_than_a_phone(page: Browser, width: int) -> None:
    page.window(width, 800, phone=True)
    pick(page, 1)
    page.until("document.querySelectorAll('#takes .take:not(.waiting)').length === 2")
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.page.get_by_role("tab", name="Your own voice").click()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
