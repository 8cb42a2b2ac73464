"""A real browser for the map's page: Debian's Chromium, without a window."""

import os

import pytest

from scripts.upkeep.chromium import chromium


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # Not where it is skipped.

    command = chromium()
    if command is None:
        missing = pytest.fail if os.environ.get("CROSSWALK_NEEDS_BROWSER") else pytest.skip
        missing("no chromium, nor fetched by scripts/chromium")
    with sync_playwright() as driver:
        # Without its sandbox, which it refuses as root: it opens our own page and nothing else.
        launched = driver.chromium.launch(executable_path=command, chromium_sandbox=False)
        yield launched
        launched.close()


class Shown:
    """A page in the browser: what it says, and what went wrong in it."""

    def __init__(self, page, path):
        self.page, self.messages, self.requests = page, [], []
        page.on("console", lambda message: self.messages.append(message.text))
        page.on("pageerror", lambda error: self.messages.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", state="attached")
        self.own = path.as_uri()

    def text(self, selector):
        return self.page.inner_text(selector)

    def press(self, *keys):
        for key in keys:
            self.page.keyboard.press(key)

    def search(self, text):
        self.page.fill("#query", text)
        self.page.press("#query", "Enter")

    @property
    def cursor(self):
        """The address of the cursor in the first pane, in frames."""
        return self.page.evaluate("crosswalk.page.shown[0].cursor")

    @property
    def chosen(self):
        return self.text("#chosen")

    @property
    def level(self):
        return self.text("#trail [aria-current]")

    def place(self, frame, pane=0):
        """Where on the screen a frame of a pane is drawn."""
        return self.page.evaluate(
            """([pane, frame]) => {
              const strip = crosswalk.page.shown[pane];
              const place = strip.layout.position(frame) + 1;
              const box = strip.canvas.getBoundingClientRect();
              const line = Math.floor(place / strip.layout.width);
              return [box.x + crosswalk.MARGIN + place - line * strip.layout.width,
                      box.y + line * crosswalk.LINE - strip.top + crosswalk.LABEL + 4];
            }""",
            [pane, frame],
        )

    def pixel(self, frame, pane=0):
        """The colour with which a frame of a pane is drawn, as (red, green, blue)."""
        return tuple(
            self.page.evaluate(
                """([pane, frame]) => {
                  const strip = crosswalk.page.shown[pane];
                  const place = strip.layout.position(frame) + 1;
                  const line = Math.floor(place / strip.layout.width);
                  const x = crosswalk.MARGIN + place - line * strip.layout.width;
                  const y = line * crosswalk.LINE - strip.top + crosswalk.LABEL + 1.5;
                  const [left, top] = [x, y].map((each) => Math.floor(each * strip.ratio));
                  const copy = new OffscreenCanvas(1, 1);
                  const context = copy.getContext("2d", { willReadFrequently: true });
                  context.drawImage(strip.canvas, -left, -top);
                  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
                }""",
                [pane, frame],
            )
        )


@pytest.fixture
def show(browser, tmp_path):
    """Opens a page, given as bytes; it has to stay without errors, and to ask for nothing else."""
    opened = []

    def show(data, **settings):
        path = tmp_path / f"{len(opened)}.html"
        path.write_bytes(data)
        context = browser.new_context(viewport={"width": 1280, "height": 800}, **settings)
        opened.append((context, Shown(context.new_page(), path)))
        return opened[-1][1]

    yield show
    for context, shown in opened:
        context.close()
        assert [] == shown.messages
        assert [shown.own] == shown.requests
