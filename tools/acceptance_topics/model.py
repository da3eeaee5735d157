"""A model worth looking at: the shipped models' demo, scores, wheel and training."""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from acceptance import ROOT, Outcome, Row, at_most_lines

# The package's lines before "a house in order", and what each of the issues since may add.
LINES = 13_996 + 1_200 + 400


def measure_host_share(settings: Any, steps: int) -> tuple[float, float]:
    """What a step of the denoiser's training takes, and what of it the devices take.

    The loop of `PhaseRun`, logging as in a training, against as many bare calls of the same
    compiled step, half of them before and half after. The data has a training's shapes, but is
    random and made on the devices: nothing is rendered, no state is saved.

    Args:
      settings: a `TrainSettings`.
      steps: how many are timed; the logs before and after them are not more than
        `intervals.log_steps` apart.

    Returns:
      (seconds a step of the loop, seconds a bare step). The host's share is 1 - bare / loop.
    """
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import NamedSharding, PartitionSpec

    from pot_jax.parallel.mesh import AXIS, device_mesh, replicated
    from pot_jax.runs.checkpoints import Checkpoints
    from pot_jax.training import diffusion, phases, train
    from pot_jax.training.journal import Journal
    from pot_jax.training.loop import Phase, PhaseRun

    class Moments(Journal):
        def add(self, step: int, seconds: float, *rest: Any) -> None:
            moments.append((step, seconds))
            super().add(step, seconds, *rest)

    class Nothing(Checkpoints):
        def save(self, *_: Any) -> None: ...

    def random_data():
        latents = jax.random.normal(jax.random.key(1), (count, *side), jnp.float32)
        shape = (settings.data.phrasings, count, settings.tokenizer.length)
        ids = jax.random.randint(jax.random.key(2), shape, 0, vocabulary, jnp.int16)
        return {"latents": latents, "ids": ids, "empty": jnp.zeros(shape[-1:], jnp.int32)}

    mesh, moments = device_mesh(), []
    count, vocabulary = settings.data.trained_on, settings.tokenizer.vocabulary
    networks = train._networks(settings, vocab_size=vocabulary)
    unet = networks.unet.config
    side = (unet.sample_size, unet.sample_size, unet.in_channels)
    data = jax.jit(random_data, out_shardings=replicated(mesh))()
    every = min(settings.intervals.log_steps, steps)
    whole = every * (1 + -(-steps // every))  # the first few only warm up
    settings = dataclasses.replace(
        settings,
        diffusion=dataclasses.replace(
            settings.diffusion,
            optimization=dataclasses.replace(
                settings.diffusion.optimization, steps=whole, minutes=0.0
            ),
        ),
    )
    optimization, dropout = settings.diffusion.optimization, settings.diffusion.caption_dropout
    rounded = phases.Run(settings, Path(), mesh, None, {}).in_precision
    choose = diffusion.choose_captions("diffusion", settings, count, dropout)
    with tempfile.TemporaryDirectory() as folder:
        phase = Phase(
            name="diffusion",
            loss=diffusion.make_loss(diffusion.Networks(*map(rounded, networks))),
            choose=choose,
            gather=diffusion.gather,
            settings=optimization,
            checkpoints=Nothing(folder),
            journal=Moments(folder, "diffusion"),
            seed=settings.seed,
            log_every=every,
            save_every=float("inf"),
            preview_every=float("inf"),
        )
        draws = {name: phases._initial(module, 0) for name, module in networks._asdict().items()}
        params = {name: draw() for name, draw in draws.items()}
        prepared = PhaseRun(phase, params, data, mesh)
        step = prepared._step.ready()

        def bare(steps: int) -> float:
            split = NamedSharding(mesh, PartitionSpec(AXIS))
            chosen = jax.device_put([choose(i) for i in range(steps + 2)], split)
            numbers = jax.device_put([np.int32(i) for i in range(steps + 2)], replicated(mesh))
            clock, key = jax.device_put((np.float32(0), jax.random.key(0)), replicated(mesh))
            state = prepared._start(params)
            for i in range(steps + 2):
                state, values = step(state, data, chosen[i], numbers[i], clock, key)
                if i == 1:  # two to warm up
                    values["loss"].block_until_ready()
                    began = time.monotonic()
            values["loss"].block_until_ready()
            return time.monotonic() - began

        half = -(-steps // 2)
        seconds = bare(half)
        prepared.run(lambda: params, data)
        seconds += bare(half)
    (first, early), (last, late) = moments[0], moments[-1]
    return (late - early) / (last - first), seconds / (2 * half)


def host_share(size: int, folder: Path) -> Outcome:
    """The host's share of a step of cosmos128's denoiser at a batch of `size`; 8 on CPUs."""
    del folder
    sys.path.insert(0, str(ROOT))
    import jax

    from pot_jax.checks import build
    from pot_jax.config import read
    from pot_jax.training.settings import TrainSettings

    config, steps = read("cosmos128", "train"), 300
    if jax.default_backend() == "cpu":
        size, steps = min(size, 8), 6
        config["data"]["phrasings"] = 2
        config["intervals"]["log_steps"] = 3
    config["diffusion"]["optimization"]["batch_size"] = size
    loop, bare = measure_host_share(build(TrainSettings, config), steps)
    share = 1 - bare / loop
    kind = jax.devices()[0].device_kind
    said = f"{share:.1%} of {1000 * loop:.1f} ms at a batch of {size}, {kind}"
    return Outcome(said, share < 0.05, size)


ROWS = [
    Row("host_share", "the host takes under 5 % of a training step", host_share, 256, "pictures",
        30.0, "", False),
    Row("lines", f"at most {LINES:,} lines in the package", at_most_lines(LINES)),
]  # fmt: skip
