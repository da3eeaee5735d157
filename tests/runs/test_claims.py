"""Who holds a folder, what a killed holder leaves, and which folders are free."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
from contention import most_at_once
from holder import HOLD

from pot_jax.errors import UserError
from pot_jax.media.files import check_writable
from pot_jax.runs import claims
from pot_jax.runs.claims import check_free, check_held, held, read_json


@pytest.fixture
def holder(tmp_path):
    """A process that holds tmp_path/run."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def refused(folder):
    with pytest.raises(UserError) as caught, held(folder):
        pass
    return str(caught.value)


def test_a_second_process_is_told_who_holds_the_folder(tmp_path, holder):
    said = refused(tmp_path / "run")
    assert f"is in use by process {holder.pid} on " in said
    assert "\n" not in said
    with pytest.raises(UserError, match="is in use by"):
        check_held(tmp_path / "run")


def test_a_killed_process_frees_its_folder_at_once(tmp_path, holder):
    folder = tmp_path / "run"
    leftovers = [
        folder / ".pot_jax-0123.npz",
        folder / "levels" / ".pot_jax-0123.png",
        folder / "state" / "5.orbax-checkpoint-tmp-1" / "file",
    ]
    kept = [folder / "levels" / "level_000.png", folder / ".DS_Store"]
    for path in (*leftovers, *kept):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    check_held(folder)
    with held(folder):
        assert not any(path.exists() for path in leftovers)
        assert all(path.exists() for path in kept)
    assert sorted(path.name for path in folder.rglob("*") if path.is_file()) == [
        ".DS_Store",
        "level_000.png",
    ]


def claimed(folder, **changes):
    """A claim file as a process left it that differs from this one in `changes`."""
    folder.mkdir()
    mine = claims._process(os.getpid())
    path = folder / ".pot_jax-claim.json"
    path.write_text(json.dumps(mine | changes))
    return path


@pytest.mark.parametrize(
    ("changes", "age", "is_held"),
    [
        ({}, 0, True),
        ({}, 1e6, True),  # asleep, not ended
        ({"start": "1"}, 0, False),  # its number now belongs to this process
        ({"pid": 2**22 + 1}, 0, False),
        ({"name": "renamed"}, 0, True),
        ({"name": "other", "host": ["pid:[1]", "another boot"]}, 0, True),
        ({"name": "other", "host": ["pid:[1]", "another boot"]}, claims.STALE - 5, True),
        ({"name": "other", "host": ["pid:[1]", "another boot"]}, claims.STALE + 5, False),
        ({"host": ["", ""]}, 0, True),  # no /proc: only the heartbeat counts
        ({"host": ["", ""]}, claims.STALE + 5, False),
    ],
)
def test_when_a_claim_counts(tmp_path, changes, age, is_held):
    path = claimed(tmp_path / "run", **changes)
    then = time.time() - age
    os.utime(path, (then, then))
    if is_held:
        assert changes.get("name", "") in refused(path.parent)
        assert path.exists()
    else:
        with held(path.parent):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not path.exists()


def test_a_claim_that_is_being_written_counts(tmp_path):
    path = claimed(tmp_path / "run")
    path.write_text('{"pid": 3')
    assert "is in use by process ?" in refused(path.parent)


def test_the_claim_is_touched_and_released(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "BEAT", 0.02)
    path = tmp_path / "run" / ".pot_jax-claim.json"

    def fail():
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime < 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime > 1
        raise RuntimeError

    with pytest.raises(RuntimeError), held(path.parent):
        fail()
    assert not path.exists()


def test_a_stale_claim_goes_to_one_of_many(tmp_path):
    claimed(tmp_path / "run", start="1")
    assert most_at_once(tmp_path / "run") == 1


STRAY = (
    ".DS_Store",
    "Thumbs.db",
    "train.log",
    "slurm-1234.out",
    "nohup.out",
    "job.sh.o1234",
    "events.out.tfevents.1700000000.host",
    "lost+found/",
    ".ipynb_checkpoints/",
)


def make(folder, name):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir() if name.endswith("/") else path.write_text("")


@pytest.mark.parametrize("name", STRAY)
def test_what_programs_leave_anywhere_is_no_project(tmp_path, name):
    make(tmp_path / "run", name)
    check_free(tmp_path / "run" / "config.json", what="run")


@pytest.mark.parametrize("name", ["thesis.txt", "levels/", "stack.npz", "model/", "main.py"])
def test_somebodys_work_is(tmp_path, name):
    make(tmp_path / "run", name)
    with pytest.raises(UserError, match=f"holds other files and no run .{name.strip('/')}, "):
        check_free(tmp_path / "run" / "config.json", what="run")


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("file/run", "a file stands where a folder is needed"),
        ("x" * 300, "the name is too long"),
        ("/proc/run", "is not there"),
        ("loop/run", "symbolic links lead in a circle"),
        ("new/run", None),
    ],
)
def test_a_folder_is_tried_and_left_as_it_was(tmp_path, folder, words):
    (tmp_path / "file").write_text("")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir(tmp_path))
    if words:
        with pytest.raises(UserError, match=words):
            check_writable(tmp_path / folder)
        with pytest.raises(UserError, match=words), held(tmp_path / folder):
            pass
    else:
        check_writable(tmp_path / folder)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b'\xef\xbb\xbf{"a": "\xc3\xa9"}', None),
        (b'{"a": ', "is not complete JSON"),
        (b"\xff\xfe", "is not complete JSON"),
        (b"[" * 100_000, "is not complete JSON"),
        (b"[]", "contains a list"),
        (None, "no run at .*: it has no config.json"),
    ],
)
def test_records_are_utf_8_whatever_the_locale(tmp_path, data, words):
    path = tmp_path / "config.json"
    if data is not None:
        path.write_bytes(data)
    if words is None:
        assert read_json(path) == {"a": "é"}
        return
    with pytest.raises(UserError, match=words):
        read_json(path)
