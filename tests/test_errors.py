"""Edges: what a library says becomes one line there; our own bugs stay tracebacks."""

import ast
import errno
import json
import pathlib
import sys
import tomllib

import av
import jax
import ml_collections
import numpy as np
import pytest
import tensorstore
import tokenizers
from PIL import Image, ImageFont

import pot_jax
from pot_jax import errors
from pot_jax.errors import EDGES, MENDABLE, UserError, edge

PACKAGE = pathlib.Path(pot_jax.__file__).parent


def a_file(path, data=b"\x00damaged"):
    path.write_bytes(data)
    return path


def cut_npz(path):
    np.savez(path, images=np.zeros((50, 50)))
    data = bytearray(path.read_bytes())
    data[300] ^= 1
    path.write_bytes(data)
    with np.load(path) as arrays:
        return arrays["images"]


def no_store(path):
    kvstore = {"driver": "ocdbt", "base": (path / "none").as_uri(), "path": "a/"}
    return tensorstore.open({"driver": "zarr", "kvstore": kvstore}, open=True).result()


def out_of_memory(to):
    raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes")


# Edge -> something that its library does when what it was given is bad, in a new folder.
FOREIGN = {
    "writing a file": lambda to: (to / "none" / "file").write_text(""),
    "using a folder": lambda to: (a_file(to / "file") / "folder").mkdir(),
    "writing a movie": lambda to: av.open(str(a_file(to / "z.mp4"))),
    "reading a record": lambda to: (to / "config.json").read_bytes(),
    "parsing a record": lambda to: json.loads("{"),
    "reading flags": lambda to: a_file(to / "flags", b"\xff").read_text("utf-8"),
    "overriding a setting": lambda to: ml_collections.ConfigDict({"steps": 4}).stepz,
    "reading a config": lambda to: a_file(to / "c.py", b"\xff").read_text("utf-8"),
    "parsing a config": lambda to: json.loads("["),
    "parsing a scene": lambda to: tomllib.loads("["),
    "reading a model": lambda to: (a_file(to / "file") / "model").stat(),
    "finding devices": lambda to: jax.devices("abacus"),
    "joining a cluster": lambda to: jax.distributed.initialize(),
    "computing": out_of_memory,
    "reading arrays": lambda to: cut_npz(to / "a.npz"),
    "reading a picture": lambda to: Image.open(a_file(to / "a.png")),
    "reading a recipe": lambda to: json.loads("{"),
    "reading a font": lambda to: ImageFont.truetype(str(a_file(to / "f.ttf"))),
    "reading a kept copy": no_store,
    "reading a tokenizer": lambda to: tokenizers.Tokenizer.from_file(str(a_file(to / "t.json"))),
    "writing a folder": lambda to: (to / "none" / "folder").mkdir(),
    "saving a state": lambda to: (to / "none" / "file").write_text(""),
    "restoring a state": lambda to: cut_npz(to / "a.npz"),
}
BUGS = (AttributeError, TypeError, RuntimeError, AssertionError, NameError, ZeroDivisionError)


def test_every_edge_is_tried_and_used():
    assert FOREIGN.keys() == EDGES.keys()
    used = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "edge":
                used.add(node.args[0].value)
    assert used == EDGES.keys()


@pytest.mark.parametrize("name", EDGES)
def test_what_a_library_says_is_one_line(name, tmp_path):
    with pytest.raises(UserError) as caught, edge(name, tmp_path / "place"):
        FOREIGN[name](tmp_path)
    said = str(caught.value)
    where = {"{place}": "place", "{folder}": str(tmp_path)}
    for field, words in where.items():
        assert words in said or field not in EDGES[name].says
    assert "\n" not in said
    assert "{" not in said
    assert caught.value.__cause__ is not None


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_bug_of_ours_stays_a_traceback(name, bug):
    with pytest.raises(bug, match="ours"), edge(name, "place"):
        raise bug("ours")


@pytest.mark.parametrize("name", EDGES)
def test_users_errors_and_interrupts_pass_unchanged(name):
    for error in (UserError("mine"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, edge(name, "place"):
            raise error
        assert caught.value is error


@pytest.mark.parametrize("name", EDGES)
@pytest.mark.parametrize("number", MENDABLE, ids=errno.errorcode.get)
def test_what_a_disk_says_is_in_words(name, number):
    with pytest.raises(UserError) as caught, edge(name, "/folder/file"):
        raise OSError(number, "said by the system")
    line = EDGES[name].lines.get(number)
    assert line or MENDABLE[number] in str(caught.value)


def test_an_error_of_the_system_that_nobody_can_mend_is_a_bug():
    with pytest.raises(OSError, match="Bad file"), edge("writing a file", "place"):
        raise OSError(errno.EBADF, "Bad file descriptor")


def test_a_bare_exception_of_a_library_is_caught_at_its_edges_only():
    with pytest.raises(UserError, match="from C"), edge("restoring a state", "place"):
        raise Exception("from C")
    with pytest.raises(Exception, match="from C") as caught, edge("writing a file", "place"):
        raise Exception("from C")
    assert not isinstance(caught.value, UserError)


@pytest.mark.parametrize("place", ["line\nbreak", "{why}", "x" * 5000])
def test_places_are_shown_safely(place):
    with pytest.raises(UserError) as caught, edge("writing a file", place):
        raise OSError(errno.ENOSPC, "full")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


def test_edges_need_no_library():
    """The rows name libraries; they do not import them."""
    tree = ast.parse(pathlib.Path(errors.__file__).read_text())
    roots = {alias.name for n in ast.walk(tree) if isinstance(n, ast.Import) for alias in n.names}
    roots |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {root.split(".")[0] for root in roots} <= sys.stdlib_module_names
