import errno
import json
import os
import stat

import pytest

from pot_jax.errors import UserError
from pot_jax.media.files import write_atomically, write_json


def write_half(target, error):
    with write_atomically(target) as temporary:
        temporary.write_text("half")
        raise error


def test_moves_into_place_and_makes_the_folder(tmp_path):
    target = tmp_path / "deep" / "er" / "note.txt"
    with write_atomically(target) as temporary:
        assert temporary.parent == target.parent
        assert temporary.suffix == ".txt"
        assert temporary.name.startswith(".")
        temporary.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert os.listdir(target.parent) == ["note.txt"]


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there_and_nothing_else(tmp_path, interruption):
    target = tmp_path / "note.txt"
    target.write_text("old")
    with pytest.raises(interruption):
        write_half(target, interruption)
    assert target.read_text() == "old"
    assert os.listdir(tmp_path) == ["note.txt"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    (tmp_path / "plain").write_text("")
    with write_atomically(tmp_path / "atomic") as temporary:
        temporary.write_text("")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_a_full_disk_is_one_line(tmp_path):
    target = tmp_path / "note.txt"
    with pytest.raises(UserError, match=r"note\.txt: the disk is full") as caught:
        write_half(target, OSError(errno.ENOSPC, "No space left on device"))
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_way_is_one_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="a file stands where a folder is needed"):
        write_half(tmp_path / "file" / "note.txt", None)


def test_other_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError), write_atomically(tmp_path / "note.txt"):
        pass  # the block wrote nothing


def test_json_is_readable_and_strict(tmp_path):
    write_json(tmp_path / "a.json", {"é": [1.5, None]})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"é": [1.5, None]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", float("inf"))
    assert os.listdir(tmp_path) == ["a.json"]
