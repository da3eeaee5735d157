"""All devices, all hosts: what is built of it so far, hosts and launch files."""

from pathlib import Path

from acceptance import Outcome, Row, at_most_lines
from acceptance_topics.hands import LINES as BEFORE
from acceptance_topics.robustness import passing

LINES = BEFORE + 800
HOSTS = "tests/parallel/test_hosts.py"


def hosts(size: int, folder: Path) -> Outcome:
    """Runs of 2 and of 4 processes beside one process's."""
    found = passing(HOSTS, 2, folder, {}, "-k", "make")
    return Outcome(found.figure, found.reached, size if found.reached else 0)


def chosen(words: str):
    """A row's function: the tests of hosts whose names have `words`."""
    return lambda size, folder: passing(HOSTS, size, folder, {}, "-k", words)


def launch(size: int, folder: Path) -> Outcome:
    """Launch files: options, fields, commands."""
    return passing("tests/test_launch.py", size, folder, {})


def stores(size: int, folder: Path) -> Outcome:
    """Runs in object stores, of which fsspec's memory is the stand-in: claims, states, files."""
    return passing("tests/media/test_stores.py", size, folder, {}, "tests/runs/test_stored_runs.py")


ROWS = [
    Row("hosts", "the pictures of one process", hosts, 4, "processes", 20.0, "", False),
    Row("lost", "one line within a minute, and it resumes", chosen("lost"), 1, "run", 20.0, "",
        False),
    Row("signal", "all end at one step, and it resumes", chosen("signal"), 1, "run", 20.0, "",
        False),
    Row("mistakes", "one line, no hang", chosen("mistakes"), 1, "run", 20.0, "", False),
    Row("launch", "parsed, checked, dry-run", launch, 1, "run", 20.0, "", False),
    Row("stores", "a store's run is a disk's; one holds it", stores, 40, "tests", 20.0, "", False),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES, "*.html"), 1,
        "run", 30.0, "", False),
]  # fmt: skip
