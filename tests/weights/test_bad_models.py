"""Model folders as they break: each is refused in one line, harmlessly.

For every kind the same holds: a UserError of one line that names the file and ends in what to do;
nothing runs, nothing is written, no memory is taken that the model would not need.
"""

import shutil
import tracemalloc
from pathlib import Path

import pytest
from bad_models import KINDS, XL_KINDS
from tiny_models import tiny_xl

from pot_jax.weights.export import export
from pot_jax.weights.load import load

MEMORY = 60_000_000  # bytes; the tiny model and everything read beside it take under half


def everything(place: Path):
    return {
        str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in place.rglob("*")
    }


@pytest.fixture(scope="module")
def exported_xl(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported_xl") / "tiny_xl"
    export(tiny_xl(tmp_path_factory.mktemp("tokenizers")), folder)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_bad_models(folder, tmp_path, kind, one_line):
    check(folder, tmp_path, *KINDS[kind], one_line)


@pytest.mark.parametrize("kind", XL_KINDS)
def test_bad_models_of_sdxl(exported_xl, tmp_path, kind, one_line):
    folder = shutil.copytree(exported_xl, tmp_path / "tiny_xl")
    check(folder, tmp_path, *XL_KINDS[kind], one_line)


def check(folder, tmp_path, damage, words, one_line):
    damage(folder)
    before = everything(tmp_path)
    tracemalloc.start()
    try:
        message = one_line(lambda: load(folder), *words)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    print(message)
    assert str(folder) in message
    assert everything(tmp_path) == before, "something was written"
    assert not (tmp_path / "boom").exists(), "code was run"
    assert peak < MEMORY


def test_there_are_many_kinds():
    assert len(KINDS) >= 40
