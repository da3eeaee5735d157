"""What a user takes away: the page, the movie, pictures with their recipe, prompts, photographs."""

import itertools
import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from acceptance import ROOT, Outcome, Row, at_most_lines

# Rows use what the tests use; each runs in a process of its own.
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "media")]
HERE = {**os.environ, "PYTHONPATH": str(ROOT)}

LINES = 17_756 + 1_200  # the package before this topic, and what it may add


def verdict(breaches: list[str], size: int, what: str) -> Outcome:
    """The outcome of `size` trials, with the breaches in the row's log."""
    print("\n".join(breaches))
    return Outcome(f"{size - len(breaches)} of {size} {what}", not breaches, size)


# The page. ---------------------------------------------------------------------------------------

WORDS = ("a spiral galaxy", "a star and its planets", "a blue planet", "an island in the sea")
WORDS += ("a tree on a meadow", "a branch", "a leaf", "a ladybug on a leaf")


def in_browser(check):
    """A row's function: a check of tests/media/explorer_checks.py in a browser of its own."""

    def run(size: int, folder: Path) -> Outcome:
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


def photograph_page(folder: Path, size: int) -> tuple[Path, float]:
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
    page, seconds = photograph_page(folder, size)
    share = page.stat().st_size / sum(p.stat().st_size for p in folder.glob("*.png"))
    return Outcome(f"{seconds:.1f} s, {share:.2f} of its PNGs", seconds < 5 and share < 1.15)


@in_browser
def speed(size, folder, browser, checks):
    """Script a frame at 1080p, and frames a second at 960 x 540, while it plays."""
    page, _ = photograph_page(folder, 512)
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
    Row("page_pixels", "bytes at whole levels, within 2 between", pixels, 50, "views", 30.0, "",
        False),
    Row("page_borders", "at most 1.1 of the change at mid-level", borders, 256, "pixels", 30.0, "",
        False),
    Row("page_hostile", "500 hostile prompts run nothing", hostile, 500, "prompts", 30.0, "",
        False),
    Row("page_depth", "134 levels from end to end", depth, 134, "levels", 30.0, "",
        False),
    Row("page_made", "8 levels of 512 pixels in 5 s, 1.15 of the PNGs", made, 512, "pixels", 10.0,
        "", False),
    Row("page_speed", "4 ms of script at 1080p, 30 frames a second at 960 x 540", speed, 5,
        "seconds", 10.0, "", False),
    Row("page_newcomer", "the explorer on 8 prompts in 3 minutes from the clone", newcomer, 8,
        "levels", 30.0, "", False),
]  # fmt: skip

# The movie. --------------------------------------------------------------------------------------

# A film of pictures in memory, in a process of its own: its seconds and its peak in bytes.
FILM = """
import resource, sys, time
import numpy as np
from pot_jax.config import MovieSettings
from pot_jax.runs.zoom import write_movie
from pot_jax.zoom.geometry import Geometry
seconds, path = float(sys.argv[1]), sys.argv[2]
levels = max(2, round(seconds * 2 / 3))
offsets = [(64 * (i % 3 - 1), 32 * (i % 5 - 2)) for i in range(levels - 1)]
geometry = Geometry(levels, 2, 512, 512, tuple(offsets))
small = np.random.default_rng(0).uniform(-1, 1, (levels, 64, 64, 3)).astype(np.float32)
images = small.repeat(8, axis=1).repeat(8, axis=2)
how = {"easing": 0.5, "captions": True, "scale_bar": True}
movie = MovieSettings(seconds=seconds, size=1080, aspect="16:9", **how)
began = time.perf_counter()
write_movie(images, geometry, movie, path, [f"level {i}" for i in range(levels)], 1e21)
peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(time.perf_counter() - began, peak)
"""


def film(size: int, folder: Path) -> Outcome:
    """1080p at 30 frames a second, over the encoder's time for frames ready in memory; its peak."""
    import av

    from pot_jax.media.encoding import write_video

    command = [sys.executable, "-c", FILM, str(size), str(folder / "film.mp4")]
    said = subprocess.run(command, env=HERE, cwd=folder, check=True, capture_output=True, text=True)
    whole, peak = map(float, said.stdout.split())
    with av.open(folder / "film.mp4") as container:
        count = container.streams.video[0].frames
        parts = [(f, i) for i, f in enumerate(container.decode(video=0)) if i % (count // 3) < 30]
        ready = [f.to_ndarray() for f, _ in parts]  # yuv420p, of three places
    began = time.perf_counter()
    write_video(folder / "again.mp4", itertools.islice(itertools.cycle(ready), count), 30)
    ratio = whole / (time.perf_counter() - began)
    figure = f"{ratio:.2f} times, {peak / 1e6:.0f} MB, {count} frames in {whole:.0f} s"
    return Outcome(figure, ratio <= 2 and peak < 1e9 and count == 30 * size, size)


def film_borders(size: int, folder: Path) -> Outcome:
    """How much 1080p frames change at all borders of a film, over mid-level; by cosmos128."""
    from pot_jax.evaluation.metrics.movie import smoothness
    from pot_jax.runs.zoom import read_levels, read_record
    from pot_jax.world.captions import scene_prompts

    levels = round(size * 2 / 3)
    prompts = [scene_prompts(6, 5_800_000 + i // 6)[i % 6] for i in range(levels)]
    command = [sys.executable, "-m", "pot_jax", "sample", *prompts, "--steps=8"]
    command += ["--config.movie.fps=2", "--config.movie.size=64", f"--workdir={folder / 'run'}"]
    subprocess.run(command, env=HERE, check=True)
    geometry = read_record(folder / "run").geometry
    how = {"size": 1080, "aspect": 16 / 9, "pix_fmt": "yuv420p"}
    ratio = smoothness(read_levels(folder / "run", geometry), geometry, **how)
    return Outcome(f"{ratio:.3f}", 0.9 <= ratio <= 1.1, size)


MOVIE: list[Row] = [
    Row(
        "film", "at most twice the encoder's time, under 1 GB", film, 60, "seconds", 30.0, "", False
    ),
    Row("borders", "within 10 % of mid-level", film_borders, 60, "seconds", 10.0, "", False),
]

# The recipe. -------------------------------------------------------------------------------------


def recipes_made_again(size: int, folder: Path) -> Outcome:
    """Random runs in one process, each made again from one of its own files."""
    import recipes

    variants = min(len(recipes.VARIANTS), 1 + size // 25)
    return verdict(recipes.made_again(folder, size, variants), size, "runs to the same bytes")


def damaged_recipes(size: int, folder: Path) -> Outcome:
    """Mutations of the texts in a picture of ours."""
    import recipes

    breaches, valid = recipes.mutations(recipes.picture(folder), folder, size)
    return verdict(breaches, size, f"valid ({valid}) or one line")


def unnamed_machine(size: int, folder: Path) -> Outcome:
    """A process whose home, user, host and folders are rare words, searched for in all it wrote."""
    del size
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


def photographs(size: int, folder: Path) -> Outcome:
    """Damaged photographs, in one process: read as a whole picture, or one line."""
    from test_mutated_photographs import breaches

    return verdict(breaches(folder, size), size, "valid or one line")


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
    if not 0 < valid < size:
        breaches.append(f"{valid} of {size} were valid: the damage is too great or too small")
    return verdict(breaches, size, f"valid ({valid}) or one line")


PROMPTS: list[Row] = [
    Row("photographs", "2,000 damaged: valid or one clear line", photographs, 2000, "photographs",
        30.0, "", False),
    Row("mutated scenes", "2,000 mutated scene files: valid, or one line", mutated_scenes, 2000,
        "files", 60.0, "", True),
]  # fmt: skip

ROWS = [
    *PAGE,
    *MOVIE,
    *RECIPE,
    *PROMPTS,
    Row("lines", f"at most {LINES:,} lines in the package, the page included",
        at_most_lines(LINES, "*.html"), 1, "run",
        30.0, "", False),
]  # fmt: skip
