"""What a user takes away: the page, the movie, pictures with their recipe, prompts, photographs."""

import os
import subprocess
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


def verdict(breaches: list[str], size: int, what: str) -> Outcome:
    """The outcome of `size` trials, with the breaches in the row's log."""
    print("\n".join(breaches))
    return Outcome(f"{size - len(breaches)} of {size} {what}", not breaches, size)


def recipes_made_again(size: int, folder: Path) -> Outcome:
    """Random runs in one process, each made again from one of its own files."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import recipes

    variants = min(len(recipes.VARIANTS), 1 + size // 25)
    return verdict(recipes.made_again(folder, size, variants), size, "runs to the same bytes")


def damaged_recipes(size: int, folder: Path) -> Outcome:
    """Mutations of the texts in a picture of ours."""
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import recipes

    breaches, valid = recipes.mutations(recipes.picture(folder), folder, size)
    return verdict(breaches, size, f"valid ({valid}) or one line")


def unnamed_machine(size: int, folder: Path) -> Outcome:
    """A process whose home, user, host and folders are rare words, searched for in all it wrote."""
    del size
    sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
    import recipes

    work = recipes.make_rare(recipes.make_files(folder / "files"), folder)
    host = f"import socket, sys\nsocket.gethostname = lambda: {recipes.RARE['host']!r}\n"
    code = host + "from pot_jax import main\nsys.exit(main.main(['pot-jax', *sys.argv[1:]]))"
    flags = ["sample", "a", "b", "--steps=2", "--space=latent", *recipes.rare_flags(folder)]
    environment = {**os.environ, **recipes.rare_environment(folder), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code, *flags], cwd=work, env=environment, check=True)
    found = recipes.named(work / "run", str(ROOT), str(folder), "model/")
    return Outcome(f"{len(found)} files name it", not found)


RECIPE: list[Row] = [
    Row("recipes", "all of 100 runs made again from their own picture: the same bytes",
        recipes_made_again, 100, "run", 120.0),
    Row("damaged_recipes", "all of 2,000 mutated texts are valid or one line", damaged_recipes,
        2000, "mutation", 30.0),
    Row("unnamed_machine", "no byte of a run's files names home, user, host or folder",
        unnamed_machine, 1, "run", 30.0, "", False),
]  # fmt: skip

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
