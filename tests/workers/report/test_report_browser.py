"""The report page in a real Chromium: sounds play for their right time, pictures load, keys work, nothing leaks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from syllabary.workers.report.card import ReportCard, publish_card
from syllabary.workers.report.page import publish_page
from tests.helpers import headless_chromium
from tests.helpers.headless_chromium import CONTRASTS, Browser
from tests.helpers.report_card_example import write_example_report

pytestmark = pytest.mark.xdist_group("browser")

HOSTILE = "100/<script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=alert(1)>"
TEXT_CONTRAST, LARGE_CONTRAST = 4.5, 3.0  # WCAG 2.2, 1.4.3 (AA)

DURATIONS = """Promise.all([...document.querySelectorAll("audio")].map((audio) => new Promise((resolve) => {
  const told = () => resolve([audio.closest(".utterance").id, audio.getAttribute("aria-label"), audio.duration]);
  if (audio.readyState > 0) told();
  else { audio.onloadedmetadata = told; audio.onerror = () => resolve([audio.error.message, "", -1]); }
})))"""

ADVANCES = """(async () => {
  const heard = [];
  for (const audio of document.querySelectorAll("audio")) {
    audio.muted = true;
    await audio.play();
    while (audio.currentTime < 0.05 && !audio.error) await new Promise((resolve) => setTimeout(resolve, 10));
    audio.pause();
    heard.push(audio.currentTime > 0 && !audio.error);
    audio.currentTime = 0;
    audio.muted = false;
  }
  return heard;
})()"""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    opened = Browser()
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> tuple[ReportCard, str]:
    """A report whose ids and transcripts are hostile, and the URL of its page."""
    out = tmp_path_factory.mktemp("report")
    card = write_example_report(out)
    samples = tuple(s.model_copy(update={"utterance_id": HOSTILE, "transcript": HOSTILE}) for s in card.samples)
    card = card.model_copy(update={"samples": samples, "notes": (HOSTILE,)})
    publish_card(str(out), card)
    return card, Path(publish_page(str(out))).as_uri()


@pytest.fixture
def page(browser: Browser, report: tuple[ReportCard, str]) -> Browser:
    """The page, freshly opened in a light desktop window."""
    browser.window(1280, 900)
    browser.open(report[1])
    return browser


def test_a_missing_browser_skips_unless_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv(headless_chromium.REQUIRED, raising=False)
    with pytest.raises(pytest.skip.Exception, match="install_browser"):
        headless_chromium.executable()
    monkeypatch.setenv(headless_chromium.REQUIRED, "1")
    with pytest.raises(pytest.fail.Exception, match="install_browser"):
        headless_chromium.executable()


def test_every_sound_plays_for_as_long_as_it_should(page: Browser, report: tuple[ReportCard, str]) -> None:
    labels = {system.name: system.label for system in report[0].systems}
    expected = {
        (f"sample-{sample.number}", labels[sound.system]): sound.duration_s
        for sample in report[0].samples
        for sound in sample.sounds
        if sound.system != "noise"  # the floor is not played
    }
    found = {(sample, label): duration for sample, label, duration in page.evaluate(DURATIONS)}
    assert found.keys() == expected.keys()
    assert all(abs(found[which] - duration_s) < 0.02 for which, duration_s in expected.items())
    heard = page.evaluate(ADVANCES)
    assert len(heard) == len(expected) and all(heard)


def test_every_picture_loads(page: Browser, report: tuple[ReportCard, str]) -> None:
    page.evaluate("Promise.all([...document.images].map((image) => image.decode()))")
    widths = page.evaluate("[...document.images].map((image) => image.naturalWidth)")
    assert len(widths) == sum(len(sample.sounds) - 1 for sample in report[0].samples)
    assert min(widths) > 100


def test_nothing_complains_and_nothing_is_asked_of_a_network(page: Browser, report: tuple[ReportCard, str]) -> None:
    page.evaluate(DURATIONS)
    assert page.complaints() == []
    assert page.requests() == [report[1]]
    assert page.evaluate("document.title") == "example: report card"
    assert page.evaluate("document.querySelectorAll('script').length") == 1


def test_the_content_policy_stops_what_escaping_would_miss(page: Browser) -> None:
    refused = page.evaluate("fetch('http://127.0.0.1:9/').then(() => 'let through', () => 'refused')")
    assert refused == "refused"
    page.evaluate(
        """(() => {
          const script = document.createElement("script");
          script.textContent = "window.owned = 1";
          document.body.append(script);
          const picture = '<img src="http://127.0.0.1:9/" onerror="window.owned = 1">';
          document.body.insertAdjacentHTML("beforeend", picture);
        })()"""
    )
    assert page.evaluate("window.owned === undefined")
    assert all("Content Security Policy" in complaint for complaint in page.complaints())
    assert len(page.complaints()) >= 2


@pytest.mark.parametrize("width", [320, 375, 768])
def test_a_narrow_window_never_scrolls_sideways(browser: Browser, report: tuple[ReportCard, str], width: int) -> None:
    browser.window(width, 800, phone=True)
    browser.open(report[1])
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    assert browser.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [width, width]
    sizes = browser.evaluate("[...document.querySelectorAll('.panel svg')].map((s) => s.getBoundingClientRect().width)")
    heads = browser.evaluate("[...document.querySelectorAll('thead th')].map((h) => h.getBoundingClientRect().height)")
    assert max(heads) < 110  # words are never broken into letters
    assert min(sizes) >= 270  # drawn for 336: text of 11 pixels stays at 9 or more


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_all_text_has_contrast(browser: Browser, report: tuple[ReportCard, str], dark: bool) -> None:
    browser.window(1280, 900, dark=dark)
    browser.open(report[1])
    browser.evaluate("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
    texts = browser.evaluate(CONTRASTS)
    assert len(texts) > 200
    assert [text for text in texts if text[0] < (LARGE_CONTRAST if text[1] else TEXT_CONTRAST)] == []
    background = browser.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    assert (sum(int(c) for c in background[4:-1].split(",")) < 150) is dark


def state(page: Browser) -> dict[str, object]:
    """What has the focus and what sounds."""
    found: dict[str, object] = page.evaluate(
        """(() => {
          const sounding = [...document.querySelectorAll("audio")].filter((audio) => !audio.paused);
          const focus = document.activeElement, style = getComputedStyle(focus);
          return {
            focus: focus.querySelector(".system")?.textContent ?? focus.tagName,
            pressed: focus.getAttribute("aria-pressed"),
            outline: style.outlineStyle === "none" ? 0 : parseFloat(style.outlineWidth),
            playing: sounding.map((audio) => audio.getAttribute("aria-label")),
            at: sounding.map((audio) => audio.currentTime),
          };
        })()"""
    )
    return found


def tab_to_first_player(page: Browser) -> None:
    page.evaluate("document.querySelector('#listen').scrollIntoView()")
    for _ in range(40):
        page.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('play')"):
            return
    raise AssertionError("the keyboard never reached a player")


def test_the_keyboard_plays_and_moves_between_systems(page: Browser) -> None:
    page.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    tab_to_first_player(page)
    start = state(page)
    assert (start["focus"], start["pressed"], start["playing"]) == ("Original", "false", [])
    assert start["outline"] >= 2
    page.press(" ")
    page.until("[...document.querySelectorAll('audio')].some((audio) => audio.currentTime > 0.2)")
    assert state(page)["playing"] == ["Original"] and state(page)["pressed"] == "true"
    page.press("ArrowRight")
    moved = state(page)
    assert (moved["focus"], moved["playing"], moved["pressed"]) == ("example", ["example"], "true")
    assert moved["at"][0] >= 0.2  # it goes on at the same moment
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert state(page)["focus"] == "Original to 4 kHz"  # around the corner
    page.press(" ")
    assert state(page)["playing"] == [] and state(page)["pressed"] == "false"
    page.press("Home")
    assert page.evaluate("document.activeElement.closest('.take').querySelector('audio').currentTime") == 0
    page.press("ArrowRight", shift=True)
    assert page.evaluate("document.activeElement.closest('.take').querySelector('audio').currentTime") == 1
    page.press("Tab")
    assert page.evaluate("document.activeElement.closest('.utterance').id") == "sample-2"  # one stop an utterance


def test_a_sound_that_ends_leaves_its_player_ready(page: Browser) -> None:
    tab_to_first_player(page)
    page.press(" ")
    page.evaluate(
        "[...document.querySelectorAll('audio')].filter((a) => !a.paused).forEach((a) => { a.currentTime = 1.8; })"
    )
    page.until("document.activeElement.getAttribute('aria-pressed') === 'false'")
    page.press(" ")
    page.until("[...document.querySelectorAll('audio')].some((a) => !a.paused && a.currentTime < 1.5)")
    page.press("Escape")
    assert state(page)["playing"] == []


def test_a_click_into_a_picture_plays_from_there(page: Browser) -> None:
    page.evaluate("document.querySelector('.picture').scrollIntoView({ block: 'center', behavior: 'instant' })")
    frame = page.evaluate("document.querySelector('.picture').getBoundingClientRect().toJSON()")
    left, top, width = frame["left"], frame["top"], frame["width"]
    for kind in ("mousePressed", "mouseReleased"):
        page.call("Input.dispatchMouseEvent", type=kind, x=left + width / 2, y=top + 30, button="left", clickCount=1)
    page.until("[...document.querySelectorAll('audio')].some((a) => !a.paused && a.currentTime > 0.9)")
    head = page.evaluate(
        "document.querySelector('.playing .playhead').getBoundingClientRect().x - document.querySelector('.playing"
        " .picture').getBoundingClientRect().x"
    )
    assert head >= 0.45 * width


def test_the_page_is_built_of_landmarks_headings_and_labels(page: Browser) -> None:
    for landmark in ("header", "nav", "main", "footer"):
        assert page.evaluate(f"document.querySelectorAll('body > {landmark}').length") == 1
    assert page.evaluate("document.querySelectorAll('h1').length") == 1
    assert page.evaluate("[...document.querySelectorAll('table')].every((t) => t.caption.textContent.trim())")
    sections = "[...document.querySelectorAll('main > section')].map((s) => s.getAttribute('aria-labelledby'))"
    assert page.evaluate(f"{sections}.every((name) => document.getElementById(name).tagName === 'H2')")
    assert page.evaluate("[...document.querySelectorAll('button')].every((b) => b.getAttribute('aria-label'))")
    assert page.evaluate("[...document.querySelectorAll('svg')].every((s) => s.ariaHidden === 'true' || s.ariaLabel)")
    assert page.evaluate("[...document.images].every((image) => image.alt)")
    assert page.evaluate("document.documentElement.lang") == "en"


def test_who_asks_for_less_motion_gets_less(browser: Browser, report: tuple[ReportCard, str]) -> None:
    for still, behavior in ((False, "smooth"), (True, "auto")):
        browser.window(1280, 900, still=still)
        browser.open(report[1])
        assert browser.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == behavior


def test_without_script_the_browsers_own_players_serve(browser: Browser, report: tuple[ReportCard, str]) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(report[1])
        heights = browser.evaluate(
            "[...document.querySelectorAll('audio')].map((a) => a.getBoundingClientRect().height)"
        )
        assert len(heights) == sum(len(sample.sounds) - 1 for sample in report[0].samples) and min(heights) > 20
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
