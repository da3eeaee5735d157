import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from pot_jax.models import layers

in_half_precision = pytest.mark.loose_promotion("jax's attention promotes half precision")


def attention_slowly(q, k, v, causal):
    """One query, one head at a time, in float64."""
    out = np.zeros(q.shape)
    for b, t, h in np.ndindex(*q.shape[:3]):
        seen = k.shape[1] if not causal else t + 1
        scores = k[b, :seen, h] @ q[b, t, h] / math.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights @ v[b, :seen, h] / weights.sum()
    return out


@pytest.mark.parametrize(("keys", "causal"), [(5, False), (3, False), (5, True)])
def test_attention_is_a_softmax_mean_of_the_values(keys, causal):
    rng = np.random.default_rng(0)
    q, k, v = (rng.normal(size=(2, length, 3, 4)) for length in (5, keys, keys))
    actual = layers.attend(*(jnp.asarray(a, jnp.float32) for a in (q, k, v)), causal)
    np.testing.assert_allclose(actual, attention_slowly(q, k, v, causal), atol=1e-5)


@pytest.mark.parametrize("most", [30, 21, 1])  # blocks of 4 queries, of 3, and of one
def test_many_queries_take_turns(monkeypatch, most):
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 7, 2, 4))
    whole = layers.attend(q, k, v)
    monkeypatch.setattr(layers, "SCORES_AT_ONCE", most)
    np.testing.assert_allclose(layers.attend(q, k, v), whole, atol=1e-6)


@in_half_precision
def test_attention_scores_are_float32_in_half_precision():
    # In float16 the score 300 * 300 is beyond 65504, and the result would be NaN.
    q = jnp.full((1, 1, 1, 1), 300, jnp.float16)
    v = jnp.array([1.0, 3.0], jnp.float16).reshape(1, 2, 1, 1)
    out = layers.attend(q, jnp.full((1, 2, 1, 1), 300, jnp.float16), v)
    assert float(out[0, 0, 0, 0]) == 2.0


class Device:
    def __init__(self, capability):
        self.compute_capability = capability


@pytest.mark.parametrize(
    ("backend", "capability", "dtype", "head_size", "fused"),
    [
        ("cpu", None, jnp.bfloat16, 64, False),
        ("gpu", "9.0", jnp.bfloat16, 64, True),
        ("gpu", "9.0", jnp.float16, 160, True),
        ("gpu", "9.0", jnp.float32, 64, False),
        ("gpu", "9.0", jnp.bfloat16, 12, False),
        ("gpu", "9.0", jnp.bfloat16, 512, False),
        ("gpu", "10.0", jnp.bfloat16, 256, True),
        ("gpu", "8.6", jnp.bfloat16, 128, True),
        ("gpu", "8.6", jnp.bfloat16, 160, False),
        ("gpu", "7.5", jnp.float16, 64, False),
        ("gpu", "gfx942", jnp.bfloat16, 64, False),
        ("gpu", None, jnp.bfloat16, 64, False),
    ],
)
def test_the_fused_kernel_is_asked_for_where_it_exists(
    monkeypatch, backend, capability, dtype, head_size, fused
):
    device = object() if capability is None else Device(capability)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    assert layers.cudnn_can(dtype, head_size) == fused


@in_half_precision
@pytest.mark.accelerator
@pytest.mark.parametrize("head_size", [40, 64, 80, 160])
@pytest.mark.parametrize("keys", [64, 77])
def test_the_fused_kernel_agrees_with_plain_attention(head_size, keys):
    q, k, v = (
        jax.random.normal(jax.random.key(i), (4, length, 8, head_size), jnp.bfloat16)
        for i, length in enumerate((64, keys, keys))
    )
    plain = jax.nn.dot_product_attention(q, k, v).astype(jnp.float32)
    # bfloat16 has 8 significant bits.
    np.testing.assert_allclose(layers.attend(q, k, v).astype(jnp.float32), plain, atol=2e-2)


def test_nearest_upsampling_is_kron_with_ones():
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    expected = x.repeat(2, axis=1).repeat(2, axis=2)
    np.testing.assert_array_equal(layers.upsample_nearest(x, 2), expected)


@pytest.mark.parametrize("flip", [True, False])
def test_timestep_features_are_waves_of_geometric_frequencies(flip):
    timesteps = np.array([0.0, 1.0, 250.5])
    features = layers.timestep_features(jnp.asarray(timesteps, jnp.float32), 6, flip, 1)
    angles = timesteps[:, None] * np.array([1, 1e-2, 1e-4])
    waves = (np.cos(angles), np.sin(angles)) if flip else (np.sin(angles), np.cos(angles))
    # A float32 angle of 250 is known to 1.5e-5.
    np.testing.assert_allclose(features, np.concatenate(waves, axis=1), atol=5e-5)


def test_timestep_features_of_an_odd_width_end_in_zero():
    features = layers.timestep_features(jnp.array([3.0]), 5, True, 0)
    assert features.shape == (1, 5)
    assert features[0, 4] == 0


@pytest.mark.parametrize(("size", "half"), [((4, 6), (2, 3)), ((5, 7), (3, 4))])
def test_down_and_up_sampling_are_inverse_in_shape(size, half):
    x = jnp.zeros((1, *size, 4))
    down, up = layers.Downsample2D(jnp.float32), layers.Upsample2D(jnp.float32)
    small, _ = jax.eval_shape(down.init_with_output, jax.random.key(0), x)
    assert small.shape == (1, *half, 4)
    large, _ = jax.eval_shape(lambda x: up.init_with_output(jax.random.key(0), x, size), small)
    assert large.shape == x.shape


MOMENTS = layers.moments  # of this platform: in two passes


def normalised(x, axes, eps):
    """The truth, in float64."""
    exact = np.asarray(x, np.float64)
    mean = exact.mean(axes, keepdims=True)
    return (exact - mean) / np.sqrt(np.square(exact - mean).mean(axes, keepdims=True) + eps)


def one_pass(x, axis):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "default_backend", lambda: "gpu")
        return MOMENTS(x, axis)


def plain(x, axis):
    mean, square = (jnp.mean(a, axis, keepdims=True) for a in (x, jnp.square(x)))
    return mean, jnp.maximum(square - jnp.square(mean), 0)


def with_outlier(x, size):
    """The middle value of each, which is one of those that the shift is taken from, far away."""
    return x.at[:, 8, 8].add(size).at[..., 12].add(size)


@pytest.mark.parametrize("groups", [None, 6])
@pytest.mark.parametrize(
    ("mean", "outlier", "times", "worst"),
    # In deviations: the mean of all, and how far outliers are. Then the most of one pass's error in
    # two passes', and the least of that of E[x^2] - E[x]^2.
    [(0, 0, 2, 0), (30, 0, 2, 5e-5), (1000, 0, 2, 5e-2), (1000, 1000, 2, 1e-5), (0, 1000, 2, 0)],
)
def test_one_pass_is_as_exact_as_two(monkeypatch, groups, mean, outlier, times, worst):
    x = mean + jax.random.normal(jax.random.key(0), (2, 16, 16, 24))
    x = with_outlier(x, outlier)
    shape, axes = (x.shape, -1) if groups is None else ((2, 16, 16, groups, -1), (1, 2, 4))
    exact = normalised(x.reshape(shape), axes, 1e-5).reshape(x.shape)
    norm, neutral = layers.Norm(1e-5, jnp.float32, groups), {"bias": jnp.zeros(24)}

    def error(moments):
        monkeypatch.setattr(layers, "moments", moments)
        found = norm.apply({"params": neutral | {"scale": jnp.ones(24)}}, x)
        return np.max(np.abs(found - exact))

    one, two, simple = map(error, (one_pass, MOMENTS, plain))
    assert one < max(times * two, 2e-6), f"one pass {one:.1e}, two {two:.1e}, plain {simple:.1e}"
    assert simple >= worst, f"E[x^2] - E[x]^2: {simple:.1e}"
    assert not np.array_equal(one_pass(x, -1), MOMENTS(x, -1)), "two ways"


@pytest.mark.parametrize("moments", [one_pass, MOMENTS])
def test_a_normalisation_of_a_constant_is_its_bias_and_has_gradients(monkeypatch, moments):
    monkeypatch.setattr(layers, "moments", moments)
    norm, params = (
        layers.Norm(1e-5, jnp.float32, 2),
        {"scale": jnp.ones(4), "bias": jnp.arange(4.0)},
    )
    x = jnp.full((1, 3, 3, 4), 7.0)

    def total(x):
        return jnp.sum(norm.apply({"params": params}, x)[..., 1])

    np.testing.assert_allclose(
        norm.apply({"params": params}, x), np.tile(np.arange(4.0), (1, 3, 3, 1))
    )
    assert np.all(np.isfinite(jax.grad(total)(x)))


def test_gelu_is_that_of_jax():
    gate = jnp.linspace(-30, 30, 4801)
    geglu = layers.GEGLU(jnp.float32)
    states = jnp.stack([jnp.ones_like(gate), gate], -1)[None]  # value 1, then the gate, by "proj"
    kernel = jnp.zeros((2, 16)).at[0, 0].set(1).at[1, 8].set(1)
    params = {"proj": {"kernel": kernel, "bias": jnp.zeros(16)}}
    actual = np.asarray(geglu.apply({"params": params}, states))[0, :, 0]
    expected = np.asarray(jax.nn.gelu(gate, approximate=False))
    assert np.all(np.abs(actual - expected) <= 2e-7 * np.maximum(1, np.abs(gate)))
