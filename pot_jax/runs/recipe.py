"""The recipe that a run's files carry: how they were made, and the same run made again from it.

A PNG's texts are `pot_jax`, what config.json says, as JSON, with the picture's level; `parameters`,
the same in AUTOMATIC1111's form; and XMP with IPTC's digital source type. A movie has the JSON. A
recipe names nothing of the machine: a file that neither ships nor is on the hub is given again by
flag, and its digest is compared. Does not import JAX.
"""

import copy
import json
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from pot_jax.checks import Path, build, checked, differences, parsed_json, to_dict
from pot_jax.config import SIGMAS, SOLVERS, RunSettings, check_format, settings_of
from pot_jax.errors import UserError, edge, shown
from pot_jax.media.images import read_text

FORMAT = 1
_GROUPS = ("config", "identity", "versions", "code")
_GIVEN = "?"  # in place of a file's path, which is given again
# Lists of files -> the flag that gives one, and the setting that it gives besides the file.
_FLAGS = {
    "loras": ("lora", "strength"),
    "embeddings": ("embedding", "token"),
    "photographs": ("photograph", "level"),
}
# These decide no file.
_CIRCUMSTANCES = ("save_every", "preview_every", "record_disagreement", "allow_pickle", "mesh")
_ASSETS = pathlib.Path(__file__).parents[1] / "assets"
_COMMIT = r"[\w.-]+/[\w.-]+@[0-9a-f]{40}"  # as weights.layouts.hub names what it loads
# Of an identity: the settings that change a digest, by the digest's name or its first word. A
# setting of the model may change all of them.
_MODEL = {"model", "variant", "dtype", "prediction_type", "tokenizer", "loras", "embeddings"}
_MODEL |= {"unet", "vae"}
_DECIDED = {
    "prompts": {"prompts", "negative_prompt", "prompt_weights", "long_prompts", "sampler"},
    "photograph": {"photograph", "photographs", "zoom"},
    "geometry": {"zoom", "prompts"},
    "seeds": {"seed", "num_samples"},
}
# AUTOMATIC1111's names, which have no DDPM and no DPM++ 3M.
_SAMPLERS = ("DDPM", "DDIM", "Euler", "Euler a", "DPM++ 2M", "LCM", "PLMS", "UniPC", "Heun")
_SAMPLERS += ("DPM++ 3M", "DPM++ 2M SDE", "DPM++ 3M SDE", "LMS", "PNDM")
_SAMPLERS = dict(zip(SOLVERS, _SAMPLERS, strict=True))
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
i:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/></rdf:RDF></x:xmpmeta>
<?xpacket end="r"?>"""


def texts(record: Mapping[str, Any], level: int | None = None) -> dict[str, str]:
    """Returns the texts of a PNG by their keywords, none if the run's `metadata` is none.

    `record` is what config.json says, of the current format; `level` None is the contact sheet.
    """
    said = recipe(record, level)
    others = {"parameters": parameters(record, level), "XML:com.adobe.xmp": _XMP}
    return {"pot_jax": said, **others} if said else {}


def recipe(record: Mapping[str, Any], level: int | None = None) -> str:
    """Returns the recipe as JSON in ASCII; "" if the run's `metadata` is none. As for `texts`."""
    config = _public(settings_of(record), record.get("identity"))
    facts = ("weights_sha256", "identity", "geometry", "versions", "code", "devices")
    found = {"format": FORMAT, "level": level, "config": config}
    found |= {name: record.get(name) for name in facts}
    return "" if config["metadata"] == "none" else json.dumps(found, allow_nan=False)


def parameters(record: Mapping[str, Any], level: int | None = None) -> str:
    """Returns the recipe in AUTOMATIC1111's form, of all prompts if `level` is None.

    Prompt, negative prompt if any, and `name: value` in a line (modules/processing.py there,
    `create_infotext`). The model's hash is the beginning of our digest of weights, not of a file.
    """
    settings, geometry = _public(settings_of(record), None), record["geometry"]
    s, own = settings["sampler"], [part["part"] for part in settings["own_parts"]]
    fields = {
        "Steps": s["steps"],
        "Sampler": None if "solver" in own else _SAMPLERS.get(s["solver"]),
        "Schedule type": s["sigmas"].title() if s["sigmas"] in SIGMAS[1:] else None,
        "CFG scale": ", ".join(f"{scale:g}" for scale in _of(s["guidance_scale"], level)),
        "Seed": settings["seed"],
        "Size": f"{geometry['width']}x{geometry['height']}",
        "Model hash": record["weights_sha256"][:10] or None,
        "Model": None if settings["model"] == _GIVEN else settings["model"],
        "Zoom level": level,
        "Zoom levels": len(settings["prompts"]),
        "Zoom factor": geometry["zoom_factor"],
        "Version": f"pot_jax {(record.get('versions') or {}).get('pot_jax', '')}",
    }
    pairs = [(name, str(value)) for name, value in fields.items() if value is not None]
    quoted = ((n, json.dumps(v, ensure_ascii=False) if set(",:\n") & {*v} else v) for n, v in pairs)
    text, negative = ("\n".join(_of(settings[n], level)) for n in ("prompts", "negative_prompt"))
    text += f"\nNegative prompt: {negative}" if negative.strip() else ""
    line = ", ".join(f"{name}: {value}" for name, value in quoted)
    return f"{text}\n{line}".replace("\0", "").strip()  # no chunk may hold a zero byte


def _of(values: Any, level: int | None) -> list:
    """The value of a level, or of all, where there is one for each; else that of all."""
    if not isinstance(values, list | tuple):
        return [values]
    return [*values] if level is None else [values[level]]


def _public(settings: Mapping[str, Any], identity: Mapping[str, Any] | None) -> dict[str, Any]:
    """Returns plain settings with `_GIVEN` for files of the machine, or a photograph's array."""
    public = copy.deepcopy({n: x for n, x in settings.items() if n not in _CIRCUMSTANCES})
    for place, name in _files(public).values():
        path = place[name]
        ships = re.fullmatch(r"\w+", path) and (_ASSETS / path / "model_index.json").is_file()
        place[name] = path if not path or ships or re.fullmatch(_COMMIT, path) else _GIVEN
    if "photograph" in (identity or {}) and not public["photographs"]:
        public["photograph"]["path"] = _GIVEN
    for name in _FLAGS:
        public[name] = [{**file, "path": _GIVEN} for file in public[name]]
    return public


def _files(settings: dict[str, Any]) -> dict[str, tuple[dict[str, Any], str]]:
    """Returns where the settings have files, by their flags: (group, name in it)."""
    places = {name: (settings, name) for name in ("model", "tokenizer", "unet", "vae")}
    places["config.movie.font"] = settings["movie"], "font"
    return places | {name: (settings[name], "path") for name in ("photograph", "upscaler")}


def read(path: str) -> dict[str, Any]:
    """Reads the recipe in a PNG: its config, identity, versions and devices, and the file's place.

    Names of files that a hand put into it are not used. Raises UserError if the file holds no
    recipe of ours, or a damaged one.
    """
    path, place = checked(path, Path, "--from_picture"), shown(path)
    found = read_text(path)
    if not found.get("pot_jax"):
        other = " but another program's `parameters`" * ("parameters" in found)
        how = "give a PNG of a run that was not made with --metadata=none"
        raise UserError(f"--from_picture: {place} holds no recipe of pot_jax{other}; {how}")
    with edge("reading a recipe", path):
        data = parsed_json(found["pot_jax"])
    try:
        check_format(checked(data, dict, "pot_jax").get("format"), FORMAT, "it")
        facts = {name: checked(data.get(name) or {}, dict, name) for name in _GROUPS}
        facts |= {"devices": checked(data.get("devices"), str, "devices"), "place": place}
        settings = settings_of(facts)
    except UserError as error:
        raise UserError(f"--from_picture: the recipe in {place}: {error}") from None
    return {**facts, "config": _public(settings, facts["identity"])}


def require_files(made: Mapping[str, Any], settings: RunSettings) -> None:
    """Raises UserError if a recipe's settings, with a user's flags over them, lack a file."""
    data = to_dict(settings)
    files = _files(data).items()
    missing = [f"--{flag}=..." for flag, (place, name) in files if place[name] == _GIVEN]
    for name, (flag, more) in _FLAGS.items():
        for file in (file for file in data[name] if file["path"] == _GIVEN):
            digest = f" (SHA-256 {file['sha256'][:12]})" if "sha256" in file else ""
            missing.append(f"--{flag}=...:{file[more]}{digest}")
    if missing:
        how = f"give what a recipe has only a digest of: {shown(' '.join(missing))}"
        raise UserError(f"--from_picture: {made['place']} was made with files of the user's; {how}")


def check(made: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Returns notes on what differs; `now` is the record of the run to come.

    Raises UserError if what was given or found again is not what the picture was made with.
    """
    public = _public(settings_of(now), now["identity"])
    wrong = [name for name in _FLAGS if not _digests(made, name) <= _digests(now, name)]
    changed = {name.partition(".")[0] for name, *_ in differences(made["config"], public)}
    if _photographs(made["config"]) == _photographs(public):  # however it is written
        changed -= {"photograph", "photographs"}
    freed = []
    for name, there in made["identity"].items():
        here = now["identity"].get(name)
        if there != here and not (here is None and name.endswith("weights")):
            decided = _DECIDED.get(name.removeprefix("upscaler "), set())
            free = changed & (_MODEL | {name.split(" ")[0]} | decided)
            (freed if free else wrong).append(name)
    if wrong:
        what = f"{made['place']} was made with other {shown(', '.join(wrong))}"
        raise UserError(f"--from_picture: {what}; give the same, and what you change by flag")
    facts = [
        {**one["versions"], "commit": (one["code"] or {}).get("commit"), "devices": one["devices"]}
        for one in (made, now)
    ]
    rows = [f"{shown(name)} {shown(old)}, here {new}" for name, old, new in differences(*facts)]
    note = f"{made['place']} was made with {'; '.join(rows)}: other bytes are possible"
    other = f"as asked, other {', '.join(map(shown, freed))} than {made['place']} was made with"
    return [other] * bool(freed) + [note] * bool(rows)


def _digests(record: Mapping[str, Any], name: str) -> set[str]:
    return {file["sha256"] for file in record["config"][name] if "sha256" in file}


def _photographs(settings: Mapping[str, Any]) -> list:
    """What settings say of photographs, without their files."""
    s = build(RunSettings, settings)
    levels = sorted(one.level for one in s.every_photograph)
    return [levels, s.photograph.method, s.photograph.fit]
