"""A page in a real browser, without a window.

python tests/support/browser.py page.html picture.png --height 2600
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")


def browser_path() -> str | None:
    """Where a Chromium is: as ``JOULEC_BROWSER`` says, or on the path."""
    return os.environ.get("JOULEC_BROWSER") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def opened(page: Path) -> Iterator[tuple[Any, list[str], list[str]]]:
    """The page as Playwright has it, what its console said, and every address that it asked for.

    There is no network: whatever the page would load from elsewhere fails and is said on the console.
    """
    from playwright.sync_api import sync_playwright

    said: list[str] = []
    asked: list[str] = []
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=browser_path(), args=arguments)
        try:
            context = browser.new_context(viewport={"width": 1400, "height": 1000}, offline=True)
            shown = context.new_page()
            shown.on("console", lambda message: said.append(message.text))
            shown.on("pageerror", lambda error: said.append(str(error)))
            shown.on("request", lambda request: asked.append(request.url))
            shown.goto(page.resolve().as_uri())
            yield shown, said, asked
        finally:
            browser.close()


def main() -> None:
    """Take a picture of a page's top."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("page", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--height", type=int, default=2600, help="pixels")
    arguments = parser.parse_args()
    with opened(arguments.page) as (shown, _, _):
        clip = {"x": 0, "y": 0, "width": 1400, "height": arguments.height}
        shown.screenshot(path=arguments.picture, full_page=True, clip=clip)


if __name__ == "__main__":
    main()
