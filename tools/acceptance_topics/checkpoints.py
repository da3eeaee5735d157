"""Checkpoints that people have: Stable Diffusion XL, and what stays as it was.

Comparisons with diffusers, transformers and peft need them: tools/environment test,reference. Row
`full` takes 20 GB of memory and 15 GB of disk.
"""

import re
import subprocess
from pathlib import Path

from acceptance import ROOT, Outcome, Row, at_most_lines, package_at
from acceptance_topics.clusters import LINES as BEFORE
from acceptance_topics.robustness import PYTHON, passing

BASE = "5d85bc3"  # the commit before SDXL
LINES = BEFORE + 1200
REFERENCE = "tests/reference/test_sdxl_reference.py"
# The digest of every shipped model, and of one written in each family that BASE has.
DIGESTS = """
import hashlib, pathlib, sys, tempfile
sys.path.insert(0, sys.argv[1])
import tiny_models
import pot_jax
from pot_jax.weights.export import export
found = [pot_jax.load(name).digest for name in ("cosmos64", "cosmos128")]
with tempfile.TemporaryDirectory() as folder:
    place = pathlib.Path(folder) / "tiny"
    written = pathlib.Path(folder) / "written"
    written.mkdir()
    export(tiny_models.tiny_model(written), place)
    found.append(pot_jax.load(place).digest)
    files = sorted(p for p in place.rglob("*") if p.is_file())
    sums = [hashlib.sha256(p.read_bytes()).hexdigest() for p in files]
    found += [f"{p.relative_to(place)} {digest}" for p, digest in zip(files, sums)]
print("\\n".join(found))
"""


def tests(words: str, *files: str):
    """A row's function: tests of files whose names have `words`."""
    return lambda size, folder: passing(files[0], size, folder, {}, *files[1:], "-k", words)


def full(size: int, folder: Path) -> Outcome:
    """tools/full_size, each peer in a process of its own."""
    command = [PYTHON, ROOT / "tools" / "full_size", "--model=sdxl", f"--folder={folder}"]
    run = subprocess.run(command, cwd=ROOT, text=True, capture_output=True)
    print(run.stdout, run.stderr)
    decibels = re.findall(r"([0-9.]+) dB", run.stdout)
    peaks = re.findall(r"([0-9.]+) times", run.stdout)
    said = f"predictions {', '.join(decibels)} dB; loading {', '.join(peaks)} times the files"
    return Outcome(said if decibels else run.stderr[-300:], run.returncode == 0)


def unchanged(size: int, folder: Path) -> Outcome:
    """Digests and files of SD 1.x, here and at BASE."""
    before, found = package_at(BASE, folder), {}
    (before / "tests").mkdir()
    show = ["git", "-C", ROOT, "show", f"{BASE}:tests/tiny_models.py"]
    (before / "tests" / "tiny_models.py").write_bytes(subprocess.check_output(show))
    for name, place in (("now", ROOT), (BASE, before)):
        command = [PYTHON, "-c", DIGESTS, str(place / "tests")]
        environment = {"PYTHONPATH": str(place), "JAX_PLATFORMS": "cpu", "PATH": "/usr/bin"}
        found[name] = subprocess.check_output(command, env=environment, text=True, cwd=folder)
        print(name, found[name])
    count = len(found["now"].splitlines())
    return Outcome(f"{count} digests and files", found["now"] == found[BASE] and count > 3)


ROWS = [
    Row("encoders", "states and pooled 100 dB", tests("encoders or first_end", REFERENCE), 3,
        "tests", 20.0, "", False),
    Row("networks", "UNet and VAE 90 dB", tests("networks", REFERENCE), 2, "tests", 20.0, "",
        False),
    Row("pipeline", "latents 80 dB, pictures 70 dB after 4 steps", tests("pipeline", REFERENCE), 5,
        "tests", 30.0, "", False),
    Row("inpainting", "the same", tests("inpainting", REFERENCE), 1, "tests", 20.0, "", False),
    Row("mistakes", "each below 40 dB", tests("mistake_shows", REFERENCE), 11, "tests", 20.0, "",
        False),
    Row("digests", "a file and its folder, one digest; export loads in diffusers",
        tests("there_and_back or same_sdxl or export_is_theirs",
              "tests/weights/layouts/test_single_file.py",
              "tests/reference/test_original_layout.py", REFERENCE), 3, "tests", 20.0, "", False),
    Row("loras", "one digest for all spellings, 100 dB to diffusers' fused",
        tests("one_digest or sdxl_loras", "tests/weights/adapters/test_two_encoders.py",
              "tests/reference/test_adapters.py"), 2, "tests", 20.0, "", False),
    Row("sizes", "parameters exact, FLOP within 3 %",
        tests("real", "tests/pipelines/test_sdxl.py"), 2, "tests", 20.0, "", False),
    Row("devices", "several devices; killed and resumed",
        tests("devices or resumes", "tests/pipelines/test_sdxl.py"), 2, "tests", 20.0, "", False),
    Row("bad", "one line each", tests("xl", "tests/weights/test_bad_models.py"), 10, "tests", 20.0,
        "", False),
    Row("full", "1.3 times the files' size, 90 dB, under 20 GiB", full, 1, "run", 90.0, "", False),
    Row("unchanged", "bytes and digests of SD 1.x", unchanged, 1, "run", 20.0, "", False),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES, "*.html"), 1,
        "run", 30.0, "", False),
]  # fmt: skip
