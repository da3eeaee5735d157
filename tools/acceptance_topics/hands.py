"""What a user takes away: the page, the movie, pictures with their recipe, prompts, photographs."""

import random
import re
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


_VALUES = ("0", "-1", "1e400", "true", '""', "nan", "[1]", "{a = 1}", "1979-05-27")
_SPANS = ("0-", "3-1", "2-9999", "7", "-2", "0-0")


def _mutated(rng: random.Random, text: str) -> bytes:
    """A scene file with a few characters, lines or values changed."""
    for _ in range(rng.randint(1, 3)):
        lines, at = text.splitlines(), rng.randrange(len(text) + 1)
        one, other = rng.choices(range(len(lines)), k=2) if lines else (0, 0)
        match rng.randrange(6):
            case 0:
                text = text[:at] + rng.choice(['"', "=", "[", "-", "9", "\n", "é", "#"]) + text[at:]
            case 1:
                text = text[:at] + text[at + rng.randint(1, 4) :]
            case 2 if lines:
                lines[one], lines[other] = lines[other], lines[one]
                text = "\n".join(lines)
            case 3 if lines:
                text = "\n".join([*lines[:one], lines[other], *lines[one:]])
            case 4:
                text = re.sub(r"= .*", f"= {rng.choice(_VALUES)}", text, count=1)
            case 5:
                text = re.sub(r"\n\d\S*", f"\n{rng.choice(_SPANS)}", text, count=1)
    data = text.encode()
    return data[: rng.randrange(len(data) + 1)] if rng.random() < 0.1 else data


def mutated_scenes(size: int, folder: Path) -> Outcome:
    """Shipped scenes, damaged: settings with a prompt for each level, or one line."""
    from pot_jax import config, spans
    from pot_jax.checks import build, to_dict
    from pot_jax.errors import UserError

    rng, breaches, valid = random.Random(0), [], 0
    scenes = sorted((ROOT / "configs" / "scenes").glob("*.toml"))
    for number in range(size):
        file = folder / "scene.toml"
        file.write_bytes(_mutated(rng, rng.choice(scenes).read_text()))
        try:
            settings = spans.resolved(build(config.RunSettings, config.read(str(file))))
            sound = all(isinstance(p, str) and p.strip() for p in settings.prompts)
            again = build(config.RunSettings, to_dict(settings))
            valid += 1
            if not (sound and settings.prompts and spans.resolved(again) == settings):
                breaches.append(f"{number}: {settings.prompts}")
        except UserError as error:
            if "\n" in str(error) or len(str(error)) > 1500:
                breaches.append(f"{number}: {error}")
        except Exception as error:
            breaches.append(f"{number}: {error!r}: {file.read_bytes()!r}")
    print("\n".join(breaches))
    said = f"{size - len(breaches)} of {size} valid ({valid}) or one line"
    return Outcome(said, not breaches and 0 < valid < size, size)


PROMPTS: list[Row] = [
    Row("mutated scenes", "2,000 mutated scene files: valid, or one line", mutated_scenes, 2000,
        "files", 60.0, "", True),
]  # fmt: skip

ROWS = [
    *PAGE,
    *MOVIE,
    *RECIPE,
    *PROMPTS,
    Row("lines", f"at most {LINES:,} lines in the package, the page included", lines, 1, "run",
        30.0, "", False),
]  # fmt: skip
