"""`scripts/pictures`: the map of a Linux kernel in a browser, at three zooms, as pictures."""

import argparse
import sys
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from scripts.upkeep.chromium import chromium

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "pictures"
SIZE = {"width": 1120, "height": 860}
PICTURES = (
    ("map-whole", "light", ()),
    ("map-whole-dark", "dark", ()),
    ("map-text", "light", ("search:text", "2")),
    ("map-pages", "light", ("search:0xffff888000098000", "3")),
)
"""What is pictured: the file, the theme, and what is done before."""


def take(browser: Browser, page: Path, name: str, theme: str, steps: tuple[str, ...]) -> None:
    """Write one picture of a page."""
    context = browser.new_context(
        viewport=SIZE, color_scheme="dark" if theme == "dark" else "light"
    )
    shown = context.new_page()
    shown.goto(page.as_uri())
    shown.wait_for_selector("html[data-ready]", state="attached")
    for step in steps:
        kind, _, what = step.partition(":")
        if kind == "search":
            shown.fill("#query", what)
            shown.press("#query", "Enter")
        else:
            shown.keyboard.press(kind)
    shown.fill("#query", "")
    # What was found isn't to hide the rest.
    shown.evaluate(
        "document.getElementById('hitlist').hidden = true; document.activeElement.blur()"
    )
    FOLDER.mkdir(exist_ok=True)
    shown.screenshot(path=FOLDER / f"{name}.png")
    context.close()


def main() -> int:
    """Take all pictures of the page that the command line names."""
    parser = argparse.ArgumentParser(prog="pictures", description=__doc__)
    parser.add_argument("page", type=Path, help="the page, as crosswalk map wrote it")
    page = parser.parse_args().page.absolute()
    command = chromium()
    if command is None:
        print("pictures: no chromium: scripts/chromium fetches one", file=sys.stderr)
        return 1
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=command, chromium_sandbox=False)
        for name, theme, steps in PICTURES:
            take(browser, page, name, theme, steps)
        browser.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
