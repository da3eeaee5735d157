import numpy as np
import pytest

from pot_jax.diffusion.schedule import ScheduleConfig
from pot_jax.diffusion.spacing import interval_timesteps, spaced_timesteps

CONFIG = ScheduleConfig()


def test_table_2_of_the_paper():
    """arXiv 2305.08891, table 2, T = 1000, S = 10; its timesteps count from 1, these from 0."""
    paper = {
        "leading": [901, 801, 701, 601, 501, 401, 301, 201, 101, 1],
        "linspace": [1000, 889, 778, 667, 556, 445, 334, 223, 112, 1],
        "trailing": [1000, 900, 800, 700, 600, 500, 400, 300, 200, 100],
    }
    for spacing, expected in paper.items():
        timesteps = spaced_timesteps(CONFIG, 10, spacing)
        np.testing.assert_array_equal(timesteps + 1, expected)
        assert timesteps.dtype == np.float32


def test_fractional_linspace():
    timesteps = spaced_timesteps(CONFIG, 8, "linspace", whole=False)
    np.testing.assert_allclose(timesteps, 999 - np.arange(8) * 999 / 7, rtol=1e-6)


def test_steps_offset_shifts_leading_only():
    config = ScheduleConfig(steps_offset=1)
    assert spaced_timesteps(config, 50, "leading")[-1] == 1
    assert spaced_timesteps(config, 50, "linspace")[-1] == 0
    assert spaced_timesteps(config, 50, "trailing")[-1] == 19


def test_intervals():
    np.testing.assert_array_equal(
        interval_timesteps(CONFIG, 4, "linspace"), np.round([999, 999 * 3 / 4, 999 / 2, 999 / 4])
    )
    np.testing.assert_array_equal(interval_timesteps(CONFIG, 4, "leading"), [800, 600, 400, 200])
    np.testing.assert_array_equal(interval_timesteps(CONFIG, 4, "trailing"), [999, 749, 499, 249])


def test_lambda_min_clipped_cuts_the_noisy_end():
    config = ScheduleConfig(beta_schedule="squaredcos_cap_v2", lambda_min_clipped=-5.1)
    assert 900 < interval_timesteps(config, 20, "linspace")[0] < 999
    assert len(interval_timesteps(config, 20, "linspace")) == 20
    assert np.all(interval_timesteps(config, 700, "trailing") >= 0)
    with pytest.raises(ValueError, match="lambda_min_clipped=50.0 leaves no timestep"):
        interval_timesteps(ScheduleConfig(lambda_min_clipped=50), 20, "linspace")


@pytest.mark.parametrize("spacing", ["leading", "linspace", "trailing"])
@pytest.mark.parametrize("function", [spaced_timesteps, interval_timesteps])
def test_every_length_falls_and_stays_inside(function, spacing):
    for steps in range(1, 500):
        timesteps = function(CONFIG, steps, spacing)
        assert len(timesteps) == steps
        assert np.all(np.diff(timesteps) < 0)
        assert timesteps[0] < 1000
        assert timesteps[-1] >= 0


@pytest.mark.parametrize("function", [spaced_timesteps, interval_timesteps])
@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (0, "steps: expected 1 to 1000"),
        (1001, "number of training timesteps, got 1001"),
        (2.5, "steps: expected a whole number, got 2.5"),
        (True, "steps: expected a whole number, got True"),
    ],
)
def test_bad_steps(function, steps, message):
    with pytest.raises(ValueError, match=message):
        function(CONFIG, steps, "leading")


def test_steps_past_the_end_of_the_schedule():
    with pytest.raises(ValueError, match="start at timestep 1000, past the last"):
        spaced_timesteps(ScheduleConfig(steps_offset=1), 1000, "leading")
    with pytest.raises(ValueError, match="visit a timestep twice"):
        interval_timesteps(CONFIG, 1000, "linspace")
