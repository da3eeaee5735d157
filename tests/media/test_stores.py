import contextlib
import sys
import threading
import time

import object_stores
import pytest

from pot_jax.errors import Unreachable, UserError
from pot_jax.media import stores
from pot_jax.media.files import check_writable, file_digest, located, write_atomically, write_json

RUN = "s3://bucket/run"


@pytest.fixture
def store(monkeypatch):
    return object_stores.install(monkeypatch)


def test_local_paths_stay_what_they_are(tmp_path):
    assert located(str(tmp_path)) == tmp_path
    assert type(located("a")) is type(tmp_path)


def test_a_tree_is_listed(store):
    run = located(RUN)
    assert not run.exists()
    for name in ("a.png", "b.json", "levels/level_000.png", "stack_000/stack.npz"):
        (run / name).write_bytes(b"x")
    located("s3://bucket/runner/c").write_bytes(b"another's, whose name begins alike")
    assert run.is_dir()
    assert not run.is_file()
    assert (run / "a.png").is_file()
    assert [p.name for p in run.iterdir()] == ["a.png", "b.json", "levels", "stack_000"]
    assert [p.name for p in run.rglob("*.png")] == ["a.png", "level_000.png"]
    assert [str(p) for p in run.glob("*/stack.npz")] == [f"{RUN}/stack_000/stack.npz"]
    assert run.glob("stack_*")[0].is_dir()
    assert (run / "a.png").stat().st_size == 1
    (run / "levels" / "level_000.png").unlink()
    assert not (run / "levels").exists()


def test_names_are_taken_as_they_are(store):
    odd = located(RUN) / "seed=[0],scene=*" / "point.json"
    odd.write_bytes(b"{}")
    assert odd.parent.glob("*.json") == [odd]
    assert odd.read_text(encoding="utf-8") == "{}"


def test_files_arrive_whole_or_not_at_all(store):
    path = located(RUN) / "config.json"
    write_json(path, {"a": 1})
    assert path.read_text() == '{\n  "a": 1\n}\n'
    with contextlib.suppress(RuntimeError), write_atomically(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [str(p) for p in path.parent.rglob("*")] == [str(path)]
    assert file_digest(str(path)) != file_digest(RUN + "/none") == ""


def test_an_object_is_made_by_one(store):
    path, made = located(RUN) / "claim", []
    threads = [
        threading.Thread(target=lambda n=n: made.append(path.create(b"%d" % n))) for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(made) == [False] * 7 + [True]


@pytest.mark.parametrize("url", ["http://a/b", "gs://", "s3:///", "GS://bucket/run", "://"])
def test_other_urls_are_refused(url):
    with pytest.raises(UserError, match="expected a folder, gs://BUCKET"):
        located(url)


def test_a_library_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(UserError, match=r"pip install 'pot_jax\[s3\]'"):
        located(RUN)


def test_a_bucket_that_is_not_there(store):
    with pytest.raises(UserError, match="s3://none/run") as caught:
        check_writable("s3://none/run")
    assert "\n" not in str(caught.value)
    check_writable(RUN)
    assert not located(RUN).exists()


@pytest.mark.parametrize("method", ["exists", "is_dir", "unlink", "iterdir", "read_bytes", "stat"])
def test_what_is_not_known_is_not_taken_for_absent(store, monkeypatch, method):
    def fail(*given, **how):
        raise ConnectionResetError("reset\nby peer")

    for name in ("info", "find", "rm_file", "cat_file", "modified"):
        monkeypatch.setattr(type(store), name, fail)
    with pytest.raises(Unreachable, match=r"cannot use s3://bucket/run: reset; check") as caught:
        getattr(located(RUN), method)()
    assert "\n" not in str(caught.value)


def test_a_silent_store_is_not_waited_for(store, monkeypatch):
    monkeypatch.setattr(stores, "PATIENCE", 0.1)
    monkeypatch.setattr(type(store), "info", lambda *given: time.sleep(60))
    with pytest.raises(Unreachable, match="no answer within"):
        located(RUN).exists()
