"""What a user takes away: the page, the movie, pictures with their recipe, prompts, photographs."""

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

PROMPTS: list[Row] = []

ROWS = [
    *PAGE,
    *MOVIE,
    *RECIPE,
    *PROMPTS,
    Row("lines", f"at most {LINES:,} lines in the package, the page included", lines, 1, "run",
        30.0, "", False),
]  # fmt: skip
