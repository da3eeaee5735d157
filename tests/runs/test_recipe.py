"""Files carry their recipe, a run is made again from any of them, and none tells of the machine."""

import dataclasses
import json
import pathlib
import shutil
import subprocess
from xml.etree import ElementTree

import av
import jax
import numpy as np
import pytest
import recipes
from PIL import Image

from pot_jax import main
from pot_jax.checks import build, to_dict
from pot_jax.config import SOLVERS, RunSettings, read
from pot_jax.errors import UserError
from pot_jax.media.images import read_text, save_png
from pot_jax.runs import recipe

ROOT = pathlib.Path(__file__).parents[2]
IPTC = "http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"
PROMPTS = ["a, b", "ü: 星"]
RUN = ["--steps=2", "--space=latent", "--guidance_scale=2.5", "--negative_prompt=c: d", "--seed=7"]
RUN += ["--config.movie.fps=2", "--config.movie.size=32", "--config.photograph.level=1"]
FILES = ["--model=model", "--lora=one.safetensors:0.5", "--lora=two.safetensors"]
FILES += ["--photograph=photo.png", "--vae=other_model/vae"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A run of local files, `run`, and those files; the working folder of the tests below."""
    place = recipes.make_files(tmp_path_factory.mktemp("place"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        assert sample(*PROMPTS, *RUN, *FILES, "--workdir=run") == 0
    return place


@pytest.fixture
def inside(place, monkeypatch):
    monkeypatch.chdir(place)
    yield place
    shutil.rmtree(place / "again", ignore_errors=True)


def sample(*flags):
    return main.main(["pot-jax", "sample", *flags, "--compilation_cache=none"])


def test_a_run_is_made_again_from_any_of_its_files(inside):
    for name in ("levels/level_000.png", "contact_sheet.png"):
        assert sample(f"--from_picture=run/{name}", *FILES, "--workdir=again") == 0
        assert recipes.results(inside / "again") == recipes.results(inside / "run")
        first, again = (
            json.loads((inside / n / "config.json").read_text()) for n in ("run", "again")
        )
        assert first == again
        shutil.rmtree(inside / "again")


WRONG = {
    "nothing given": ([], "--model=... --vae=... --photograph=... --lora=...:0.5 (SHA-256"),
    "no LoRA": ([FILES[0], *FILES[3:]], "only a digest of: --lora=...:0.5 (SHA-256"),
    "a LoRA is missing": ([*FILES[:2], *FILES[3:]], "was made with other loras"),
    "another LoRA": ([*FILES[:2], "--lora=three.safetensors", *FILES[3:]], "other loras"),
    "another photograph": (
        [*FILES[:3], "--photograph=other_photo.png", FILES[4]],
        "other photograph",
    ),
    "another model": (["--model=other_model", *FILES[1:]], "with other weights"),
    "no component": (FILES[:4], "only a digest of: --vae=..."),
    "another component": ([*FILES[:4], "--vae=model"], "with other weights"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_given_again_is_checked(what, inside, capsys):
    flags, words = WRONG[what]
    assert sample("--from_picture=run/contact_sheet.png", *flags, "--workdir=again") == 2
    said = capsys.readouterr().err.splitlines()
    assert words in said[-1]
    assert len([line for line in said if "pot-jax:" in line]) == 1


@pytest.fixture
def dry(monkeypatch):
    """A dry run only says what would be sampled, without compiling it."""
    from pot_jax.pipelines import dry_run

    monkeypatch.setattr(dry_run, "dry_run", lambda prepared, _: [str(prepared)])


def test_flags_lie_over_the_recipe(inside, dry, capsys):
    flags = ["--from_picture=run/levels/level_001.png", *FILES, "--dry_run"]
    assert sample(*flags, "--seed=8", "--steps=3", "x", "y") == 0
    assert "seed 8; 3 steps of ddim" in capsys.readouterr().out
    assert sample(*flags, "--config.photograph.level=0") == 0  # its digest cannot be compared
    assert "as asked, other photograph than" in capsys.readouterr().err
    assert sample(*flags, "--unet=other_model") == 0  # likewise
    flags.remove(FILES[2])
    assert sample(*flags, FILES[2] + ":2") == 0  # the same LoRA, stronger


def facts(identity, **settings):
    """What a recipe, or the record of a run to come, says: with these digests."""
    record = {"config": to_dict(build(RunSettings, settings)), "identity": identity}
    return record | {"versions": {}, "code": {"commit": "a"}, "devices": "1 x cpu"}


LORA = {"path": "x", "sha256": "1"}
PHOTO = {"path": "x", "level": 1}
UPSCALED = {"upscaler prompts": "1"}
CHANGED = {  # of the picture, of the run to come -> what is said; None: that it is refused
    "one photograph in a list, or alone": (
        facts({"photograph": "1"}, photographs=[PHOTO]),
        facts({"photograph": "1"}, photograph=PHOTO),
        [],
    ),
    "another, written otherwise": (
        facts({"photograph": "1"}, photographs=[PHOTO]),
        facts({"photograph": "2"}, photograph=PHOTO),
        None,
    ),
    "a UNet instead of the model's own": (
        facts({"weights": "1"}, vae="v"),
        facts({"weights": "2"}, vae="v", unet="u"),
        ["as asked, other weights than p.png was made with"],
    ),
    "another UNet than was given": (
        facts({"weights": "1"}, unet="u"),
        facts({"weights": "2"}, unet="other"),
        None,
    ),
    "another at another level": (
        facts({"photograph": "1"}, photographs=[PHOTO]),
        facts({"photograph": "2"}, photograph={**PHOTO, "level": 0}),
        ["as asked, other photograph than p.png was made with"],
    ),
    "prompts of an upscaled picture": (
        facts(UPSCALED, prompts=["a"], upscaler={"path": "u"}),
        facts({"upscaler prompts": "2"}, prompts=["b"], upscaler={"path": "u"}),
        ["as asked, other upscaler prompts than p.png was made with"],
    ),
    "a stronger LoRA, and one more": (
        facts({"weights": "1"}, loras=[LORA]),
        facts({"weights": "2"}, loras=[{**LORA, "strength": 2.0}, {**LORA, "sha256": "2"}]),
        ["as asked, other weights than p.png was made with"],
    ),
    "another LoRA": (
        facts({"weights": "1"}, loras=[LORA]),
        facts({"weights": "2"}, loras=[{**LORA, "sha256": "2"}]),
        None,
    ),
    "another commit": (
        facts({}),
        facts({}) | {"code": {"commit": "b"}},
        ["p.png was made with commit a, here b: other bytes are possible"],
    ),
    "previews": (facts({}), facts({}, preview_every=5), []),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_a_flag_may_change_is_said_and_what_it_may_not_is_refused(what):
    made, now, said = CHANGED[what]
    config = recipe._public(made["config"], made["identity"])
    made = made | {"config": config, "place": "p.png"}
    if said is None:
        with pytest.raises(UserError, match="p.png was made with other"):
            recipe.check(made, now)
    else:
        assert recipe.check(made, now) == said


def test_versions_that_differ_are_noted(inside, dry, capsys):
    texts = read_text("run/contact_sheet.png")
    data = json.loads(texts["pot_jax"])
    data["versions"]["jax"] = "0.0.1"
    save_png("edited.png", np.zeros((8, 8, 3), np.uint8), {"pot_jax": json.dumps(data)})
    assert sample("--from_picture=edited.png", *FILES, "--dry_run") == 0
    assert f"made with jax 0.0.1, here {jax.__version__}" in capsys.readouterr().err
    data["config"]["seed"] = 8  # by hand, without its digest
    save_png("edited.png", np.zeros((8, 8, 3), np.uint8), {"pot_jax": json.dumps(data)})
    assert sample("--from_picture=edited.png", *FILES, "--dry_run") == 2
    assert "made with other seeds" in capsys.readouterr().err


def test_readers_of_others_find_it(place):
    for level, prompt in enumerate(PROMPTS):
        path = place / "run" / "levels" / f"level_{level:03d}.png"
        with Image.open(path) as image:
            texts, xmp = image.text, ElementTree.fromstring(image.info["xmp"])
        prompt_there, negative, fields = recipes.parsed_parameters(texts["parameters"])
        assert (prompt_there, negative) == (prompt, "c: d")
        weights = json.loads((place / "run" / "config.json").read_text())["weights_sha256"]
        expected = {"Steps": "2", "Sampler": "DDIM", "CFG scale": "2.5", "Seed": "7"}
        expected |= {"Size": "16x16", "Model hash": weights[:10], "Zoom level": str(level)}
        assert expected.items() <= fields.items()
        assert "Model" not in fields  # it is on this machine only
        assert IPTC in [value for one in xmp.iter() for value in one.attrib.values()]
        assert json.loads(texts["pot_jax"])["level"] == level
        if shutil.which("exiftool"):
            asked = ["exiftool", "-s3", "-DigitalSourceType", str(path)]
            assert subprocess.check_output(asked, text=True).strip() == IPTC
    with av.open(place / "run" / "zoom.mp4") as movie:
        assert json.loads(movie.metadata["comment"])["level"] is None
        assert not {"creation_time", "date"} & movie.metadata.keys()


RECORD = {"weights_sha256": "c0ffee" * 10, "geometry": {"width": 8, "height": 16, "zoom_factor": 2}}
RECORD |= {"versions": {"pot_jax": "1, beta: 2"}, "identity": {}}


@pytest.mark.parametrize("negative", ["", "x", 'a, "b": c', "one\ntwo"])
@pytest.mark.parametrize(
    "prompt", [*recipes.WORDS, "Steps: 3", "(a:1.2), [b]", "a\\n", "<lora:x:1>"]
)
def test_parameters_are_read_as_they_were_meant(prompt, negative):
    config = {"prompts": ["wide", prompt], "negative_prompt": negative, "model": "cosmos64"}
    config["sampler"] = {"solver": "euler_ancestral", "steps": 20, "guidance_scale": 7.0}
    text = recipe.parameters(RECORD | {"config": config}, 1)
    *said, fields = recipes.parsed_parameters(text)
    assert said == [prompt, negative]
    expected = {"Sampler": "Euler a", "CFG scale": "7", "Version": "pot_jax 1, beta: 2"}
    assert (expected | {"Model": "cosmos64"}).items() <= fields.items()


def test_every_solver_has_a_name():
    assert recipe._SAMPLERS.keys() == set(SOLVERS)


def test_the_texts_of_a_picture_need_no_latin(tmp_path):
    texts = {"latin": "é", "others": "星\n", "pot_jax": "{}"}
    save_png(tmp_path / "a.png", np.zeros((4, 4, 3), np.uint8), texts)
    assert read_text(tmp_path / "a.png") == texts
    kinds = [kind for kind, _ in recipes.chunks((tmp_path / "a.png").read_bytes())]
    assert kinds[1:4] == [b"tEXt", b"iTXt", b"tEXt"]


def test_metadata_none_leaves_nothing_and_takes_back_what_was_there(inside, capsys):
    flags = [*PROMPTS, *RUN, *FILES, "--workdir=again"]
    shutil.copytree(inside / "run", inside / "again")
    pixels = {p: np.asarray(Image.open(p)) for p in (inside / "again").rglob("*.png")}
    assert sample(*flags, "--metadata=none") == 0
    for path, values in pixels.items():
        with Image.open(path) as image:
            assert not image.info
            assert np.array_equal(np.asarray(image), values)
    files = [*pixels, inside / "again" / "zoom.mp4"]
    for path in files:
        content = path.read_bytes()
        assert not any(
            w in content for w in (b"pot_jax", b"prompt", b"parameters", b"xmp", b"DDIM")
        )
    assert sample("--from_picture=again/contact_sheet.png", *FILES, "--workdir=w") == 2
    assert "holds no recipe of pot_jax; give" in capsys.readouterr().err
    assert sample(*flags, "--metadata=none") == 0
    assert "already complete" in capsys.readouterr().out
    assert sample(*flags) == 0  # and back again
    assert recipes.results(inside / "again") == recipes.results(inside / "run")


def test_a_lost_picture_comes_back_with_its_recipe(inside):
    shutil.copytree(inside / "run", inside / "again")
    (inside / "again" / "levels" / "level_001.png").unlink()
    record = json.loads((inside / "again" / "config.json").read_text())
    record["versions"]["jax"] = "0.0.1"  # of the run, not of now
    (inside / "again" / "config.json").write_text(json.dumps(record))
    assert sample(*PROMPTS, *RUN, *FILES, "--workdir=again") == 0
    text = read_text(inside / "again" / "levels" / "level_001.png")["pot_jax"]
    assert json.loads(text)["versions"]["jax"] == "0.0.1"


def test_a_movie_elsewhere_has_the_recipe_with_its_own_settings(inside):
    flags = ["--workdir=run", "--output=film.mp4", "--fps=3", "--size=32"]
    assert main.main(["pot-jax", "render", *flags]) == 0
    with av.open("film.mp4") as movie:
        config = json.loads(movie.metadata["comment"])["config"]
    assert (config["movie"]["fps"], config["seed"]) == (3, 7)


def test_damaged_texts_are_valid_or_one_line(place, tmp_path):
    data = (place / "run" / "levels" / "level_001.png").read_bytes()
    breaches, valid = recipes.mutations(data, tmp_path, 100)
    assert not breaches
    assert 0 < valid < 100


def test_no_output_names_the_machine(place, tmp_path, monkeypatch):
    """`tools/acceptance hands` does the same in a process of its own."""
    work = recipes.make_rare(place, tmp_path)
    for name, value in recipes.rare_environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("socket.gethostname", lambda: recipes.RARE["host"])
    monkeypatch.chdir(work)
    assert sample(*PROMPTS, *RUN, *recipes.rare_flags(tmp_path)) == 0
    assert not recipes.named(work / "run", str(ROOT), "model/")
    record = json.loads((work / "run" / "config.json").read_text())["config"]
    assert (record["model"], record["photograph"]["path"]) == ("~/model", "~/photo.png")
    again = build(RunSettings, read(str(work / "run" / "config.json")))  # it still repeats the run
    assert again.model == str(tmp_path / recipes.RARE["home"] / "model")
    assert [lora.path for lora in again.loras] == [
        f"{tmp_path / recipes.RARE['home']}/one.safetensors"
    ]


def test_names_on_this_machine_are_left_out():
    settings = RunSettings(model="private/model", prompts=("a",), tokenizer="/private/words")
    settings = dataclasses.replace(settings, unet="/private/unet", vae="private.safetensors")
    config = json.loads(json.dumps(dataclasses.asdict(settings)))
    config["loras"] = [{"path": "/private/x.safetensors", "strength": 1.0, "sha256": "ab"}]
    config["photograph"] = {**config["photograph"], "path": "private.png"}
    made = recipe.recipe(RECORD | {"config": config})
    assert "private" not in made
    found = json.loads(made)["config"]
    names = (
        found["model"],
        found["tokenizer"],
        found["unet"],
        found["vae"],
        found["photograph"]["path"],
        found["loras"][0]["path"],
    )
    assert {*names} == {"?"}
    hub = "owner/name@" + "0" * 40
    assert (
        json.loads(recipe.recipe(RECORD | {"config": {**config, "model": hub}}))["config"]["model"]
        == hub
    )
