"""What a user takes away: the page, the movie, pictures with their recipe, prompts, photographs."""

import sys
from pathlib import Path

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

PAGE: list[Row] = []

# The movie. --------------------------------------------------------------------------------------

MOVIE: list[Row] = []

# The recipe. -------------------------------------------------------------------------------------

RECIPE: list[Row] = []

# Prompts, photographs, scenes. -------------------------------------------------------------------


def photographs(size: int, folder: Path) -> Outcome:
    """Damaged photographs, in one process: read as a whole picture, or one line."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "media")]
    from test_mutated_photographs import breaches

    found = breaches(folder, size)
    print("\n".join(found))
    return Outcome(f"{size - len(found)} of {size} valid or one line", not found, size)


PROMPTS: list[Row] = [
    Row("photographs", "2,000 damaged: valid or one clear line", photographs, 2000, "photographs"),
]

ROWS = [
    *PAGE,
    *MOVIE,
    *RECIPE,
    *PROMPTS,
    Row("lines", f"at most {LINES:,} lines in the package, the page included", lines, 1, "run",
        30.0, "", False),
]  # fmt: skip
