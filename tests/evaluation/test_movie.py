import numpy as np
import pytest
from zooms import CHAINS, constant, noise, pasted, world

from pot_jax.evaluation.metrics.movie import smoothness
from pot_jax.media.pixels import from_bytes
from pot_jax.media.video import zoom_frames
from pot_jax.zoom.geometry import Geometry

G = Geometry(8, 2, 64, 64)


@pytest.mark.parametrize("geometry", [G, Geometry(3, 2, 32, 48, ((-6, 4), (-6, 4)))], ids=str)
def test_against_a_slow_oracle(geometry):
    pictures = noise(geometry, 3)

    def change(t):
        before, after = zoom_frames(from_bytes(pictures), geometry, [t - 1 / 90, t + 1 / 90])
        return np.abs(before.astype(float) - after).mean()

    passing = np.mean([change(i) for i in range(1, geometry.levels - 1)])
    between = np.mean([change(i + 0.5) for i in range(geometry.levels - 1)])
    assert smoothness(pictures, geometry) == pytest.approx(passing / between, rel=1e-3)


@pytest.mark.parametrize("levels", [2, 5])
def test_a_loop_counts_its_joint(levels):
    geometry = Geometry(levels, 2, 32, 32, loop=True)
    pictures = noise(geometry, 3)

    def change(t):
        views = [(t - 1 / 90) % levels, (t + 1 / 90) % levels]
        before, after = zoom_frames(from_bytes(pictures), geometry, views)
        return np.abs(before.astype(float) - after).mean()

    passing = np.mean([change(i) for i in range(levels)])
    between = np.mean([change(i + 0.5) for i in range(levels)])
    assert smoothness(pictures, geometry) == pytest.approx(passing / between, rel=1e-3)


def test_golden_value():
    # default_rng(0).integers(0, 256, (8, 64, 64, 3)); Pillow's versions may round a byte apart
    assert smoothness(noise(G), G) == pytest.approx(0.9091, abs=2e-3)


def test_controls():
    assert smoothness(constant(G), G) == 1
    assert np.isnan(smoothness(noise(Geometry(2, 2, 64, 64)), Geometry(2, 2, 64, 64)))
    assert 0.8 < np.mean([smoothness(world(*chain), G) for chain in CHAINS]) < 1
    strangers = np.concatenate([world(seed, 2 + seed, levels=1) for seed in range(8)])
    assert smoothness(pasted(strangers, G), G) < 0.85


def test_levels_that_differ_change_while_they_fade_in():
    pictures = np.array(constant(G, (60, 60, 60)))
    pictures[::2, :, :, 0] += 120
    assert smoothness(pictures, G) < 0.9


def test_levels_that_lie_differently_have_no_smoothness():
    geometry = Geometry(3, 2, 32, 48, ((-6, 4), (3, -10)))
    assert np.isnan(smoothness(noise(geometry, 3), geometry))
