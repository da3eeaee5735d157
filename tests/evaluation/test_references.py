import json

import numpy as np
import pytest
from zooms import CHAINS, GEOMETRIES, constant, enlarged, noise, pasted, world

from pot_jax.errors import UserError
from pot_jax.evaluation.metrics import detail as details
from pot_jax.evaluation.metrics import seams
from pot_jax.evaluation.metrics.references import against, alone, diversity, statistics
from pot_jax.zoom.geometry import Geometry

GOLDEN = Geometry(3, 2, 32, 32)
MEASURES = ["colour_step_ring", "colour_step_sides", "colour_drag"]
MEASURES += ["detail_outside", "detail_deepest"]


def zooms(geometry, count):
    return [noise(geometry, seed) // (1 + seed % 3) for seed in range(count)]


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=str)
def test_against_a_slow_oracle(geometry):
    ours, *others = [seams.lab(pictures) for pictures in zooms(geometry, 4)]
    kept, *references = [statistics(pictures, geometry) for pictures in zooms(geometry, 4)]
    found = against(kept, references)
    pairs = range(geometry.levels - 1)
    ring, sides, drag, power = [], [], [], []
    steps = [seams.colour_steps(colours, geometry) for colours in (ours, *others)]
    for i in pairs:
        usual = np.mean([step[0][i] for step in steps[1:]], axis=0)
        ring.append(np.sqrt(((steps[0][0][i] - usual) ** 2).sum()))
        for side in range(4):
            if not np.isnan(steps[0][1][i, side, 0]):
                usual = np.mean([step[1][i, side] for step in steps[1:]], axis=0)
                sides.append(np.sqrt(((steps[0][1][i, side] - usual) ** 2).sum()))
    for i in range(geometry.levels):
        usual = np.mean([colours[i].mean((0, 1)) for colours in others], axis=0)
        drag.append(np.sqrt(((ours[i].mean((0, 1)) - usual) ** 2).sum()))
    for colours in (ours, *others):
        octaves = details.top_octaves(colours, geometry.zoom_factor)
        power.append(details.detail(octaves, geometry))
    ratios = power[0] / np.mean(power[1:], axis=0)
    expected = [np.mean(ring), np.mean(sides), np.mean(drag)]
    expected += [np.prod(ratios[:-1]) ** (1 / len(pairs)), ratios[-1]]
    assert list(found) == MEASURES
    # The statistics are rounded to 6 decimals.
    np.testing.assert_allclose(list(found.values()), expected, rtol=1e-5)


def test_golden_values():
    # default_rng(seed).integers(0, 256, (3, 32, 32, 3)) // (1 + seed % 3) for seeds 0, 1, 2
    ours, *others = [statistics(pictures, GOLDEN) for pictures in zooms(GOLDEN, 3)]
    found = against(ours, others)
    np.testing.assert_allclose(
        list(found.values()), [13.6726, 19.251, 34.1774, 3.9359, 3.81349], rtol=1e-4
    )
    own = [-0.00672268, 0.009478, -0.0067415]
    np.testing.assert_allclose(list(alone(ours).values()), own, rtol=1e-4)
    np.testing.assert_allclose(diversity([ours, *others]), 30.52595, rtol=1e-4)


def test_statistics_are_small_plain_data():
    g = Geometry(8, 2, 64, 64)
    kept = statistics(noise(g), g)
    assert len(json.dumps(kept, allow_nan=False)) < 8_000
    again = json.loads(json.dumps(kept))
    assert again == kept
    assert against(again, [kept]) == {
        **dict.fromkeys(MEASURES, 0.0),
        **dict.fromkeys(MEASURES[3:], 1.0),
    }


def test_each_measure_notices_its_own_fault():
    g = Geometry(8, 2, 64, 64)
    others = [np.concatenate([world(10 * n + i, 2 + i, 1) for i in range(8)]) for n in range(4)]
    first, *references = [statistics(pictures, g) for pictures in others]
    usual = against(first, references)
    squares = against(statistics(pasted(others[0], g), g), references)
    assert squares["colour_step_ring"] > 2 * usual["colour_step_ring"]
    assert squares["colour_step_sides"] > 2 * usual["colour_step_sides"]
    blurred = against(statistics(enlarged(others[0], g), g), references)
    assert blurred["detail_outside"] < 0.2 * usual["detail_outside"]
    assert blurred["detail_deepest"] < 0.05 * usual["detail_deepest"]
    shifted = against(statistics(others[0] // 2 + 127, g), references)
    assert shifted["colour_drag"] > usual["colour_drag"] + 5
    flat = against(statistics(constant(g), g), references)
    assert flat["detail_outside"] < 1e-4
    scene = np.mean([one["step_ring"] for one in references], axis=0)
    np.testing.assert_allclose(
        flat["colour_step_ring"], np.linalg.norm(scene, axis=-1).mean(), rtol=1e-5
    )


def test_pictures_of_one_colour_are_as_sharp_as_each_other():
    kept = statistics(constant(GOLDEN), GOLDEN)
    found = against(kept, [statistics(constant(GOLDEN, (200, 10, 10)), GOLDEN)])
    assert found["detail_outside"] == found["detail_deepest"] == 1
    assert found["colour_drag"] > 50
    assert alone(kept)["seam_excess"] == 0
    assert abs(alone(kept)["repetition"]) < 1e-3


def test_the_excess_is_that_of_the_means_over_levels():
    g = Geometry(8, 2, 64, 64)
    colours = seams.lab(world(*CHAINS[5]))
    g0, near = seams.border_differences(colours, g)
    expected = g0.mean() / near.mean() - 1
    assert alone(statistics(world(*CHAINS[5]), g))["seam_excess"] == pytest.approx(
        expected, abs=1e-5
    )


def test_diversity():
    black, white = (statistics(constant(GOLDEN, (v,) * 3), GOLDEN) for v in (0, 255))
    assert diversity([black, black]) == 0
    assert diversity([black, white]) == pytest.approx(100, abs=0.1)
    assert diversity([black, black, white]) == pytest.approx(200 / 3, abs=0.1)


def test_one_level():
    one = Geometry(1, 2, 16, 16)
    kept = statistics(noise(one), one)
    assert alone(kept) == {}
    assert list(against(kept, [kept])) == ["colour_drag", "detail_deepest"]


def test_a_loop_has_a_border_more():
    loop = Geometry(3, 2, 32, 32, loop=True)
    opened = statistics(noise(loop), Geometry(3, 2, 32, 32))
    found = statistics(noise(loop), loop)
    for name in ("across", "near", "step_ring", "step_sides"):
        assert found[name][:2] == opened[name]
        assert len(found[name]) == 3
    assert found["repetition"] == opened["repetition"]
    assert found["detail"][:2] == opened["detail"][:2]
    assert against(found, [found])["detail_deepest"] == 1
    assert np.isfinite(alone(found)["seam_excess"])
    with pytest.raises(ValueError, match="geometry"):
        against(found, [opened])


def test_errors():
    kept, other = (statistics(noise(g), g) for g in (GOLDEN, Geometry(2, 2, 32, 32)))
    with pytest.raises(UserError, match="references: expected at least one zoom"):
        against(kept, [])
    with pytest.raises(UserError, match="references: expected the zoom's geometry"):
        against(kept, [kept, other])
    for few in ([], [kept], [kept, other]):
        with pytest.raises(UserError, match="zooms: expected two or more with equally many levels"):
            diversity(few)
    with pytest.raises(UserError, match="expected all levels"):
        statistics(noise(GOLDEN), Geometry(2, 2, 32, 32))


def test_thumbnails_are_means_of_cells():
    """Pictures of 8 x 8 cells of one colour each: diversity is the mean distance of the cells."""
    g = Geometry(2, 2, 32, 48)
    cells = np.random.default_rng(3).integers(0, 256, (2, 2, 8, 8, 3), dtype=np.uint8)
    pictures = cells.repeat(4, axis=2).repeat(6, axis=3)
    a, b = seams.lab(cells[0]), seams.lab(cells[1])
    expected = np.sqrt(((a - b) ** 2).sum(-1)).mean()
    # Thumbnails are float16: 0.03 at the most.
    found = diversity([statistics(zoom, g) for zoom in pictures])
    assert found == pytest.approx(expected, abs=0.03)
