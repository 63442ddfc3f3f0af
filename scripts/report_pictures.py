"""Pictures of a report for the documentation, taken in Chromium.

    python scripts/report_pictures.py runs/quickstart docs/report

Needs the extra `browser` and Chromium.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Locator, sync_playwright

SHOTS = {
    "head": ((1400, 900), "", "light", None),
    "phone": ((390, 844), "", "light", None),
    "curves": ((1100, 700), "#?view=curves", "dark", "#explorer"),
    "map": ((1100, 700), "#?view=map&across=encoder&down=decoder", "light", "#explorer"),
    "number": ((1000, 700), "#worst-1-6", "light", "#part"),
}
"""Name of a picture -> size of the window, view, colours, and the part of the page that is shown."""

SHADES = 128
"""Colours of a picture, few enough for small files."""


BESIDE, ABOVE = 16, 4
"""Pixels beside a part of the page, and above and below it."""


def _around(part: Locator) -> FloatRect:
    """The place of a part of the page, with a margin."""
    box, scrolled = part.bounding_box(), part.evaluate("() => [scrollX, scrollY]")
    assert box is not None
    return {
        "x": box["x"] + scrolled[0] - BESIDE,
        "y": box["y"] + scrolled[1] - ABOVE,
        "width": box["width"] + 2 * BESIDE,
        "height": box["height"] + 2 * ABOVE,
    }


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("run", type=Path, help="a directory with a report")
    parser.add_argument("out", type=Path, help="the directory of the pictures")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    with sync_playwright() as started:
        browser = started.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for name, ((width, height), view, scheme, part) in SHOTS.items():
            page = browser.new_page(viewport={"width": width, "height": height}, color_scheme=scheme)
            page.goto((arguments.run / "report.html").resolve().as_uri() + view)
            if part:
                shown = page.screenshot(full_page=True, clip=_around(page.locator(part)))
            else:
                shown = page.screenshot()
            with Image.open(io.BytesIO(shown)) as picture:
                small = picture.convert("RGB").quantize(SHADES, dither=Image.Dither.NONE)
            small.save(arguments.out / f"{name}.png", optimize=True)
            page.close()
        browser.close()


if __name__ == "__main__":
    main()
