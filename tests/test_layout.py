"""The house keeps its own rules (tests/layout.py), and each rule notices when it is broken."""

import pathlib

import pytest
from layout import LINES, ORDER, broken, read

ROOT = pathlib.Path(__file__).parents[1]

# A small house that breaks no rule: {file: source}.
SOUND = {
    "__init__.py": '"""The house."""\n_LAZY = {"walk": "pot_jax.pipelines.walk"}\n',
    "main.py": '"""Commands."""\ndef _go():\n    from pot_jax.pipelines import walk\n    walk\n',
    "errors.py": '"""Errors."""\nclass Mistake(ValueError):\n    """A mistake."""\n',
    "config.py": '"""Settings."""\nimport json\nfrom pot_jax.errors import Mistake\n',
    "zoom/__init__.py": '"""Operators."""\n',
    "zoom/geometry.py": '"""Places."""\nimport jax\nfrom pot_jax.errors import Mistake\n',
    "zoom/render.py": '"""Render."""\nfrom . import geometry\nfrom .geometry import jax\n',
    "media/__init__.py": '"""Bytes."""\n',
    "parallel/__init__.py": '"""Devices."""\n',
    "world/__init__.py": '"""The world."""\nimport math\nimport numpy as np\n',
    "evaluation/__init__.py": '"""Measures."""\nfrom pot_jax import pipelines\n',
    "evaluation/metrics/__init__.py": '"""Numbers."""\nimport pot_jax.models\n',
    "models/__init__.py": '"""Networks."""\nimport flax.linen as nn\n',
    "pipelines/__init__.py": '"""Pipelines."""\n',
    "pipelines/walk.py": (
        '"""The walk."""\nimport importlib\nfrom pot_jax.evaluation.metrics import *\n'
        'importlib.import_module("pot_jax.zoom.render")\n'
        'class Walk:\n    """Walks."""\n    def step(self):\n        """Steps."""\n'
        "    def __call__(self):\n        def inner():\n            pass\n"
        "    def _turn(self):\n        pass\n"
    ),
    "pipelines/_private.py": "def helper():\n    pass\n",
    "configs/scene.py": "import torch\n",  # without __init__.py: data
}

# (what it shows, file, source put at the file's end, what the message says)
BREACHES = [
    (
        "a line below",
        "zoom/render.py",
        "from pot_jax.models import nn",
        "zoom/render.py:4: zoom imports models of models, which is not above it",
    ),
    (
        "inside a function",
        "zoom/render.py",
        "def _f():\n    import pot_jax.pipelines.walk",
        "zoom/render.py:5: zoom imports pipelines.walk of pipelines",
    ),
    (
        "by a relative name",
        "zoom/render.py",
        "from ..pipelines import walk",
        "zoom imports pipelines.walk of pipelines",
    ),
    (
        "by import_module",
        "zoom/render.py",
        'import importlib\nimportlib.import_module("pot_jax.pipelines.walk")',
        "zoom/render.py:5: zoom imports pipelines.walk of pipelines",
    ),
    (
        "by a relative name of import_module",
        "zoom/render.py",
        'from importlib import import_module\nimport_module("..models", __package__)',
        "zoom/render.py:5: zoom imports models of models",
    ),
    (
        "by __import__",
        "zoom/render.py",
        '__import__("pot_jax.models")',
        "zoom imports models of models",
    ),
    (
        "for types only",
        "zoom/render.py",
        "if TYPE_CHECKING:\n    from pot_jax import models",
        "zoom/render.py:5: zoom imports models of models",
    ),
    (
        "the package's own names",
        "zoom/render.py",
        "from pot_jax import walk",
        "zoom imports __init__ of main+__main__+__init__",
    ),
    (
        "a neighbour",
        "media/__init__.py",
        "import pot_jax.parallel",
        "media imports parallel of parallel",
    ),
    (
        "the other neighbour",
        "parallel/__init__.py",
        "import pot_jax.media",
        "parallel imports media of media",
    ),
    (
        "metrics from the rest of evaluation",
        "evaluation/metrics/__init__.py",
        "from pot_jax import evaluation",
        "evaluation.metrics imports evaluation of evaluation",
    ),
    (
        "a computed name",
        "zoom/render.py",
        "import_module(name)",
        "zoom/render.py:4: imports a name that the program computes",
    ),
    (
        "a package without a line",
        "attic/__init__.py",
        '"""The attic."""',
        "attic/__init__.py:1: attic has no line in ORDER",
    ),
    (
        "data",
        "main.py",
        "from pot_jax.configs import scene",
        "main.py:5: imports pot_jax.configs.scene, which is no module here",
    ),
    (
        "a circle",
        "zoom/geometry.py",
        "def _f():\n    from pot_jax.zoom.render import jax",
        "a circle of imports: zoom.",
    ),
    ("a module without docstring", "zoom/blend.py", "import math", "no docstring: module zoom.b"),
    ("an empty docstring", "zoom/blend.py", '""" """', "no docstring: module zoom.blend"),
    ("a package without docstring", "runs/__init__.py", "", "no docstring: module runs"),
    (
        "a class without docstring",
        "errors.py",
        "class Other(Mistake):\n    pass",
        "errors.py:4: no docstring: class Other",
    ),
    (
        "a function without docstring",
        "main.py",
        "async def run():\n    pass",
        "main.py:5: no docstring: function run",
    ),
    (
        "a method without docstring",
        "errors.py",
        'class Other:\n    """Other."""\n    def why(self): ...',
        "errors.py:6: no docstring: method Other.why",
    ),
    (
        "a function under an if",
        "main.py",
        "try:\n    pass\nexcept OSError:\n    if True:\n        def run(): ...",
        "main.py:9: no docstring: function run",
    ),
    (
        "torch",
        "models/__init__.py",
        "def _f():\n    from torch import nn",
        "models/__init__.py:4: imports torch; the package runs without torch",
    ),
    (
        "diffusers",
        "models/__init__.py",
        "import diffusers.models",
        "imports diffusers; the package runs without torch",
    ),
    (
        "torch by import_module",
        "main.py",
        'importlib.import_module("torch.nn")',
        "main.py:5: imports torch",
    ),
    ("JAX in settings", "config.py", "import jax.numpy as jnp", "config.py:4: imports jax; sett"),
    ("optax in errors", "errors.py", "def _f():\n    import optax", "errors.py:5: imports optax"),
    ("a world with JAX", "world/__init__.py", "import jax", "the world imports jax; it is NumPy"),
    (
        "a world with settings",
        "world/__init__.py",
        "from pot_jax.config import json",
        "world/__init__.py:4: the world imports config; it is NumPy only",
    ),
    (
        "a world that draws on zoom",
        "world/__init__.py",
        "from pot_jax import zoom",
        "world/__init__.py:4: the world imports zoom; it is NumPy only",
    ),
]


def build(folder, files):
    for name, source in files.items():
        path = folder / "pot_jax" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
    return folder / "pot_jax"


def test_the_house_keeps_its_rules():
    found = broken(ROOT / "pot_jax")
    assert not found, f"{len(found)} breaches:\n" + "\n".join(found)


def test_the_whole_package_is_read():
    names = set(read(ROOT / "pot_jax"))
    assert {"__init__", "main", "zoom", "zoom.operators", "evaluation.metrics"} <= names
    files = [f for f in (ROOT / "pot_jax").rglob("*.py") if (f.parent / "__init__.py").exists()]
    assert len(names) == len(files)


def test_each_line_of_the_order_exists():
    modules = set(read(ROOT / "pot_jax"))
    assert {name for line in LINES for names in line for name in names} <= modules, ORDER


def test_a_sound_house_passes(tmp_path):
    assert broken(build(tmp_path, SOUND)) == []


@pytest.mark.parametrize(
    ("file", "source", "message"), [row[1:] for row in BREACHES], ids=[row[0] for row in BREACHES]
)
def test_each_breach_is_found(tmp_path, file, source, message):
    package = build(tmp_path, SOUND | {file: SOUND.get(file, "") + source + "\n"})
    found = broken(package)
    assert any(message in line for line in found), found


def test_a_package_may_name_its_parts(tmp_path):
    part = {"zoom/__init__.py": SOUND["zoom/__init__.py"] + "from .render import geometry\n"}
    assert broken(build(tmp_path, SOUND | part)) == []


def test_no_two_test_files_have_one_name():
    """pytest imports them by name, and collects the second only if nothing imported the first."""
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))
