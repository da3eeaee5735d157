"""What the house allows, read from the source alone: order, circles, docstrings, foreign imports.

    broken(package)   every breach as "pot_jax/zoom/geometry.py:12: what is wrong"

Nothing is imported, and nothing is exempt. Imports inside functions, under `if`, and by
`importlib.import_module("...")` count like those at the top. A folder without `__init__.py` is
data: its files are not checked, and no module may import them.
"""

import ast
import graphlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

# The lines of the house from the ground up. A line imports from its own package and from the lines
# above it. Names joined by "+" are one package; the others on a line are neighbours, and neither
# may import the other. The longest name that fits a module is its place.
ORDER = """
    errors+checks+config+spans
    zoom
    diffusion
    media parallel
    world
    models
    weights
    evaluation.metrics
    runs
    pipelines
    training
    evaluation
    main+__main__+__init__
"""
LINES = [[part.split("+") for part in line.split()] for line in ORDER.split("\n") if line.strip()]
# Name -> (line, its neighbours' place on it).
PLACES = {
    name: (line, place)
    for line, packages in enumerate(LINES)
    for place, names in enumerate(packages)
    for name in names
}
LAST = len(LINES) - 1
TORCH = ("torch", "torchvision", "diffusers")  # diffusers imports torch
JAX = ("jax", "jaxlib", "chex", "flax", "optax", "orbax", "tensorstore")  # JAX and what imports it
WORLD_READS = ("numpy", "errors", "checks", "world")  # besides the standard library


class Import(NamedTuple):
    """One import of a module."""

    line: int
    name: str  # absolute, dotted; "" where the program computes it
    is_member: bool  # `from a import b` gives "a.b", where b may be a module or a name inside a


class Module(NamedTuple):
    """One source file."""

    name: str  # without the package's own: "zoom.geometry", "zoom" for its __init__, "__init__"
    file: str  # as messages show it
    tree: ast.Module
    imports: list[Import]


def broken(package: Path) -> list[str]:
    """Every breach of every rule in the package at `package`, in the order of RULES."""
    modules = read(package)
    found = (line for rule in RULES for line in rule(modules, package.name))
    return list(dict.fromkeys(found))  # one import of two names is one breach


def read(package: Path) -> dict[str, Module]:
    """Parses the files of a package, {name: Module}."""
    modules = {}
    for path in sorted(package.rglob("*.py")):
        parents = [p for p in path.parents if p.is_relative_to(package)]
        if not all((p / "__init__.py").exists() for p in parents):
            continue
        parts = path.relative_to(package).with_suffix("").parts
        is_init = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_init and len(parts) > 1 else parts)
        tree = ast.parse(path.read_text(), str(path))
        # Where relative imports begin.
        home = ".".join((package.name, *parts[:-1]))
        file = str(path.relative_to(package.parent))
        modules[name] = Module(name, file, tree, list(imports(tree, home)))
    return modules


def imports(tree: ast.Module, home: str) -> Iterator[Import]:
    """Every import in a file that lies in the package `home`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(node.lineno, alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute("." * node.level + (node.module or ""), home)
            for alias in node.names:
                star = alias.name == "*"
                yield Import(node.lineno, base if star else f"{base}.{alias.name}", not star)
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            first = node.args[0] if node.args else None
            literal = isinstance(first, ast.Constant) and isinstance(first.value, str)
            yield Import(node.lineno, _absolute(first.value, home) if literal else "", False)


def _absolute(name: str, home: str) -> str:
    level = len(name) - len(name.lstrip("."))
    if not level:
        return name
    parts = home.split(".")
    base = ".".join(parts[: len(parts) - level + 1])
    return f"{base}.{name[level:]}".rstrip(".")


def _called(node: ast.Call) -> str:
    return getattr(node.func, "attr", None) or getattr(node.func, "id", "")


def target(found: Import, modules: dict[str, Module], package: str) -> str | None:
    """The module of the package that an import reads; None for one that does not exist."""
    inside = found.name.removeprefix(package).removeprefix(".") or "__init__"
    if inside in modules:
        return inside
    if found.is_member:
        inside = inside.rpartition(".")[0] or "__init__"
    return inside if inside in modules else None


def own_imports(
    modules: dict[str, Module], package: str
) -> Iterator[tuple[Module, Import, str | None]]:
    """(module, import, module it reads) of every import from the package itself."""
    for module in modules.values():
        for found in module.imports:
            if found.name.split(".")[0] == package:
                yield module, found, target(found, modules, package)


def foreign_imports(modules: dict[str, Module], package: str) -> Iterator[tuple[Module, int, str]]:
    """(module, line, name of the outermost package) of every import from elsewhere."""
    for module in modules.values():
        for found in module.imports:
            root = found.name.split(".")[0]
            if root and root != package:
                yield module, found.line, root


def place(name: str) -> tuple[int, int] | None:
    """Where a module stands in ORDER; None where it has no place."""
    while name and name not in PLACES:
        name = name.rpartition(".")[0]
    return PLACES.get(name)


def may_read(here: tuple[int, int] | None, there: tuple[int, int] | None) -> bool:
    """Whether a module at `here` may import one at `there`; what has no place is told once."""
    return None in (here, there) or there == here or there[0] < here[0]


def package_of(name: str) -> str:
    """The name in ORDER of a module's package."""
    line, neighbour = place(name)
    return "+".join(LINES[line][neighbour])


def against_order(modules: dict[str, Module], package: str) -> Iterator[str]:
    """Imports from a neighbour or from a line below, and what cannot be placed."""
    for module in modules.values():
        if place(module.name) is None:
            yield f"{module.file}:1: {module.name} has no line in ORDER (tests/layout.py)"
            continue
        for found in module.imports:
            # The last line may import everything, so what it computes need not be known.
            if not found.name and place(module.name)[0] < LAST:
                yield (
                    f"{module.file}:{found.line}: imports a name that the program computes; write"
                    " it as a literal"
                )
    for module, found, reads in own_imports(modules, package):
        if reads is None:
            yield f"{module.file}:{found.line}: imports {found.name}, which is no module here"
        elif not may_read(place(module.name), place(reads)):
            yield (
                f"{module.file}:{found.line}: {package_of(module.name)} imports {reads} of"
                f" {package_of(reads)}, which is not above it"
            )


def circles(modules: dict[str, Module], package: str) -> Iterator[str]:
    """Modules that import each other, each circle once."""
    edges = {name: {} for name in modules}
    for module, found, reads in own_imports(modules, package):
        if reads not in (None, module.name):
            edges[module.name].setdefault(reads, found.line)
    while True:
        try:
            graphlib.TopologicalSorter(edges).prepare()
            return
        except graphlib.CycleError as error:
            ring = error.args[1][::-1]  # graphlib lists what is imported before what imports it
            line = edges[ring[0]].pop(ring[1])
            yield f"{modules[ring[0]].file}:{line}: a circle of imports: {' -> '.join(ring)}"


def undocumented(modules: dict[str, Module], package: str) -> Iterator[str]:
    """Public modules, classes, functions and methods without a docstring."""
    for module in modules.values():
        if any(part.startswith("_") and part != "__init__" for part in module.name.split(".")):
            continue
        for kind, name, node in _public(module.tree, ""):
            if not (ast.get_docstring(node) or "").strip():
                line = getattr(node, "lineno", 1)
                yield f"{module.file}:{line}: no docstring: {kind} {name or module.name}"


def _public(node: ast.AST, path: str) -> Iterator[tuple[str, str, ast.AST]]:
    """(kind, dotted name, node) of a module or class and of the public names in its body."""
    if isinstance(node, ast.Module | ast.ClassDef):
        yield ("class" if path else "module"), path, node
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            name = f"{path}.{child.name}".lstrip(".")
            if child.name.startswith("_"):
                continue
            if isinstance(child, ast.ClassDef):
                yield from _public(child, name)
            else:
                yield ("method" if path else "function"), name, child
        elif isinstance(child, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from _public(child, path)


def torch_imported(modules: dict[str, Module], package: str) -> Iterator[str]:
    """Imports of torch, or of what imports it."""
    for module, line, root in foreign_imports(modules, package):
        if root in TORCH:
            yield f"{module.file}:{line}: imports {root}; the package runs without torch"


def jax_in_settings(modules: dict[str, Module], package: str) -> Iterator[str]:
    """Imports of JAX on the first line: `--help` and a mistake in settings must not pay for it."""
    for module, line, root in foreign_imports(modules, package):
        if root in JAX and (place(module.name) or (LAST,))[0] == 0:
            yield f"{module.file}:{line}: imports {root}; settings are read without JAX"


def world_reads_more(modules: dict[str, Module], package: str) -> Iterator[str]:
    """Imports of the world beyond NumPy, the standard library, errors, checks and itself."""
    allowed = {*WORLD_READS, *sys.stdlib_module_names}
    found = [(m, line, root) for m, line, root in foreign_imports(modules, package)]
    found += [(m, i.line, r or i.name) for m, i, r in own_imports(modules, package)]
    for module, line, name in found:
        if module.name.split(".")[0] == "world" and name.split(".")[0] not in allowed:
            yield f"{module.file}:{line}: the world imports {name}; it is NumPy only"


RULES: tuple[Callable[[dict[str, Module], str], Iterator[str]], ...] = (
    against_order,
    circles,
    undocumented,
    torch_imported,
    jax_in_settings,
    world_reads_more,
)
