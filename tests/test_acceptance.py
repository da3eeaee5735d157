"""tools/acceptance on a toy topic, in a checkout of its own."""

import json
import pathlib
import re
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).parents[1]

TOY = """
import os, pathlib, signal, subprocess
from acceptance import ROOT, Outcome, Row, tenth

def note(what):
    with open(ROOT / "runs" / "notes", "a") as notes:
        notes.write(what + "\\n")

def good(size, folder):
    note("good")
    return Outcome(f"{sum(tenth(range(30), size))} | of {len(list(folder.iterdir()))}", True)

def short(size, folder):
    return Outcome("enough", True, size=size - 1)

def bad(size, folder):
    return Outcome("3", False)

def raises(size, folder):
    raise RuntimeError("what it says")

def killed(size, folder):
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(size, folder):
    subprocess.run(["sleep", "1000"])

def kills_the_tool(size, folder):
    note("kills_the_tool")
    flag = ROOT / "runs" / "was_killed"
    if not flag.exists():
        flag.touch()
        os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome("survived", True)

def slow(size, folder):
    note("slow")
    while not (ROOT / "runs" / "go").exists():
        subprocess.run(["sleep", "0.1"])
    return Outcome("done", True)

def changes(size, folder):
    (ROOT / "changed").touch()
    return Outcome("changed", True)

known = (good, short, bad, raises, killed, kills_the_tool, slow, changes)
KNOWN = {f.__name__: f for f in known}
ROWS = [Row(name, "a target", KNOWN[name], size=SIZE, unit="runs") for name in NAMES]
ROWS += [Row("hangs", "a target", hangs, minutes=0.02)] if HANGS else []
"""


@pytest.fixture
def checkout(tmp_path):
    """A repository with the tool alone; runs/ is made and ignored as in the real one."""
    (tmp_path / "tools" / "acceptance_topics").mkdir(parents=True)
    (tmp_path / "runs").mkdir()
    source = (ROOT / "tools" / "acceptance.py").read_text()
    (tmp_path / "tools" / "acceptance.py").write_text(source)
    (tmp_path / ".gitignore").write_text("runs/\n__pycache__/\n")
    return tmp_path


def write_topic(checkout, *names, size=30, hangs=False):
    """Writes and commits the toy topic with the named rows."""
    values = f"NAMES, SIZE, HANGS = {names!r}, {size}, {hangs}\n"
    (checkout / "tools" / "acceptance_topics" / "toy.py").write_text(values + TOY)
    identity = ["-c", "user.name=Test", "-c", "user.email=test@example.com"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "Toy"]):
        subprocess.run(["git", *command], cwd=checkout, check=True)


def tool(checkout, *arguments):
    command = [sys.executable, "tools/acceptance.py", "toy", *arguments]
    return subprocess.run(command, cwd=checkout, capture_output=True, text=True, timeout=120)


def cells(done):
    """{row: its cells} of the table that was printed."""
    lines = [line for line in done.stdout.split("\n") if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {row[0]: row[1:] for row in rows[2:]}


def notes(checkout):
    return (checkout / "runs" / "notes").read_text().split()


def test_what_rows_get(checkout):
    write_topic(checkout, "good", "short", "bad", "raises", "killed", hangs=True)
    assert [row[3] for row in cells(tool(checkout, "--table")).values()] == ["not run"] * 6
    done = tool(checkout, "--foreground")
    assert done.returncode == 1
    found = cells(done)
    again = "`tools/acceptance toy --again {}`"
    assert found["good"] == ["a target", "435 \\| of 0", "30 runs", "yes", again.format("good")]
    assert found["short"][2:4] == ["29 of 30 runs", "not reached (ran at 29)"]
    assert found["bad"][1:4] == ["3", "30 runs", "no"]
    failed = "failed: exit code 1: RuntimeError: what it says"
    assert found["raises"][1:4] == [failed, "30 runs", "no"]
    assert found["killed"][1:4] == ["failed: killed by SIGKILL", "30 runs", "no"]
    assert found["hangs"][1:4] == ["failed: ran for more than 0.02 minutes", "1 run", "no"]
    log = (checkout / "runs" / "acceptance" / "toy" / "raises.log").read_text()
    assert "Traceback" in log


def test_finished_rows_are_kept_until_asked_for_again(checkout):
    write_topic(checkout, "good", "bad")
    assert tool(checkout, "--foreground").returncode == 1
    tool(checkout, "--foreground")
    assert notes(checkout) == ["good"]
    tool(checkout, "--foreground", "--again", "good")
    assert notes(checkout) == ["good"] * 2
    # Another definition, then another commit, then a change that is not committed.
    write_topic(checkout, "good", size=29)
    assert tool(checkout, "--foreground").returncode == 0
    assert notes(checkout) == ["good"] * 3
    topic = checkout / "tools" / "acceptance_topics" / "toy.py"
    topic.write_text(topic.read_text() + "# changed\n")
    assert cells(tool(checkout, "--table"))["good"][3] == "not run"


def test_a_killed_tool_resumes(checkout):
    write_topic(checkout, "good", "kills_the_tool")
    assert tool(checkout, "--foreground").returncode == -9
    done = tool(checkout, "--foreground")
    assert done.returncode == 0
    assert cells(done)["kills_the_tool"][1:4] == ["survived", "30 runs", "yes"]
    assert notes(checkout) == ["good", "kills_the_tool", "kills_the_tool"]


def test_a_tenth_has_not_reached_anything(checkout):
    write_topic(checkout, "good")
    done = tool(checkout, "--foreground", "--scale=tenth")
    assert done.returncode == 0, "what was asked for has passed"
    assert cells(done)["good"][-3:-1] == ["3 of 30 runs", "not reached (ran at 3)"]
    figure = cells(done)["good"][1]
    # The same tenth each time, and not in place of the whole.
    again = tool(checkout, "--foreground", "--scale=tenth", "--again=good")
    assert cells(again)["good"][1] == figure
    assert cells(tool(checkout, "--table"))["good"][3] == "not run"


def test_a_checkout_that_changes_ends_the_run(checkout):
    write_topic(checkout, "changes", "good")
    done = tool(checkout, "--foreground")
    assert done.returncode == 1
    assert "the checkout changed while its rows ran" in done.stderr
    assert not (checkout / "runs" / "notes").exists()
    (checkout / "changed").unlink()
    assert cells(tool(checkout, "--table"))["changes"][3] == "yes"


def test_it_runs_in_the_background_once(checkout):
    write_topic(checkout, "slow")
    began = time.time()
    done = tool(checkout)
    assert done.returncode == 0
    log = checkout / "runs" / "acceptance" / "toy" / "log"
    assert done.stdout == f"started; log: {log}\n"
    while not (checkout / "runs" / "notes").exists():
        assert time.time() - began < 60
        time.sleep(0.1)
    assert tool(checkout).stdout.startswith("already running")
    (checkout / "runs" / "go").touch()
    waited = tool(checkout, "--wait")
    assert waited.returncode == 0
    assert cells(waited)["slow"][3] == "yes"
    assert notes(checkout) == ["slow"]
    assert "slow: ['done', '30 runs', 'yes']" in log.read_text()


def test_mistakes_are_one_line(checkout):
    write_topic(checkout, "good")
    unknown = tool(checkout, "--again=no", "--foreground")
    assert (unknown.returncode, unknown.stderr) == (2, "acceptance: no row no; known: good\n")
    command = [sys.executable, "tools/acceptance.py", "nothing"]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (
        2,
        "acceptance: no topic 'nothing'; known: toy\n",
    )


def test_a_damaged_result_is_run_again(checkout):
    write_topic(checkout, "good")
    path = checkout / "runs" / "acceptance" / "toy" / "good.json"
    tool(checkout, "--foreground")
    assert json.loads(path.read_text())["size"] == 30
    path.write_text(path.read_text()[:20])
    assert tool(checkout, "--foreground").returncode == 0
    assert notes(checkout) == ["good", "good"]


@pytest.mark.parametrize("topic", sorted((ROOT / "tools" / "acceptance_topics").glob("*.py")))
def test_every_topic_has_a_table(topic):
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "acceptance.py", topic.stem, "--table"],
        capture_output=True,
        text=True,
    )
    assert done.stderr == ""
    found = cells(done)
    assert found
    assert all(len(row) == 5 for row in found.values())
