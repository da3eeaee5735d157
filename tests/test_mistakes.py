"""A mistake is one line and exit code 2, before anything heavy, and leaves nothing behind."""

import contextlib
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import pytest
from mistakes import KINDS, Row
from mistakes_place import make_place

from pot_jax import main
from pot_jax.weights import load

ROOT = Path(__file__).parents[1]
LONGEST = 60  # seconds after which a row counts as hung


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes") / "place"
    folder.mkdir()
    make_place(folder)
    return folder


def listing(place: Path) -> dict[str, tuple]:
    """Everything in the folder, and what changes where a file is written to."""
    found = {str(path.relative_to(place)): path.lstat() for path in place.rglob("*")}
    return {
        name: (s.st_mode,) if stat.S_ISDIR(s.st_mode) else (s.st_ino, s.st_size, s.st_mtime_ns)
        for name, s in found.items()
    }


@contextlib.contextmanager
def prepared(row: Row, place: Path) -> Iterator[dict[str, tuple]]:
    """Does the row's damage to a model folder; yields what there is before the row."""
    inner = place / "bad_models"
    if row.damage:
        inner.mkdir()
        shutil.copytree(place / "tiny", inner / "bad")
        row.damage(inner / "bad")
        (place / "bad").symlink_to(inner / "bad")
    try:
        yield listing(place)
    finally:
        if row.damage:
            (place / "bad").unlink()
            shutil.rmtree(inner)


def breaches(row: Row, code: object, said: str, before: dict, after: dict) -> list[str]:
    """What is not as it must be after a row: its exit code, its line, and what it left."""
    lines = [line for line in said.splitlines() if not line.startswith("note: ")]
    if row.late:  # the run has been introduced by then
        lines = lines[-1:]
    words = [row.words] if isinstance(row.words, str) else row.words
    found = {
        f"exit code {code}": code != 2,
        "not one line": len(lines) != 1,
        "not ours": not (lines and lines[0].startswith("pot-jax: ") and "Traceback" not in said),
        f"without {words}": not all(word in said for word in words),
        f"left {sorted(name for name in after if after[name] != before.get(name))}": after
        != before,
    }
    wrong = "; ".join(text for text, is_wrong in found.items() if is_wrong)
    return [f"{[arg[:100] for arg in row.arguments]}: {wrong}: {said[-500:]}"] if wrong else []


def hung(*_):
    raise BaseException("it hangs")  # noqa: TRY002 - nothing may catch it


def weights_are_read(*_, **__):
    raise AssertionError("weights are read")


def run(row: Row, place: Path, capsys, monkeypatch) -> list[str]:
    """Runs a row in this process; returns its breaches."""
    with prepared(row, place) as before, monkeypatch.context() as patch:
        patch.chdir(place)
        patch.setenv("XDG_CACHE_HOME", str(place.parent / "cache"))
        if not row.late:
            for name in ("read_params", "restored_params"):
                patch.setattr(load, name, weights_are_read)
        signal.signal(signal.SIGALRM, hung)
        signal.alarm(LONGEST)
        try:
            code = main.main(["pot-jax", *row.arguments])
        except BaseException as error:
            code = repr(error)
        finally:
            signal.alarm(0)
        return breaches(row, code, capsys.readouterr().err, before, listing(place))


@pytest.fixture
def platforms():
    """JAX's own choice of platforms again, which `--devices` changes."""
    before = jax.config.jax_platforms
    yield
    jax.config.update("jax_platforms", before)


ROWS = [(kind, number) for kind, rows in KINDS.items() for number in range(len(rows))]


@pytest.mark.parametrize(("kind", "number"), ROWS)
def test_mistakes(kind, number, place, capsys, monkeypatch, platforms):
    if kind == "permissions" and os.geteuid() == 0:
        pytest.skip("the superuser may read everything")
    found = run(KINDS[kind][number], place, capsys, monkeypatch)
    assert not found, found


def test_there_are_many():
    rows = [str(row.arguments) + str(row.words) for kind in KINDS for row in KINDS[kind]]
    assert len(set(rows)) >= 300
    assert all(row.words for kind in KINDS for row in KINDS[kind])


def test_settings_alone_need_no_jax(place):
    """So they take under a second wherever Python starts in that time."""
    code = (
        "import sys, mistakes\nfrom pot_jax import main\n"
        "for kind in mistakes.QUICK:\n"
        "    for row in mistakes.KINDS[kind]:\n"
        "        main.main(['pot-jax', *row.arguments])\n"
        "        assert 'jax' not in sys.modules, row.arguments\n"
    )
    paths = os.pathsep.join((str(ROOT), str(ROOT / "tests")))
    environment = {**os.environ, "PYTHONPATH": paths}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-1000:]


def drawn(size: int) -> list[Row]:
    """`size` rows that a shell can type, drawn with a fixed seed, from all kinds in turn."""

    def typed(row: Row) -> bool:
        with contextlib.suppress(UnicodeEncodeError):
            line = b"".join(map(os.fsencode, row.arguments))
            return b"\0" not in line and len(line) < 100_000
        return False

    rng, rows = random.Random(0), []
    kinds = [kind for kind in KINDS if kind != "permissions"]
    while len(rows) < size:
        rng.shuffle(kinds)
        rows += [rng.choice([row for row in KINDS[kind] if typed(row)]) for kind in kinds]
    return rows[:size]


def run_apart(row: Row, place: Path, longest: float = 5.0) -> list[str]:
    """Runs a row as a user does; returns its breaches, and the time beyond `longest` seconds.

    The time is the processor's: the machine may have other work.
    """
    own = ("TF_CPP_MIN_LOG_LEVEL", "XLA_FLAGS")  # the suite's, not a user's
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {"XDG_CACHE_HOME": str(place.parent / "cache"), "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "pot_jax", *row.arguments]
    with prepared(row, place) as before:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            command, cwd=place, env=environment, capture_output=True, text=True, timeout=600
        )
        now = resource.getrusage(resource.RUSAGE_CHILDREN)
        found = breaches(row, done.returncode, done.stderr, before, listing(place))
    seconds = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    if seconds > longest:
        found.append(f"{row.arguments}: {seconds:.1f} s of processor time")
    return found


# `tools/acceptance robustness` runs 30, and holds them to five seconds.
DRAWN = int(os.environ.get("MISTAKES", 3))


@pytest.mark.parametrize("number", range(DRAWN))
def test_a_drawn_mistake_as_a_process(number, place):
    found = run_apart(drawn(DRAWN)[number], place, longest=5 if "MISTAKES" in os.environ else 60)
    assert not found, found
