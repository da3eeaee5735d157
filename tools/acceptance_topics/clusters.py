"""All devices, all hosts: devices by use, hosts, launch files, object stores, speed."""

import functools
import importlib.util
import json
import math
import os
import subprocess
import time
from pathlib import Path

from acceptance import ROOT, Outcome, Row, at_most_lines
from acceptance_topics.robustness import PYTHON, passing

LINES = 19_384 + 800  # the package before this topic, and what it may add
HOSTS, MESH = "tests/parallel/test_hosts.py", "tests/parallel/test_mesh.py"
SHARE = 0.03  # of a step, above which replicated operators are no longer cheap
# Stable Diffusion 1.5 at 512 pixels: FLOP of a batch row, and of a picture decoded and encoded. An
# H200: FLOP/s that this UNet reached there in bfloat16 at batch 16, and bytes/s by its data sheet.
SD15 = {"unet": 0.803e12, "decode": 2.51e12, "encode": 1.12e12}
H200 = {"flops": 368e12, "bytes": 4.8e12}


def hosts(size: int, folder: Path) -> Outcome:
    """Runs of 2 and of 4 processes beside one process's."""
    found = passing(HOSTS, 2, folder, {}, "-k", "make")
    return Outcome(found.figure, found.reached, size if found.reached else 0)


def chosen(words: str, file: str = HOSTS):
    """A row's function: the tests of a file whose names have `words`."""
    return lambda size, folder: passing(file, size, folder, {}, "-k", words)


def launch(size: int, folder: Path) -> Outcome:
    """Launch files: options, fields, commands."""
    return passing("tests/test_launch.py", size, folder, {})


def part_of_step(devices: int, operators: float, calls: list[tuple[int, float]]) -> float:
    """Returns the operators' share of a step on devices that all compute them.

    `operators` are their seconds, `calls` the pictures and the seconds a picture of the networks'
    calls; a device computes ceil(pictures / devices) of each call's. Collectives, which move a
    step's outputs once, are left out: with them the share would be smaller.
    """
    return operators / (operators + sum(math.ceil(n / devices) * each for n, each in calls))


def crossing(operators: float, calls: list[tuple[int, float]]) -> str:
    """Returns the share on one device, at most, and from how many devices on it passes `SHARE`.

    With these levels, devices beyond one for each batch row have nothing to do. With more levels
    all costs grow alike, so rows enough for any number of devices are assumed for the last figure.
    """
    most, networks = max(n for n, _ in calls), sum(n * each for n, each in calls)
    first, last = part_of_step(1, operators, calls), part_of_step(most, operators, calls)
    devices = math.ceil(SHARE / (1 - SHARE) * networks / operators)
    return f"{first:.2%} on 1, {last:.1%} on {most}; with more levels {SHARE:.0%} from {devices} on"


def operators(size: int, folder: Path) -> Outcome:
    """Operators against networks: cosmos64's measured on one device, Stable Diffusion's modelled.

    For a device of FLOP/s F and bytes/s M, networks take FLOP / F and operators, which hardly
    compute, XLA's count of their bytes / M.
    """
    import jax
    import jax.numpy as jnp

    import pot_jax
    from pot_jax.models.vae import decode_latents, encode_latents
    from pot_jax.zoom.agreement import consistent
    from pot_jax.zoom.geometry import Geometry
    from pot_jax.zoom.operators import shared_noise

    def compiled(function, *arguments):
        return jax.jit(function).lower(*arguments).compile()

    def seconds(function, *arguments) -> float:
        run = compiled(function, *arguments)
        took = []
        for _ in range(5):
            began = time.perf_counter()
            jax.block_until_ready(run(*arguments))
            took.append(time.perf_counter() - began)
        return min(took)

    def noise(geometry, key):
        return shared_noise(key, geometry, 4, kernel="mean")

    def agree(geometry, images):
        return consistent(images, geometry, weight=0.3, strip=0.15, own_colour=0.5)

    levels, key, model = 8, jax.random.key(0), pot_jax.load("cosmos64")
    unet = functools.partial(model.unet.apply, {"params": model.params["unet"]})
    side, c = model.unet.config.sample_size, model.unet.config.cross_attention_dim
    factor = model.autoencoder.config.downsample_factor
    pixels = jnp.ones((levels, side * factor, side * factor, 3))
    z = jnp.ones((levels, side, side, model.unet.config.in_channels))
    params = model.params["autoencoder"]
    each = {
        "unet": seconds(lambda z: unet(z, jnp.zeros(len(z)), text_states=jnp.ones((len(z), 77, c))),
                        jnp.concatenate([z, z])) / (2 * levels),
        "decode": seconds(lambda z: decode_latents(model.autoencoder, params, z), z) / levels,
        "encode": seconds(lambda x: encode_latents(model.autoencoder, params, x),
                          jnp.concatenate([pixels, pixels])) / (2 * levels),
    }  # fmt: skip
    found, reached = [], True
    for name, images in (("latent", z), ("pixel", pixels)):
        small = Geometry(levels, 2, side, side)
        grid = Geometry(levels, 2, *images.shape[1:3])
        took = seconds(functools.partial(agree, grid), images)
        took += seconds(functools.partial(noise, small), key)
        calls = ["unet"] if name == "latent" else ["unet", "decode", "encode"]
        rows = {"unet": 2 * levels, "decode": levels, "encode": 2 * levels}
        found.append(f"cosmos64 {name}: {crossing(took, [(rows[n], each[n]) for n in calls])}")
        reached &= part_of_step(1, took, [(rows[n], each[n]) for n in calls]) < 0.1
        large, latents = Geometry(levels, 2, 512, 512), Geometry(levels, 2, 64, 64)
        shape = (levels, 64, 64, 4) if name == "latent" else (levels, 512, 512, 3)
        at = latents if name == "latent" else large
        work = compiled(functools.partial(agree, at), jax.ShapeDtypeStruct(shape, "float32"))
        drawn = compiled(functools.partial(noise, latents), key)
        moved = sum(run.cost_analysis()["bytes accessed"] for run in (work, drawn))
        modelled = [(rows[n], SD15[n] / H200["flops"]) for n in calls]
        found.append(f"SD 1.5 {name}: {crossing(moved / H200['bytes'], modelled)}")
    return Outcome("; ".join(found), reached)


def stores(size: int, folder: Path) -> Outcome:
    """Runs in object stores, of which fsspec's memory is the stand-in: claims, states, files."""
    return passing("tests/media/test_stores.py", size, folder, {}, "tests/runs/test_stored_runs.py")


def bench(folder: Path, *options: str) -> dict:
    """What tools/bench measured on this machine's CPU."""
    command = [PYTHON, ROOT / "tools" / "bench", f"--json={folder / 'bench.json'}", *options]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    said = json.loads((folder / "bench.json").read_text())
    failed = {name: row["failed"] for name, row in said["rows"].items() if "failed" in row}
    if failed or said["not_run"]:
        raise RuntimeError(f"failed: {failed}; not run: {said['not_run']}")
    return said["rows"]


def unet(size: int, folder: Path) -> Outcome:
    """cosmos64's UNet on 16 rows beside torch.compile's of diffusers', by medians."""
    if importlib.util.find_spec("torch") is None:
        return Outcome("torch is not installed", False, 0)
    row = bench(folder, "--models=cosmos64", "--only=diffusers", "--minutes=20")
    ratios = row["cosmos64 diffusers 16"]["of_torch_compile"]
    step, forward = (ratios[name]["median"] for name in ("ours in a step", "ours"))
    return Outcome(f"{step:.3f} in a step; {forward:.3f} alone", step <= 1)


def step(size: int, folder: Path) -> Outcome:
    """cosmos64's joint step beside the sum of its parts, by medians."""
    rows = bench(folder, "--models=cosmos64", "--only=step", "--minutes=20")
    spaces = ("latent", "pixel")
    ratios = [rows[f"cosmos64 step {space}"]["of_parts"]["median"] for space in spaces]
    said = ", ".join(f"{space} {ratio:.3f}" for space, ratio in zip(spaces, ratios))
    return Outcome(said, max(ratios) <= 1.05)


def share(size: int, folder: Path) -> Outcome:
    """cosmos128's operators in its step, by the least times."""
    only = "--only=cosmos128 step,cosmos128 operators"
    rows = bench(folder, "--models=cosmos128", only, "--minutes=20")
    spaces = ("latent", "pixel")
    shares = [rows[f"cosmos128 operators {space}"]["of_step_time"] for space in spaces]
    said = ", ".join(f"{space} {100 * x:.2f} %" for space, x in zip(spaces, shares))
    return Outcome(said, max(shares) < 0.10)


def tiny(size: int, folder: Path) -> Outcome:
    """All of tools/bench on a toy."""
    rows = bench(folder, "--tiny", "--minutes=10")
    return Outcome(f"{len(rows)} rows", len(rows) >= 12)


ROWS = [
    Row("mesh", "every split of 8 devices gives one's pictures to 1e-5, its noise to the bit",
        chosen("split or drawn or one_device", MESH), 1, "run", 20.0, "", False),
    Row("collectives", "1 all-gather a step in latents, 3 in pixels, those of split parameters",
        chosen("meet or layer", MESH), 1, "run", 20.0, "", False),
    Row("operators", "under 10 % of a step on one device; from how many over 3 %", operators, 1,
        "run", 10.0, "", False),
    Row("unet", "at most 1.0 of torch.compile's time of the same UNet", unet, in_tenth=False),
    Row("step", "at most 1.05 of the sum of its parts", step, in_tenth=False),
    Row("share", "operators under 10 % of cosmos128's step", share, in_tenth=False),
    Row("bench", "all rows on a toy", tiny, in_tenth=False),
    Row("hosts", "the pictures of one process", hosts, 4, "processes", 20.0, "", False),
    Row("lost", "one line within a minute, and it resumes", chosen("lost"), 1, "run", 20.0, "",
        False),
    Row("signal", "all end at one step, and it resumes", chosen("signal"), 1, "run", 20.0, "",
        False),
    Row("mistakes", "one line, no hang", chosen("mistakes"), 1, "run", 20.0, "", False),
    Row("launch", "parsed, checked, dry-run", launch, 1, "run", 20.0, "", False),
    Row("stores", "a store's run is a disk's; one holds it", stores, 40, "tests", 20.0, "", False),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES, "*.html"), 1,
        "run", 30.0, "", False),
]  # fmt: skip
