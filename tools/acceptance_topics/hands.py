"""What a user takes away: the page, the movie, pictures with their recipe, prompts, photographs."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from acceptance import ROOT, Outcome, Row

LINES = 17_756 + 1_200  # the package before this topic, and what it may add


def lines(size: int, folder: Path) -> Outcome:
    """The lines of the package's Python files and of its page."""
    del size, folder
    files = [
        p for kind in ("*.py", "*.html", "*.js", "*.css") for p in (ROOT / "pot_jax").rglob(kind)
    ]
    count = sum(p.read_bytes().count(b"\n") for p in files)
    return Outcome(f"{count:,}", count <= LINES)


# The page. ---------------------------------------------------------------------------------------

WORDS = ("a spiral galaxy", "a star and its planets", "a blue planet", "an island in the sea")
WORDS += ("a tree on a meadow", "a branch", "a leaf", "a ladybug on a leaf")


def in_browser(check):
    """A row's function: a check of tests/media/explorer_checks.py in a browser of its own."""

    def run(size: int, folder: Path) -> Outcome:
        sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "media")]
        os.environ["REQUIRE_CHROMIUM"] = "1"
        import explorer_checks
        from browser import chromium

        with chromium() as browser:
            return check(size, folder, browser, explorer_checks)

    run.__name__, run.__doc__ = check.__name__, check.__doc__
    return run


def faultless(wrong: list[str], size: int, what: str) -> Outcome:
    """What a check found, its faults in the row's log."""
    print("\n".join(wrong))
    return Outcome(f"{len(wrong)} faults in {size} {what}", not wrong, size)


@in_browser
def pixels(size, folder, browser, checks):
    """Whole levels to the byte, and views between them within 2 of 255 of the reference."""
    wrong = checks.whole_levels(browser, folder) + checks.views(size, browser, folder)
    return faultless(wrong, size, "views")


@in_browser
def borders(size, folder, browser, checks):
    """How much frames change where a border passes, over half-way between, in real frames."""
    ratio = checks.border_change(browser, folder, size=size)
    return Outcome(f"{ratio:.3f}", ratio <= 1.1, size)


@in_browser
def hostile(size, folder, browser, checks):
    """Prompts that try to be markup or script."""
    return faultless(checks.hostile(size, browser, folder), size, "prompts")


@in_browser
def depth(size, folder, browser, checks):
    """As deep as the film of 1977, from end to end."""
    return faultless(checks.depth(size, browser, folder), size, "levels")


def photographs(folder: Path, size: int) -> tuple[Path, float]:
    """The page of eight photograph-like levels of this size, and its seconds; PNGs beside it."""
    from PIL import Image
    from skimage import data
    from zooms import pasted

    from pot_jax.media.explorer import Shown, write_page
    from pot_jax.media.images import save_png
    from pot_jax.zoom.geometry import Geometry

    g = Geometry(8, 2, size, size)
    crops = [getattr(data, name)() for name in ("astronaut", "chelsea", "coffee", "rocket")]
    crops = [Image.fromarray(c[: min(c.shape[:2]), : min(c.shape[:2])]) for c in crops]
    pictures = np.stack([np.asarray(c.resize((size, size), 3)) for c in crops * 2])
    pictures = pasted(pictures, g)
    for level, picture in enumerate(pictures):
        save_png(folder / f"{level}.png", picture)
    began = time.monotonic()
    write_page(folder / "zoom.html", [Shown("", pictures, g, WORDS)])
    return folder / "zoom.html", time.monotonic() - began


def made(size: int, folder: Path) -> Outcome:
    """Time and bytes of the page of eight levels like photographs."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    page, seconds = photographs(folder, size)
    share = page.stat().st_size / sum(p.stat().st_size for p in folder.glob("*.png"))
    return Outcome(f"{seconds:.1f} s, {share:.2f} of its PNGs", seconds < 5 and share < 1.15)


@in_browser
def speed(size, folder, browser, checks):
    """Script a frame at 1080p, and frames a second at 960 x 540, while it plays."""
    page, _ = photographs(folder, 512)
    script, _ = checks.cost(browser, page, 1920, 1080, size)
    _, frames = checks.cost(browser, page, 960, 540, size)
    ok = script < 4 and frames >= 30
    return Outcome(f"{script:.2f} ms of script, {frames:.0f} frames a second", ok)


def newcomer(size: int, folder: Path) -> Outcome:
    """From a clone to the explorer on eight prompts of one's own, on this machine's cores."""
    subprocess.run(["git", "clone", "-q", ROOT, folder / "clone"], check=True)
    clone, began = folder / "clone", time.monotonic()
    setting_up = ". tools/environment ''; exec .venv/bin/pot-jax sample \"$@\" --workdir=runs/mine"
    environment = {**os.environ, "XDG_CACHE_HOME": str(folder / "cache")}
    command = ["bash", "-c", setting_up, "bash", *WORDS[:size]]
    subprocess.run(command, cwd=clone, env=environment, check=True)
    seconds = time.monotonic() - began
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    os.environ["REQUIRE_CHROMIUM"] = "1"
    from browser import chromium

    with chromium() as browser:
        browser.open(clone / "runs/mine/zoom.html", 1280, 800)
        shown = browser.run("return zooms[0].prompts") == [*WORDS[:size]]
        browser.seen("#1.5")
        wrong = browser.wrong()
    print(json.dumps(wrong))
    return Outcome(f"{seconds:.0f} s", seconds < 180 and shown and not wrong)


PAGE = [
    Row("page_pixels", "bytes at whole levels, within 2 between", pixels, 50, "views", 30.0),
    Row("page_borders", "at most 1.1 of the change at mid-level", borders, 256, "pixels", 30.0),
    Row("page_hostile", "500 hostile prompts run nothing", hostile, 500, "prompts", 30.0),
    Row("page_depth", "134 levels from end to end", depth, 134, "levels", 30.0),
    Row("page_made", "8 levels of 512 pixels in 5 s, 1.15 of the PNGs", made, 512, "pixels", 10.0,
        "", False),
    Row("page_speed", "4 ms of script at 1080p, 30 frames a second at 960 x 540", speed, 5,
        "seconds", 10.0, "", False),
    Row("page_newcomer", "the explorer on 8 prompts in 3 minutes from the clone", newcomer, 8,
        "levels", 30.0, "", False),
]  # fmt: skip

# The movie. --------------------------------------------------------------------------------------

MOVIE: list[Row] = []

# The recipe. -------------------------------------------------------------------------------------

RECIPE: list[Row] = []

# Prompts, photographs, scenes. -------------------------------------------------------------------

PROMPTS: list[Row] = []

ROWS = [
    *PAGE,
    *MOVIE,
    *RECIPE,
    *PROMPTS,
    Row("lines", f"at most {LINES:,} lines in the package, the page included", lines, 1, "run",
        30.0, "", False),
]  # fmt: skip
