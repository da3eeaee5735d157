"""The parts of tools/score_model, train_classifier and bench; the tools are run by hand."""

import argparse
import dataclasses
import importlib.machinery
import importlib.util
import json
import pathlib

import jax
import numpy as np
import pytest
from absl.testing.flagsaver import flagsaver

from pot_jax.config import SamplerSettings
from pot_jax.world import captions


def tool(name):
    tools = pathlib.Path(__file__).parents[1] / "tools"
    loader = importlib.machinery.SourceFileLoader(name, str(tools / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(name, loader))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(tools)
        loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def score_model():
    return tool("score_model")


@pytest.fixture(scope="module")
def train_classifier():
    return tool("train_classifier")


def test_the_frechet_distance_of_known_gaussians(score_model):
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200_000, 3))
    b = rng.normal(size=(200_000, 3)) * [1.0, 2.0, 3.0] + [1.0, 0.0, -2.0]
    # |mean|^2 + sum (deviation difference)^2, as the covariances are diagonal; 2 % is the sample's.
    assert score_model.frechet(a, b) == pytest.approx(5 + 0 + 1 + 4, rel=0.02)
    assert score_model.frechet(a, a) == pytest.approx(0, abs=1e-8)


def test_a_head_counts_where_it_applies(score_model):
    seen = [{"concept": "tree", "leaf.colour": "red"}, {"concept": "leaf", "leaf.colour": "red"}]
    wanted = [{"concept": "tree"}, {"concept": "leaf", "leaf.colour": "green"}]
    found = score_model.heads(seen, wanted)
    assert found == {"concept": 1.0, "attribute": 0.0, "all": 0.5, "leaf.colour": 0.0}


def test_scored_views_keep_from_the_borders(score_model):
    views = score_model.inner_views(100, 1)
    seeds, scales = zip(*views)
    assert len(set(seeds)) == 100
    concepts = [captions.concept(scale) for scale in scales]
    for shift in (-0.24, 0.24):
        assert [captions.concept(scale + shift) for scale in scales] == concepts
    assert {concepts.count(name) for name in set(concepts)} == {10}


def test_variation_moves_pixels_and_tints_them(train_classifier):
    images = np.random.default_rng(0).uniform(-1, 1, (64, 4, 4, 3)).astype(np.float32)
    found = np.asarray(train_classifier.varied(images, jax.random.key(0)))

    def values(x):
        """Of each channel, sorted, about their mean."""
        return np.sort((x - x.mean((1, 2), keepdims=True)).reshape(len(x), -1, 3), axis=1)

    np.testing.assert_allclose(values(found), values(images), atol=1e-6)
    assert np.abs(found.mean((1, 2)) - images.mean((1, 2))).max() <= 0.06
    # Where the first pixel goes: to each of the four corners, by eight ways.
    first = images[:, 0, 0] - images.mean((1, 2))
    centred = found - found.mean((1, 2), keepdims=True)
    at = [np.abs(centred[i] - first[i]).sum(-1).argmin() for i in range(len(images))]
    assert set(at) == {0, 3, 12, 15}


def test_a_mistake_is_one_line(score_model, capsys):
    score_model.FLAGS(["score_model"])
    with flagsaver(model="nowhere/"), pytest.raises(SystemExit) as stopped:
        score_model.main([])
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("score_model: ")
    assert said.count("\n") == 1


def test_what_is_compared_with_a_models_own_settings_states_every_setting(score_model):
    score_model.FLAGS(["score_model"])
    found = score_model.stated({"space": "latent"})
    assert found.keys() == {field.name for field in dataclasses.fields(SamplerSettings)}
    assert (found["solver"], found["steps"], found["space"]) == ("ddim", 30, "latent")
    assert score_model.stated({"space": "latent", "steps": 50})["steps"] == 50


def test_what_was_sampled_is_not_sampled_again(score_model, tmp_path):
    made = []

    def make():
        made.append(0)
        return {"pictures": np.full((2, 4, 4, 3), len(made), np.uint8), "overlap": np.ones(1)}

    path = tmp_path / "model" / "samples_0.npz"
    for _ in range(2):
        found = score_model.kept(path, make)
        np.testing.assert_array_equal(found["pictures"], np.ones((2, 4, 4, 3)))
        assert found.keys() == {"pictures", "overlap"}
    assert len(made) == 1
    assert [file.name for file in path.parent.iterdir()] == ["samples_0.npz"]


@pytest.fixture(scope="module")
def bench():
    return tool("bench")


def test_products_are_counted_through_loops_and_branches(bench):
    def steps(x, w, go):
        def step(x, _):
            return jax.lax.cond(go, lambda x: x @ w, lambda x: x, x), None

        x, _ = jax.lax.scan(step, x, None, length=3)
        return x.T.sum()

    shapes = [jax.ShapeDtypeStruct(shape, "float32") for shape in ((4, 5), (5, 5))]
    found = bench.facts(steps, *shapes, jax.ShapeDtypeStruct((), "bool"))
    assert found["flops"] == 3 * 2 * 4 * 5 * 5
    assert (found["products"], found["transposes"], found["reductions"]) == (3, 1, 1)
    # Each product, the transpose and the sum read and write float32.
    assert found["bytes"] == 4 * (3 * (20 + 25 + 20) + (20 + 20) + (20 + 1))


def test_a_convolution_is_counted_as_the_products_that_it_is(bench):
    def convolve(x, w):
        how = {"padding": "SAME", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return jax.lax.conv_general_dilated(x, w, (1, 1), **how)

    found = bench.facts(convolve, np.ones((2, 4, 4, 3)), np.ones((3, 3, 3, 5)))
    assert found["flops"] == 2 * (2 * 4 * 4 * 5) * (3 * 3 * 3)


def test_kernels_are_told_apart_by_their_names_and_what_they_come_from(bench):
    program = """
  %fusion.1 = f32[4]{0} fusion(%a), metadata={op_name="jit(f)/UNet/conv1/silu/mul"}
  %gemm.2 = f32[4]{0} custom-call(%a), metadata={op_name="jit(f)/UNet/to_q/dot_general"}
  ROOT %fusion.3 = f32[4]{0} fusion(%a), metadata={op_name="jit(f)/UNet/conv1/conv_general_dilated"}
"""
    events = [{"ph": "M", "name": "thread_name", "pid": 1, "tid": 7}]
    events[0]["args"] = {"name": "Stream #7(Compute)"}
    for name, operation, thread in (
        ("loop_multiply_fusion_1", "fusion.1", 7),
        ("nvjet_tst_128x256", "gemm.2", 7),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop", "gemm.2", 7),
        ("sm90_xmma_fprop_implicit_gemm_bf16", "fusion.3", 7),
        ("input_transpose_fusion_2", "fusion.1", 7),
        ("a thread of the host", "fusion.1", 8),
    ):
        events.append({"ph": "X", "pid": 1, "tid": thread, "name": name, "dur": 1000.0})
        events[-1]["args"] = {"hlo_op": operation}
    expected = dict.fromkeys(("elementwise", "matmul", "attention", "convolution", "transpose"), 1)
    assert bench.kinds(events, program) == expected
    # On a CPU, events have the instructions' own names.
    alone = [{"ph": "X", "pid": 1, "tid": 3, "name": "fusion.3", "dur": 500.0}]
    assert bench.kinds(alone, program) == {"convolution": 0.5}


def test_rows_without_time_are_listed_and_what_is_measured_is_kept(bench, tmp_path, capsys):
    path = tmp_path / "bench.json"
    options = argparse.Namespace(
        models=["tiny"], minutes=1, dtype="float32", only="", json=str(path), tiny=True
    )
    run, seen = bench.Bench(options), []

    def row(name, found):
        def measure():
            seen.append(json.loads(path.read_text())["rows"] if path.exists() else {})
            if isinstance(found, Exception):
                raise found
            return found

        return name, 1, measure

    first, broken = {"tflops_per_s": 1.0}, ValueError("no kernel")
    run.rows = [row("ceiling", first), row("bad", broken), ("long", 1e6, None), row("last", {})]
    said = run.run()
    assert said["not_run"] == ["long"]
    assert said["rows"]["bad"] == {"failed": "ValueError: no kernel"}
    assert seen == [{}, {"ceiling": first}, {"ceiling": first, "bad": said["rows"]["bad"]}]
    assert json.loads(path.read_text()) == said
    assert "not run, no time: long" in capsys.readouterr().out


def test_a_toy_is_measured_as_models_are(bench, tmp_path):
    """The tool but torch, the command and other spaces; tools/acceptance runs it whole."""
    path = tmp_path / "bench.json"
    wanted = "unet 2,step pixel,tiny operators pixel,kinds,text,decode"
    said = bench.main(["--tiny", "--minutes=5", f"--only={wanted}", f"--json={path}"])
    rows = said["rows"]
    assert not said["not_run"]
    assert not [row for row in rows.values() if "failed" in row], rows
    assert set(rows["tiny step pixel"]["parts_ms"]) == {"unet", "decode", "encode"}
    assert rows["tiny step pixel"]["gflop"] > rows["tiny unet 2"]["gflop"] > 0
    assert rows["tiny operators pixel"]["of_step_time"] > 0
    assert rows["tiny kinds"]["ms_by_kind"]["convolution"] > 0
