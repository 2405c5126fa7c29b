"""Debian's headless Chromium with one page, driven by playwright: no browser is downloaded, no port is opened."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import ConsoleMessage, Page, sync_playwright

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-sync", "--disable-dev-shm-usage"]
FAKE_MICROPHONE = ["--use-fake-device-for-media-stream"]  # a beep twice a second
PATIENCE_S = 240.0  # a loaded two-core machine starts a browser slowly; nothing here asserts a time
REQUIRED = "SYLLABARY_REQUIRE_BROWSER"

# of each visible text: its contrast as WCAG counts it, whether it is large, its beginning
CONTRASTS = """(() => {
  const parse = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return [n[0], n[1], n[2], n[3] ?? 1]; };
  const over = (top, below) => top.slice(0, 3).map((c, i) => c * top[3] + below[i] * (1 - top[3]));
  const light = (rgb) => rgb.map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const behind = (element) => {
    const layers = [];
    for (let e = element; e; e = e.parentElement) layers.push(parse(getComputedStyle(e).backgroundColor));
    return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255]);
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, style, title")) continue;
    if (!element.checkVisibility()) continue;
    const style = getComputedStyle(element), back = behind(element);
    const ink = parse(element.namespaceURI.endsWith("svg") ? style.fill : style.color);
    const [a, b] = [light(over(ink, back)), light(back)].sort((x, y) => y - x);
    const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && style.fontWeight >= 700);
    found.push([(a + 0.05) / (b + 0.05), large, walker.currentNode.data.trim().slice(0, 40)]);
  }
  return found;
})()"""


def executable() -> str:
    """Path of Chromium; without one the test is skipped, or fails where SYLLABARY_REQUIRE_BROWSER=1."""
    found = shutil.which("chromium")
    if found is None:
        reason = "no chromium on this machine; infra/install_browser.sh installs Debian's"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{REQUIRED}=1, but {reason}")
        pytest.skip(reason)
    return found


class Browser:
    """One Chromium process with one page. ``close()`` ends it; its profile goes with it.

    Args:
        flags: further ones of the command line.
        permissions: that every page has, such as ``microphone``; the others are refused without a question.
    """

    def __init__(self, *flags: str, permissions: tuple[str, ...] = ()) -> None:
        path = executable()
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(
                executable_path=path, args=[*FLAGS, *flags], timeout=1000 * PATIENCE_S
            )
        except BaseException:
            self._playwright.stop()
            raise
        self._context = self._browser.new_context(no_viewport=True, permissions=list(permissions))
        self.page: Page = self._context.new_page()
        self.page.set_default_timeout(1000 * PATIENCE_S)
        self._protocol = self._context.new_cdp_session(self.page)
        self._complaints: list[str] = []
        self._requests: list[str] = []
        self.page.on("console", self._told)
        self.page.on("pageerror", lambda error: self._complaints.append(str(error)))
        self.page.on("request", lambda request: self._requests.append(request.url))

    def _told(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning", "assert"):
            self._complaints.append(message.text)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol, and its result: for what playwright has no word for."""
        result: dict[str, Any] = self._protocol.send(method, params)
        return result

    def open(self, url: str) -> None:
        """Load a page from the start, and wait for its load event; earlier events are forgotten."""
        self.page.goto("about:blank")
        self._complaints.clear()
        self._requests.clear()
        self.page.goto(url)

    def evaluate(self, expression: str) -> Any:
        """Value of a JavaScript expression (a promise is awaited), by JSON, as if a person did it."""
        return self.page.evaluate(expression)

    def until(self, expression: str) -> None:
        """Wait until a JavaScript expression is true. The page's own policy forbids it to look by itself."""
        deadline = time.monotonic() + PATIENCE_S
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, f"never became true: {expression}"
            self.page.wait_for_timeout(50)

    def window(self, width: int, height: int, *, phone: bool = False, dark: bool = False, still: bool = False) -> None:
        """Size of the page in CSS pixels, and what the person prefers: a colour scheme, no motion."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        scheme, motion = "dark" if dark else "light", "reduce" if still else "no-preference"
        self.page.emulate_media(media="screen", color_scheme=scheme, reduced_motion=motion)  # type: ignore[arg-type]

    def press(self, key: str, *, shift: bool = False) -> None:
        """A key pressed and released by a person: it counts as a gesture, so sound may start."""
        self.page.keyboard.press(f"Shift+{key}" if shift else key)

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """The window, or the whole page, as PNG."""
        self.page.screenshot(path=path, full_page=whole)

    def complaints(self) -> list[str]:
        """Console errors and warnings, uncaught exceptions and refusals by the content policy, since ``open``."""
        self.page.wait_for_timeout(50)  # events on their way are in
        return list(self._complaints)

    def requests(self) -> list[str]:
        """URLs asked for since ``open``, those within the page (data:, blob:) excepted."""
        return [url for url in self._requests if not url.startswith(("data:", "blob:"))]

    def close(self) -> None:
        """End the browser."""
        self._browser.close()
        self._playwright.stop()
