"""The recipe that a run's files carry: how they were made, and the same run made again from it.

    pot_jax              what config.json says, as JSON, with the picture's level
    parameters           the same for people and programs that know AUTOMATIC1111's form
    XML:com.adobe.xmp    IPTC's digital source type

A PNG has these texts, a movie the JSON. It names nothing of the machine: of a file that neither
ships nor is on the hub it has a digest, and the file is given again by flag. Does not import JAX.
"""

import copy
import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pot_jax import checks
from pot_jax.checks import Settings, build, differences, parsed_json, require, to_dict
from pot_jax.config import RunSettings, check_format, settings_of
from pot_jax.errors import UserError, edge, shown
from pot_jax.media.images import read_text

FORMAT = 1
_FACTS = ("weights_sha256", "identity", "geometry", "versions", "code", "devices")  # of the record
KEYWORD = "pot_jax"
_LARGEST = 1 << 24  # characters: a thousand levels with prompts of four pages each

# Flag -> the setting that is a file's path, or a name that may be one.
_FILES = {
    "model": "model",
    "tokenizer": "tokenizer",
    "photograph": "photograph.path",
    "upscaler": "upscaler.path",
}
# Settings that are lists of files -> the flag that gives one.
_LISTS = {"loras": "lora", "embeddings": "embedding", "photographs": "photograph"}
_CIRCUMSTANCES = ("save_every", "record_disagreement", "allow_pickle")  # they decide no file
_ASSETS = Path(__file__).parents[1] / "assets"
_ON_HUB = re.compile(r"[\w.-]+/[\w.-]+@[0-9a-f]{40}")  # as weights.layouts.hub names a commit

# The digests of a run's identity -> the settings that may change each.
_MODEL = "model variant dtype prediction_type loras embeddings tokenizer "
_DECIDED = {
    "weights": _MODEL,
    "networks": _MODEL,
    "schedule": _MODEL,
    "prompts": _MODEL
    + "prompts negative_prompt sampler.guidance_scale prompt_weights long_prompts",
    "photograph": "photograph photographs zoom prompts model",
    "geometry": "zoom prompts model",
    "sampler": "sampler model",
    "seeds": "seed num_samples",
    "generator": "",
    "upscaler weights": "upscaler dtype",
    "upscaler networks": "upscaler dtype",
    "upscaler settings": "upscaler",
}

# AUTOMATIC1111's names; it has no DDPM.
_SAMPLERS = {
    "ddpm": "DDPM",
    "ddim": "DDIM",
    "euler": "Euler",
    "euler_ancestral": "Euler a",
    "dpmpp_2m": "DPM++ 2M",
    "lcm": "LCM",
}
_XMP = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about="" xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
   Iptc4xmpExt:DigitalSourceType="http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia"/>
 </rdf:RDF>
</x:xmpmeta>
<?xpacket end="r"?>"""


def texts(record: Mapping[str, Any], level: int | None = None) -> dict[str, str]:
    """Returns the texts of a PNG by their keywords, none if the run's `metadata` is none.

    `record` is what config.json says, of the current format; `level` None is the contact sheet.
    """
    said = recipe(record, level)
    others = {"parameters": parameters(record, level), "XML:com.adobe.xmp": _XMP} if said else {}
    return others | ({KEYWORD: said} if said else {})


def recipe(record: Mapping[str, Any], level: int | None = None) -> str:
    """Returns the recipe as JSON in ASCII; "" if the run's `metadata` is none. As for `texts`."""
    settings = settings_of(record)
    if settings["metadata"] == "none":
        return ""
    public, given = _public(settings)
    shown_by = "photograph" in given or public["photographs"]
    if "photograph" in (record.get("identity") or {}) and not shown_by:
        given.append("photograph")  # an array
    facts = {name: record.get(name) for name in _FACTS}
    found = {"format": FORMAT, "level": level, "config": public, "given": given, **facts}
    return json.dumps(found, allow_nan=False)


def parameters(record: Mapping[str, Any], level: int | None = None) -> str:
    """Returns the recipe in AUTOMATIC1111's form, of all prompts if `level` is None.

    Prompt, negative prompt if there is one, and a line of `name: value`, quoted as JSON where a
    value has a comma, a colon or a new line (modules/processing.py, `create_infotext`, there).
    The model's hash is the beginning of our digest of its weights, not of a file.
    """
    settings, geometry = settings_of(record), record["geometry"]
    sampler, prompts, public = settings["sampler"], settings["prompts"], _public(settings)[0]
    own = any(part["part"] == "solver" for part in settings["own_parts"])
    fields = {
        "Steps": sampler["steps"],
        "Sampler": None if own else _SAMPLERS.get(sampler["solver"]),
        "CFG scale": ", ".join(f"{scale:g}" for scale in _of(sampler["guidance_scale"], level)),
        "Seed": settings["seed"],
        "Size": f"{geometry['width']}x{geometry['height']}",
        "Model hash": record["weights_sha256"][:10] or None,
        "Model": public["model"] or None,
        "Zoom level": level,
        "Zoom levels": len(prompts),
        "Zoom factor": geometry["zoom_factor"],
        "Version": f"pot_jax {record['versions']['pot_jax']}",
    }
    line = ", ".join(f"{name}: {_quoted(str(v))}" for name, v in fields.items() if v is not None)
    text, negative = ("\n".join(_of(x, level)) for x in (prompts, settings["negative_prompt"]))
    negative = negative.strip() and f"\nNegative prompt: {negative}"
    return f"{text}{negative}\n{line}".replace("\0", "").strip()  # no chunk may hold a zero byte


def _of(values: Any, level: int | None) -> list:
    """The value of a level, or of all, of what has one a level, or one for all of them."""
    if not isinstance(values, list | tuple):
        return [values]
    return values if level is None else [values[level]]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False) if re.search("[,:\n]", text) else text


def _public(settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Returns all settings without names of the machine's files, and those files' flags."""
    public, given = copy.deepcopy(dict(settings)), []
    for flag in _FILES:
        place, name = _place(public, flag)
        shared = flag in ("model", "upscaler") and _is_shared(place[name])
        if place[name] and not shared:
            place[name] = ""
            given.append(flag)
    for name in _LISTS:
        public[name] = [{**file, "path": "?"} for file in public[name]]
    public["own_parts"] = [{**part, "name": ""} for part in public["own_parts"]]
    return {name: public[name] for name in public if name not in _CIRCUMSTANCES}, given


def _place(settings: dict[str, Any], flag: str) -> tuple[dict[str, Any], str]:
    """Returns the group of settings in which a file of `_FILES` is, and its name there."""
    group, _, name = _FILES[flag].rpartition(".")
    return (settings[group] if group else settings), name


def _is_shared(model: str) -> bool:
    shipped = re.fullmatch(r"\w+", model) and (_ASSETS / model / "model_index.json").is_file()
    return bool(shipped or _ON_HUB.fullmatch(model))


# Reading. ----------------------------------------------------------------------------------------

_MOVIES = (".mp4", ".mov", ".webm")


@dataclasses.dataclass(frozen=True)
class Recipe(Settings):
    """A recipe that was read: the fields of its JSON."""

    format: int
    level: int | None
    config: dict  # all settings as plain data, without names of files
    given: tuple[Literal[tuple(_FILES)], ...]  # the flags of those files
    weights_sha256: str
    identity: dict | None
    geometry: dict
    versions: dict
    code: dict | None
    devices: str
    place: str = ""  # where it was read, for messages

    @property
    def settings(self) -> dict[str, Any]:
        """Returns plain data to build `RunSettings` of, without what has to be given again."""
        return {**self.config, **dict.fromkeys(_LISTS, ())}

    def completed(self, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Returns these settings, over which a user's flags were laid, with LoRAs and embeddings.

        Raises UserError if a file has to be given again and is not.
        """
        settings, missing = copy.deepcopy(dict(settings)), []
        for flag in self.given:
            place, name = _place(settings, flag)
            missing += [f"--{flag}=..."] * (not place[name])
        for name, flag in _LISTS.items():
            wanted, files = self.config[name], settings[name]
            if wanted and len(files) != len(wanted):
                known = (("SHA-256", "sha256"), ("level", "level"))
                said = (f"{w} {str(one[n])[:12]}" for one in wanted for w, n in known if n in one)
                missing += [f"--{flag}=... ({what})" for what in said]
            elif wanted:  # in their order; what a flag leaves open is as it was
                stated = ({key: v for key, v in file.items() if v != ""} for file in files)
                settings[name] = tuple(one | of for one, of in zip(wanted, stated))
        if missing:
            how = f"give what a recipe only has a digest of: {' '.join(missing)}"
            raise UserError(
                f"--from_picture: {self.place} was made with files of the user's; {how}"
            )
        return settings

    def check(self, now: Mapping[str, Any]) -> list[str]:
        """Returns notes on versions and devices that differ; a run's `now` is its record.

        Raises UserError if what was given again, or found, is not what the picture was made with.
        """
        public, _ = _public(to_dict(build(RunSettings, now["config"])))
        changed = [f"{name}." for name, *_ in differences(self.config, public)]
        wrong = []
        for name, settings in _DECIDED.items():
            there, here = ((of or {}).get(name) for of in (self.identity, now["identity"]))
            freed = any(c.startswith(f"{s}.") for c in changed for s in settings.split())
            if there and here and there != here and not freed:
                wrong.append(f"{name} {shown(there)[:12]} there, {here[:12]} here")
        if wrong:
            what = f"{self.place} was made with something else ({'; '.join(wrong)})"
            raise UserError(
                f"--from_picture: {what}; give the same files, and what you change by flag"
            )
        facts = [{**one["versions"], "devices": one["devices"]} for one in (vars(self), now)]
        rows = [f"{shown(name)} {shown(old)}, here {new}" for name, old, new in differences(*facts)]
        note = f"{self.place} was made with {'; '.join(rows)}: other bytes are possible"
        return [note] if rows else []


def read(path: str) -> Recipe:
    """Reads the recipe in a PNG or a movie of a run.

    Raises UserError if the file holds none, or it is damaged or of a later version; or needs what
    only Python can give.
    """
    path, place = checks.checked(path, checks.Path, "--from_picture"), shown(path)
    if path.lower().endswith(_MOVIES):
        from pot_jax.media.encoding import read_comment

        found = {KEYWORD: read_comment(path)}
    else:
        found = read_text(path)
    if not found.get(KEYWORD):
        other = " but another program's `parameters`" * ("parameters" in found)
        how = "give a PNG or a movie of a run that was not made with --metadata=none"
        raise UserError(f"--from_picture: {place} holds no recipe of pot_jax{other}; {how}")
    with edge("parsing a recipe", path):
        data = parsed_json(found[KEYWORD]) if len(found[KEYWORD]) < _LARGEST else None
    require(isinstance(data, dict), f"--from_picture: {place}", "a recipe", found[KEYWORD])
    check_format(data.get("format"), FORMAT, f"--from_picture: the recipe in {place}")
    try:
        recipe = build(Recipe, {**data, "place": place})
        settings = to_dict(build(RunSettings, recipe.config))
    except UserError as error:
        raise UserError(f"--from_picture: the recipe in {place}: {error}") from None
    public, _ = _public(settings)
    for name, ours, _ in differences({n: settings[n] for n in public}, public):
        what = f"{name} is {shown(repr(ours))}, which neither ships with this version nor is a"
        how = "commit on the hub; use the version that wrote it"
        raise UserError(f"--from_picture: the recipe in {place}: {what} {how}")
    own = [f"a Python function as its {part['part']}" for part in settings["own_parts"]]
    own += ["held levels of another run"] * bool(settings["held"])
    own += ["latents given as an array"] * ("given latents" in (recipe.identity or {}))
    if own:
        how = "make it again with pot_jax.sample(..., workdir=...)"
        raise UserError(f"--from_picture: {place} was made with {own[0]}; {how}")
    return dataclasses.replace(recipe, config=public)
