"""The wheel: all of the package is inside, models and cards and configs, and it is small.

`tools/acceptance model` also installs it in an empty environment and samples with it.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import zipfile

ROOT = pathlib.Path(__file__).parents[1]
IGNORED = shutil.ignore_patterns("__pycache__")


def test_the_wheel_holds_the_whole_package(tmp_path):
    source = tmp_path / "source"
    for folder in ("pot_jax", "configs"):
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=IGNORED)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    code = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", code, tmp_path]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.stat().st_size < 60e6
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    files = {
        str(pathlib.Path(where, name).relative_to(ROOT))
        for where, _, found in os.walk(ROOT / "pot_jax", followlinks=True)
        for name in found
        if "__pycache__" not in where
    }
    assert {name for name in names if ".dist-info/" not in name} == files
    for model in ("cosmos128", "cosmos64"):
        assert f"pot_jax/assets/{model}/README.md" in files
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in names)
