import json
import math

import numpy as np
import pytest

from pot_jax.diffusion.schedule import (
    BETA_SCHEDULES,
    CLASS_DEFAULTS,
    ScheduleConfig,
    alphas_cumprod,
    interval_timesteps,
    noise_to_signal,
    signal_and_noise,
    spaced_timesteps,
)

CONFIG = ScheduleConfig()
ZERO_SNR = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}


def product_by_hand(betas):
    total, table = 1.0, []
    for beta in betas:
        total *= 1 - beta
        table.append(total)
    return np.array(table)


@pytest.mark.parametrize(
    ("schedule", "beta"),
    [
        ("linear", lambda t: 0.01 + (0.2 - 0.01) * t / 49),
        ("scaled_linear", lambda t: (0.1 + (math.sqrt(0.2) - 0.1) * t / 49) ** 2),
        (
            "squaredcos_cap_v2",
            lambda t: min(
                1
                - math.cos(((t + 1) / 50 + 0.008) / 1.008 * math.pi / 2) ** 2
                / math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2,
                0.999,
            ),
        ),
    ],
)
def test_tables_by_hand(schedule, beta):
    config = ScheduleConfig(50, beta_start=0.01, beta_end=0.2, beta_schedule=schedule)
    # float32 holds 1 - 0.999 to 2e-5 of itself.
    expected = product_by_hand([beta(t) for t in range(50)])
    np.testing.assert_allclose(alphas_cumprod(config), expected, rtol=3e-5)


def test_every_beta_schedule_has_its_test():
    assert set(BETA_SCHEDULES) == {"linear", "scaled_linear", "squaredcos_cap_v2"}


def test_trained_betas_override_the_rest():
    betas = tuple(np.linspace(0.1, 0.3, 8))
    config = ScheduleConfig(8, beta_schedule="scaled_linear", trained_betas=betas)
    np.testing.assert_allclose(alphas_cumprod(config), product_by_hand(betas), rtol=1e-6)


def test_signal_and_noise_preserve_variance():
    alpha, sigma = signal_and_noise(ScheduleConfig(beta_schedule="scaled_linear"))
    assert alpha.dtype == sigma.dtype == np.float64
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, rtol=1e-14)
    assert np.all(np.diff(alpha) < 0)
    np.testing.assert_allclose(
        noise_to_signal(ScheduleConfig(beta_schedule="scaled_linear")), sigma / alpha
    )


def test_stable_diffusion_sigmas():
    """The largest and smallest sigma of SD 1.x, as k-diffusion prints them: 14.6146, 0.0292."""
    sigmas = noise_to_signal(
        ScheduleConfig(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    )
    np.testing.assert_allclose(sigmas[[-1, 0]], [14.6146, 0.0292], atol=5e-5)


def test_zero_terminal_snr_ends_at_zero_and_begins_where_it_did():
    plain, rescaled = ScheduleConfig(), ScheduleConfig(**ZERO_SNR)
    table = alphas_cumprod(rescaled)
    assert table[-1] == 0
    assert table[0] == pytest.approx(alphas_cumprod(plain)[0], rel=1e-14)
    assert noise_to_signal(rescaled)[-1] == pytest.approx(4096, rel=1e-6)
    # sqrt(alpha^2) is an affine map of what it was.
    x, y = np.sqrt(alphas_cumprod(plain)), np.sqrt(table)
    np.testing.assert_allclose(y, np.poly1d(np.polyfit(x, y, 1))(x), atol=1e-12)


def test_zero_terminal_snr_needs_another_prediction_than_eps():
    with pytest.raises(ValueError, match="zero terminal SNR needs prediction_type v_prediction"):
        ScheduleConfig(rescale_betas_zero_snr=True)
    with pytest.raises(ValueError, match="zero terminal SNR"):
        ScheduleConfig(4, trained_betas=(0.1, 0.2, 0.3, 1.0))


@pytest.mark.parametrize(
    ("facts", "message"),
    [
        ({"beta_schedule": "sigmoid"}, "one of linear, scaled_linear, squaredcos_cap_v2, got 'sig"),
        ({"prediction_type": "flow_prediction"}, "one of epsilon, v_prediction, sample"),
        ({"timestep_spacing": "even"}, "one of leading, linspace, trailing or null, got 'even'"),
        ({"variance_type": "fixed_large_log"}, "variance_type: expected one of"),
        ({"final_sigmas_type": "one"}, "final_sigmas_type: expected one of"),
        ({"num_train_timesteps": 1}, "num_train_timesteps: expected 2 to"),
        ({"num_train_timesteps": 10**12}, "num_train_timesteps: expected 2 to"),
        (
            {"num_train_timesteps": 1000.0},
            "num_train_timesteps: expected a whole number, got 1000.0",
        ),
        ({"num_train_timesteps": True}, "num_train_timesteps: expected a whole number, got True"),
        ({"beta_start": "0.1"}, "beta_start: expected a number, got '0.1'"),
        ({"beta_start": math.nan}, "beta_start: expected a finite number, got nan"),
        ({"beta_start": 0.0}, "beta_start and beta_end: expected 1e-7 to 1, got 0.0"),
        ({"beta_end": 1.5}, "got 0.0001 to 1.5"),
        ({"beta_end": 1.0, "beta_start": 1.0}, "no signal before the last"),
        ({"clip_sample": "no"}, "clip_sample: expected true or false, got 'no'"),
        ({"clip_sample_range": 0.0}, "clip_sample_range: expected above 0"),
        ({"dynamic_thresholding_ratio": 1.2}, "dynamic_thresholding_ratio: expected 0 to 1"),
        ({"sample_max_value": 0.5}, "sample_max_value: expected at least 1"),
        ({"steps_offset": -1}, "steps_offset: expected at least 0"),
        ({"original_inference_steps": 0}, "original_inference_steps: expected at least 1"),
        (
            {"trained_betas": (0.1, 0.2)},
            "trained_betas: expected num_train_timesteps = 1000 numbers, got",
        ),
        ({"trained_betas": "all"}, "trained_betas: expected a list"),
        (
            {"trained_betas": (0.1, -0.2), "num_train_timesteps": 2},
            "trained_betas: expected 1e-7 to 1",
        ),
        (
            {"trained_betas": (0.1, None), "num_train_timesteps": 2},
            "trained_betas",
        ),
    ],
)
def test_bad_facts(facts, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig(**facts)


def test_is_hashable_whatever_the_file_held():
    file = {"_class_name": "UniPCMultistepScheduler", "disable_corrector": [], "solver_order": 2}
    assert hash(ScheduleConfig.from_json(file)) == hash(ScheduleConfig.from_json(file))


def test_silence_means_what_the_named_class_means_by_it():
    def read(name):
        return ScheduleConfig.from_json({"_class_name": name})

    assert read("DDIMScheduler").clip_sample
    assert read("DDPMScheduler").clip_sample
    assert not read("PNDMScheduler").clip_sample
    assert not read("PNDMScheduler").set_alpha_to_one
    assert read("HeunDiscreteScheduler").beta_end == 0.012
    assert read("LCMScheduler").beta_schedule == "scaled_linear"
    for name in CLASS_DEFAULTS:
        assert read(name).timestep_spacing is None
        assert read(name).class_name == name


def test_stated_facts_win_and_null_is_silence():
    file = {
        "_class_name": "DDIMScheduler",
        "clip_sample": False,
        "trained_betas": None,
        "timestep_spacing": None,
        "use_karras_sigmas": None,
        "steps_offset": 1,
    }
    config = ScheduleConfig.from_json(file)
    assert (config.clip_sample, config.steps_offset) == (False, 1)
    assert (config.trained_betas, config.sigma_request) == (None, None)


@pytest.mark.parametrize("name", [*CLASS_DEFAULTS, "SomeNewScheduler"])
@pytest.mark.parametrize(
    "facts",
    [
        {},
        {"trained_betas": [0.1] * 1000, "timestep_spacing": "trailing"},
        {"clip_sample": False, "set_alpha_to_one": True, "lower_order_final": True},
        {"use_karras_sigmas": True, "skip_prk_steps": True, **ZERO_SNR},
    ],
)
def test_json_round_trip(name, facts):
    complete = {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "epsilon",
    }
    config = ScheduleConfig.from_json({"_class_name": name, **complete, **facts})
    written = json.loads(json.dumps(config.to_json(), allow_nan=False))
    assert written["_class_name"] == name
    assert ScheduleConfig.from_json(written) == config
    assert all(written.get(key) == value for key, value in facts.items() if key == "skip_prk_steps")


def test_own_config_round_trip():
    config = ScheduleConfig(timestep_spacing="trailing", **ZERO_SNR)
    assert ScheduleConfig.from_json(config.to_json()) == config


def test_sigma_requests_are_remembered():
    file = {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True}
    assert ScheduleConfig.from_json(file).sigmas == "karras"
    both = ScheduleConfig.from_json({**file, "use_beta_sigmas": True})
    assert both.sigma_request == "use_beta_sigmas and use_karras_sigmas"
    file = {"_class_name": "EulerDiscreteScheduler", "interpolation_type": "log_linear"}
    assert ScheduleConfig.from_json(file).sigma_request == "interpolation_type"


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ([], "scheduler config: expected a JSON object, got"),
        (
            {"_class_name": "FlowMatchEulerDiscreteScheduler", "num_train_timesteps": 1000},
            "FlowMatchEulerDiscreteScheduler is not known, and its file does not state beta_end, "
            "beta_schedule, beta_start, prediction_type",
        ),
        ({"num_train_timesteps": 1000}, r"scheduler class \(none\) is not known"),
        (
            {"_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"},
            "timestep_type='continuous' is not supported, only 'discrete'",
        ),
        (
            {"_class_name": "UniPCMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas=True is not supported",
        ),
        ({"_class_name": "DDIMScheduler", "trained_betas": {}}, "trained_betas: expected a list"),
        (
            {"_class_name": "DDIMScheduler", "prediction_type": 3},
            "prediction_type: expected one of",
        ),
    ],
)
def test_bad_files(file, message):
    with pytest.raises(ValueError, match=message):
        ScheduleConfig.from_json(file)


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
