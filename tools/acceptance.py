"""What a topic has to reach, and what it reached: rows that are run, kept, and printed as a table.

    tools/acceptance house            starts the rows that have no result yet, in the background
    tools/acceptance house --table    prints the table so far
    tools/acceptance house --wait     starts them, or joins those that run; prints the table
    tools/acceptance house --again compile_once    forgets a row's result and starts

A topic is a file in tools/acceptance_topics with a list ROWS. Each row runs in a process of its
own, so that one that crashes or hangs is a failed row and the others still run. Results and logs
lie in runs/acceptance/TOPIC. A result holds for one commit, with its uncommitted changes, and one
definition of the row. A row that ran at less than its full size has not reached its target.
"""

import argparse
import contextlib
import dataclasses
import fcntl
import hashlib
import importlib.util
import inspect
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = ("row", "target", "figure", "size", "reached", "command")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a row got."""

    figure: str
    reached: bool
    size: int | None = None  # at which it ran, where that is less than was asked for


@dataclasses.dataclass(frozen=True)
class Row:
    """One figure to reach."""

    name: str
    target: str
    run: Callable[[int, Path], Outcome]  # (size, an empty folder) -> what it got
    size: int = 1  # in full
    unit: str = "run"
    minutes: float = 30.0  # after which it counts as hung
    command: str = ""  # how to run it alone; by default with this tool
    in_tenth: bool = True  # whether --scale=tenth runs it: it is quick there, and times nothing


def tenth(items: Sequence, size: int) -> list:
    """`size` of the items, drawn with a fixed seed, in their order; all where there are no more."""
    chosen = random.Random(0).sample(range(len(items)), min(size, len(items)))
    return [items[i] for i in sorted(chosen)]


def package_at(commit: str, folder: Path) -> Path:
    """The package and its configs as they were at a commit, in a new folder in `folder`."""
    place = folder / "base"
    place.mkdir()
    archive = subprocess.run(
        ["git", "archive", commit, "pot_jax", "configs"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    subprocess.run(["tar", "-x", "-C", place], input=archive.stdout, check=True)
    return place


def at_most_lines(limit: int, *others: str) -> Callable[[int, Path], Outcome]:
    """A row's function that counts the lines of the package's Python files, and of `others`."""

    def lines(size: int, folder: Path) -> Outcome:
        del size, folder
        files = (p for kind in ("*.py", *others) for p in (ROOT / "pot_jax").rglob(kind))
        count = sum(path.read_bytes().count(b"\n") for path in files)
        return Outcome(f"{count:,}", count <= limit)

    return lines


def commit() -> str:
    """The commit of the checkout, with a digest of what is not committed."""
    head, status, changes = (
        subprocess.check_output(["git", "-C", ROOT, *words.split()], text=True)
        for words in ("rev-parse --short=12 HEAD", "status --porcelain", "diff HEAD")
    )
    digest = hashlib.sha256((status + changes).encode()).hexdigest()[:8]
    return head.strip() + (f"+{digest}" if status else "")


class Topic:
    """The rows of a topic and their results on disk, at one scale."""

    def __init__(self, name: str, scale: str):
        """Raises ValueError where there is no such topic."""
        path = ROOT / "tools" / "acceptance_topics" / f"{name}.py"
        if not path.exists():
            known = ", ".join(sorted(p.stem for p in path.parent.glob("*.py")))
            raise ValueError(f"no topic {name!r}; known: {known}")
        spec = importlib.util.spec_from_file_location(name, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.name, self.scale, self.commit = name, scale, commit()
        rows = [row for row in module.ROWS if row.in_tenth or scale == "full"]
        self.rows: dict[str, Row] = {row.name: row for row in rows}
        self.folder = ROOT / "runs" / "acceptance" / name
        self.folder.mkdir(parents=True, exist_ok=True)

    def size(self, row: Row) -> int:
        """At which the row is run."""
        return row.size if self.scale == "full" else max(1, round(row.size / 10))

    def path(self, row: Row, suffix: str = "json") -> Path:
        """A file of the row's."""
        scale = "" if self.scale == "full" else f".{self.scale}"
        return self.folder / f"{row.name}{scale}.{suffix}"

    def key(self, row: Row) -> str:
        """What a kept result has to hold for."""
        fields = [getattr(row, f.name) for f in dataclasses.fields(row) if f.name != "run"]
        said = json.dumps([self.commit, self.size(row), *fields, inspect.getsource(row.run)])
        return hashlib.sha256(said.encode()).hexdigest()

    def result(self, row: Row) -> dict | None:
        """The kept result, if it is this commit's and this definition's."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path(row).read_text())
            if found["key"] == self.key(row):
                return found
        return None

    def keep(self, row: Row, outcome: Outcome, began: float) -> None:
        """Writes the result, whole or not at all."""
        result = dataclasses.asdict(outcome) | {"key": self.key(row), "commit": self.commit}
        result["size"] = self.size(row) if outcome.size is None else outcome.size
        result |= {"reached": bool(outcome.reached), "seconds": round(time.time() - began, 1)}
        self.path(row, "part").write_text(json.dumps(result, indent=1))
        self.path(row, "part").replace(self.path(row))

    def table(self) -> str:
        """The results so far, in Markdown."""
        lines = [f"{self.name} at {self.commit}", "", COLUMNS, ["---"] * len(COLUMNS)]
        lines += [self.cells(row) for row in self.rows.values()]
        return "\n".join(x if isinstance(x, str) else f"| {' | '.join(x)} |" for x in lines)

    def cells(self, row: Row) -> list[str]:
        """The row's line in the table."""
        result = self.result(row)
        command = row.command or f"tools/acceptance {self.name} --again {row.name}"
        figure, size, verdict = "", f"{row.size} {row.unit}", "not run"
        if result:
            figure, verdict = result["figure"], "yes" if result["reached"] else "no"
            if result["size"] < row.size:
                size = f"{result['size']} of {size}"
                verdict = f"not reached (ran at {result['size']})"
        cells = (row.name, row.target, figure, size, verdict, f"`{command}`")
        return [" ".join(cell.replace("|", "\\|").split()) for cell in cells]


def run_rows(topic: Topic) -> None:
    """Runs every row without a result, one after the other."""
    for row in topic.rows.values():
        if topic.result(row):
            continue
        began = time.time()
        print(f"{time.ctime()} {row.name}: {topic.path(row, 'log')}", flush=True)
        failure = run_apart(topic, row)
        if commit() != topic.commit:
            sys.exit("acceptance: the checkout changed while its rows ran; start them again")
        if not topic.result(row):
            topic.keep(row, Outcome(f"failed: {failure}", False), began)
        print(f"{time.ctime()} {row.name}: {topic.cells(row)[2:5]}", flush=True)


def run_apart(topic: Topic, row: Row) -> str:
    """Runs a row in a process of its own; says how it ended."""
    command = [sys.executable, __file__, topic.name, "--row", row.name, "--scale", topic.scale]
    with topic.path(row, "log").open("wb") as log:
        # The lock passes on to it: a row that outlives this process still counts as running.
        child = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=ROOT, start_new_session=True, close_fds=False
        )
        try:
            code = child.wait(60 * row.minutes)
        except subprocess.TimeoutExpired:
            return f"ran for more than {row.minutes:g} minutes"
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    said = topic.path(row, "log").read_text(errors="replace").strip()
    return f"exit code {code}: {said.rpartition(chr(10))[2][:200]}"


def run_row(topic: Topic, row: Row) -> None:
    """Runs a row in this process and keeps its result."""
    folder = topic.path(row, "work")
    subprocess.run(["rm", "-rf", folder], check=True)
    folder.mkdir()
    began = time.time()
    topic.keep(row, row.run(topic.size(row), folder), began)


@contextlib.contextmanager
def claimed(topic: Topic, wait: bool = False) -> Iterator[bool]:
    """Whether this process is now the one that runs the topic's rows."""
    with (topic.folder / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)
        free = False
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            free = True
        yield free


def start(topic: Topic) -> subprocess.Popen | None:
    """Starts the rows in the background, beyond the life of this shell; None where they run."""
    log = topic.folder / "log"
    with claimed(topic) as free:
        print(f"{'started' if free else 'already running'}; log: {log}", flush=True)
    if not free:
        return None
    command = [sys.executable, __file__, topic.name, "--foreground", "--scale", topic.scale]
    with log.open("ab") as out:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": out}
        return subprocess.Popen(command, **streams, start_new_session=True)


def main() -> int:
    """Exit code 0: all that was asked for is reached or started; 1: not reached; 2: a mistake."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("topic")
    parser.add_argument("--again", metavar="ROW", action="append", default=[])
    parser.add_argument("--scale", choices=("full", "tenth"), default="full")
    parser.add_argument("--table", action="store_true", help="print the table so far; run nothing")
    parser.add_argument("--wait", action="store_true", help="stay until the rows have run")
    parser.add_argument("--foreground", action="store_true", help="run the rows in this process")
    parser.add_argument("--row", help=argparse.SUPPRESS)  # what the processes of rows are told
    given = parser.parse_args()
    try:
        topic = Topic(given.topic, given.scale)
        unknown = {*given.again, *filter(None, [given.row])} - set(topic.rows)
        if unknown:
            raise ValueError(f"no row {', '.join(unknown)}; known: {', '.join(topic.rows)}")
    except ValueError as error:
        print(f"acceptance: {error}", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    if given.row:
        run_row(topic, topic.rows[given.row])
        return 0
    for name in given.again:
        topic.path(topic.rows[name]).unlink(missing_ok=True)
    process = None if given.foreground or given.table else start(topic)
    if given.foreground:
        with claimed(topic, wait=True):
            run_rows(topic)
    elif given.wait:
        process and process.wait()
        with claimed(topic, wait=True):
            pass
    elif not given.table:
        return 0
    print(topic.table())
    results = [(topic.size(row), topic.result(row)) for row in topic.rows.values()]
    return 0 if all(r and r["reached"] and r["size"] >= size for size, r in results) else 1


if __name__ == "__main__":
    sys.exit(main())
