"""Models from a hub, against a server that speaks as the hub does; its library is the real one."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from fake_hub import FakeHub
from huggingface_hub import constants
from safetensors.numpy import load_file, save_file
from tiny_models import TINY_VAE, tiny_model, tiny_xl

from pot_jax import main
from pot_jax.pipelines import zoom as pipeline
from pot_jax.weights.export import export
from pot_jax.weights.layouts import hub
from pot_jax.weights.load import load

UNET = "unet/diffusion_pytorch_model"


@pytest.fixture
def server():
    server = FakeHub()
    yield server
    server.close()


@pytest.fixture
def cache(server, tmp_path, monkeypatch):
    """An empty cache, and the network on; the library reads its environment at import."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


@pytest.fixture
def repository(server, folder, cache):
    """The tiny model as owner/tiny, with what a real repository has besides."""
    (folder / "unet" / "evil.py").write_text("raise SystemExit")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x02")
    (folder / "README.md").write_text("a card")
    (folder / "v1-5-pruned.ckpt").write_bytes(b"\x80\x02")
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "model.safetensors").write_bytes(b"large")
    return server.push("owner/tiny", folder, "main", "v1.0")


def halves(folder):
    """Adds the fp16 variant of every component's weights."""
    for path in list(folder.rglob("*.safetensors")):
        if "safety" not in str(path):
            half = {name: v.astype(np.float16) for name, v in load_file(path).items()}
            save_file(half, path.with_name(path.stem + ".fp16.safetensors"))


def files(cache):
    return {str(p.relative_to(cache)).split("/", 3)[-1] for p in cache.glob("*/snapshots/**/*.*")}


@pytest.mark.parametrize("revision", ["", "@main", "@v1.0"])
def test_a_repository_is_its_model_at_a_commit(repository, model, revision):
    loaded = load(f"owner/tiny{revision}")
    assert loaded.digest == model.digest
    assert loaded.source == f"owner/tiny@{repository}"
    assert load(loaded.source).digest == model.digest


def test_only_what_is_needed_is_fetched(repository, server):
    load("owner/tiny")
    assert len(server.fetched()) == len(set(server.fetched()))
    assert set(server.fetched()) == {
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/merges.txt",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer/vocab.json",
        "unet/config.json",
        f"{UNET}.safetensors",
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
    }


def test_what_only_some_models_have_is_fetched_too(server, cache, tmp_path):
    own = {"steps": 16, "agreement_vae": "tiny_vae"}
    model = tiny_model(tmp_path / "tokenizer", tiny_vae=TINY_VAE, sampler=own)
    export(model, tmp_path / "model")
    commit = server.push("owner/tiny", tmp_path / "model", "main")
    loaded = load("owner/tiny")
    assert loaded.digest == model.digest
    assert loaded.sampler == own
    names = {"sampler.json", "tiny_vae/config.json", "tiny_vae/diffusion_pytorch_model.safetensors"}
    assert names < set(server.fetched())
    # Also where only the cache can tell what there is.
    shutil.rmtree(next(cache.glob("*/pot_jax")))
    server.close()
    again = load(f"owner/tiny@{commit}")
    assert (again.digest, again.sampler) == (model.digest, own)


def test_all_components_of_a_family_are_fetched(server, cache, tmp_path):
    model = tiny_xl(tmp_path / "tokenizer")
    export(model, tmp_path / "model")
    server.push("owner/xl", tmp_path / "model", "main")
    assert load("owner/xl").digest == model.digest
    names = {"text_encoder_2/model.safetensors", "tokenizer_2/tokenizer_config.json"}
    assert names < set(server.fetched())


def test_a_commit_in_the_cache_needs_no_network(repository, server):
    load("owner/tiny")
    server.requests.clear()
    load(f"owner/tiny@{repository}")
    assert server.requests == []


def test_a_branch_that_moves_is_followed_and_its_old_commit_kept(
    repository, server, folder, tmp_path, model
):
    old = load("owner/tiny")
    moved = shutil.copytree(folder, tmp_path / "moved")
    weights = load_file(moved / f"{UNET}.safetensors")
    weights["conv_in.bias"] += 1
    save_file(weights, moved / f"{UNET}.safetensors", {"format": "pt"})
    commit = server.push("owner/tiny", moved)
    new = load("owner/tiny")
    assert new.source == f"owner/tiny@{commit}"
    assert new.digest != old.digest == load(old.source).digest == load("owner/tiny@v1.0").digest


@pytest.mark.parametrize("gone", ["offline flag", "no server"])
def test_what_is_in_the_cache_loads_without_the_network(
    repository, server, model, monkeypatch, gone
):
    load("owner/tiny")
    if gone == "no server":
        server.close()
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    loaded = load("owner/tiny")
    assert (loaded.digest, loaded.source) == (model.digest, f"owner/tiny@{repository}")


def test_what_another_program_left_in_the_cache_loads_without_the_network(
    repository, cache, model, monkeypatch, one_line
):
    load("owner/tiny")
    (kept,) = cache.glob("*/pot_jax")
    shutil.rmtree(kept)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load("owner/tiny").digest == model.digest
    next(cache.rglob("unet/diffusion_pytorch_model.safetensors")).unlink()
    one_line(lambda: load("owner/tiny"), "owner/tiny@", "(unet)", "no weights")


# Which copy of the weights ------------------------------------------------------------------------


def test_one_variant_is_fetched(repository, server, folder, monkeypatch, one_line):
    halves(folder)
    assert load("owner/tiny", variant="fp16").digest == load(folder, variant="fp16").digest
    assert [name for name in server.fetched() if name.endswith("sors")] == [
        "text_encoder/model.fp16.safetensors",
        f"{UNET}.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors",
    ]
    one_line(lambda: load("owner/tiny", variant="fp8"), "owner/tiny@", "variant fp8", "fp16")
    # Only fp16 is in the cache, but it is not what was asked for: offline is no other choice.
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    one_line(lambda: load("owner/tiny"), "model.safetensors", "not in the cache", "HF_HUB_OFFLINE")
    load("owner/tiny", variant="fp16")


def test_the_only_variant_is_fetched(repository, server, folder, model):
    halves(folder)
    for path in folder.rglob("*model.safetensors"):
        path.unlink()
    assert load("owner/tiny").digest == load(folder).digest != model.digest


def test_shards_are_fetched_as_their_index_names_them(repository, server, folder, model):
    tensors = load_file(folder / f"{UNET}.safetensors")
    (folder / f"{UNET}.safetensors").unlink()
    shards = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    places = {name: shards[i % 2] for i, name in enumerate(tensors)}
    for place in shards:
        held = {name: value for name, value in tensors.items() if places[name] == place}
        save_file(held, folder / "unet" / place)
    index = folder / f"{UNET}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert load("owner/tiny").digest == model.digest
    assert len([name for name in server.fetched() if "-of-" in name]) == 2


# The cache's links --------------------------------------------------------------------------------


def test_a_snapshot_is_a_folder_too_though_it_is_made_of_links(repository, cache, model):
    snapshot = hub.fetch_settings("owner/tiny")
    hub.fetch_weights(snapshot, model.params)
    assert (snapshot.folder / f"{UNET}.safetensors").is_symlink()
    assert load(snapshot.folder).digest == model.digest
    # As version 2 of the library shares a blob among repositories.
    blob = (snapshot.folder / f"{UNET}.safetensors").resolve()
    shared = cache / "blobs" / "ab" / "cdef"
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to("../../blobs/ab/cdef")
    assert load(snapshot.folder).digest == load("owner/tiny").digest == model.digest


# What goes wrong ----------------------------------------------------------------------------------


def test_repositories_and_revisions_that_are_not_there(repository, one_line):
    one_line(lambda: load("owner/nothing"), "no model folder owner/nothing", "hf auth login")
    one_line(lambda: load("owner/tiny@v9"), "owner/tiny has no branch, tag or commit v9")
    one_line(lambda: load(f"owner/tiny@{'0' * 40}"), "owner/tiny has no branch, tag or commit 0000")


@pytest.mark.parametrize(
    "revision", ["", "..", "../../x", "/etc", "a//b", "a/../b", "-x", "a b", "a\n", ".x"]
)
def test_revisions_that_are_none(repository, server, revision, one_line):
    one_line(lambda: load(f"owner/tiny@{revision}"), "is not a revision")
    assert server.requests == []


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (401, "GatedRepo", ["accept its terms", "/owner/tiny", "hf auth login"]),
        (403, "GatedRepo", ["accept its terms", "/owner/tiny", "hf auth login"]),
        (401, "", ["no such repository", "private", "hf auth login", "HF_TOKEN"]),
        (403, "", ["refuses", "403", "hf auth login"]),
        (418, "", ["HTTP 418", "again later"]),
    ],
)
def test_closed_repositories(repository, server, status, code, words, one_line):
    server.closed["owner/tiny"] = status, code
    one_line(lambda: load("owner/tiny"), "owner/tiny", *words)


@pytest.mark.parametrize("gone", ["offline flag", "no server"])
def test_no_network_and_an_empty_cache(repository, server, monkeypatch, gone, one_line):
    words = ["cannot be reached", "model_index.json of owner/tiny@main", "not in the cache"]
    if gone == "no server":
        server.close()
        # The library tries for 24 seconds.
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    else:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        words.append("HF_HUB_OFFLINE")
    one_line(lambda: load("owner/tiny"), *words)


def test_a_download_that_broke_off_goes_on(repository, cache, model, monkeypatch, one_line):
    load("owner/tiny")
    next(cache.rglob("unet/diffusion_pytorch_model.safetensors")).unlink()
    with monkeypatch.context() as patch:
        patch.setattr(constants, "HF_HUB_OFFLINE", True)
        one_line(
            lambda: load("owner/tiny"), f"{UNET}.safetensors of owner/tiny", "not in the cache"
        )
    assert load("owner/tiny").digest == model.digest


def test_only_pickles(repository, server, folder, one_line):
    (folder / f"{UNET}.safetensors").unlink()
    one_line(lambda: load("owner/tiny"), "owner/tiny@", "(unet)", ".bin", "safetensors")
    assert not any(name.endswith(".bin") for name in server.fetched())


def test_no_model_and_a_model_of_another_kind(repository, server, folder, cache, one_line):
    index = folder / "model_index.json"
    content = json.loads(index.read_text())
    content["_class_name"] = "FluxPipeline"
    index.write_text(json.dumps(content))
    one_line(lambda: load("owner/tiny"), "FluxPipeline", "not supported")
    assert server.fetched() == ["model_index.json"], "nothing that cannot be used is fetched"
    index.unlink()
    server.push("owner/other", folder)
    one_line(lambda: load("owner/other"), "owner/other@main has no model_index.json", "diffusers")


def test_bad_settings_are_found_before_weights_are_fetched(repository, server, folder, one_line):
    path = folder / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "in_channels": 9}))
    one_line(lambda: load("owner/tiny"), "in_channels is 9")
    assert not any(name.endswith("sors") for name in server.fetched())


def test_a_full_disk(repository, cache, monkeypatch, one_line):
    def full(*arguments, **keywords):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    one_line(lambda: load("owner/tiny"), "cannot be fetched", "No space left on device")


def test_a_list_of_files_that_was_damaged_is_asked_for_again(repository, server, cache, model):
    load("owner/tiny")
    (kept,) = cache.glob("*/pot_jax/*.json")
    assert kept.stem == repository
    kept.write_text('{"files": "..')
    assert load("owner/tiny").digest == model.digest


# Which names are ids ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["owner/name", "owner/name@fp16", "a/b@refs/pr/1", "A-1/b.c_d", "a/b@"]
)
def test_ids(name):
    assert hub.is_id(name)


@pytest.mark.parametrize(
    "name",
    [
        *("cosmos64", "./owner/name", "/owner/name", "owner/name/", "a/b/c", "~/name", "../name"),
        *("owner/.name", "https://huggingface.co/owner/name", "owner@x/name", "a b/c", "", "a/"),
    ],
)
def test_paths_and_names(name):
    assert not hub.is_id(name)


def test_what_is_on_disk_is_a_path(repository, server, folder, tmp_path, one_line):
    shutil.copytree(folder, tmp_path / "owner" / "tiny")
    assert load("owner/tiny").source == "owner/tiny"
    one_line(lambda: load("./owner/tin"), "no model folder")
    one_line(lambda: load(Path("owner/tin")), "no model folder")  # a Path is a path
    assert server.requests == []


# The whole way ------------------------------------------------------------------------------------


def test_a_run_says_which_commit_it_used(repository, folder, model, monkeypatch):
    told = []

    def stop(model, settings, **others):
        if not model.digest:  # before the weights are read
            return real(model, settings, **others)
        told.append((model.source, settings.variant, model.digest))
        raise KeyboardInterrupt

    real = pipeline.prepare
    monkeypatch.setattr(pipeline, "prepare", stop)
    halves(folder)
    command = ["pot-jax", "sample", "a", "--model=owner/tiny@v1.0", "--workdir=run"]
    assert main.main(command) == main.main([*command, "--variant=fp16"]) == 130
    # What config.json says as config.model, and what `--model` takes to do it again.
    source = f"owner/tiny@{repository}"
    half = load(folder, variant="fp16").digest
    assert told == [(source, "", model.digest), (source, "fp16", half)]


def test_convert_keeps_a_variant(repository, folder, tmp_path):
    halves(folder)
    assert main.main(["pot-jax", "convert", "owner/tiny", "kept", "--variant=fp16"]) == 0
    assert load(tmp_path / "kept").digest == load(folder, variant="fp16").digest


def test_the_environment_is_heeded_by_a_process_of_its_own(repository, server, tmp_path):
    program = "import pot_jax; print(pot_jax.load('owner/tiny').source)"
    home = {"HF_HOME": str(tmp_path / "home"), "HF_ENDPOINT": server.url, "NO_PROXY": "127.0.0.1"}
    for offline in ("0", "1"):
        run = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[3],
            env={**os.environ, **home, "HF_HUB_OFFLINE": offline},
        )
        assert run.stdout == f"owner/tiny@{repository}\n", run.stderr
        server.requests.clear()
    assert server.requests == []
