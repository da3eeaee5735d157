"""What a run's `config.json` says: everything that decides its pictures, and what made them.

Writer and reader share this one type. A run is identified by the digests in `identity`: folders
with equal digests hold the same run, wherever its model or photograph was stored. The settings only
serve to say what differs. Where a network computes something (text states, the photograph's
latents), its inputs are digested and not its outputs, because other devices round differently.
"""

import dataclasses
import functools
import hashlib
import inspect
import json
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from pot_jax import config
from pot_jax.checks import build, checked, differences, homeless, to_dict, version
from pot_jax.config import OwnPartSettings, RunSettings, SamplerSettings
from pot_jax.diffusion.sampler import GENERATOR
from pot_jax.errors import UserError, shown
from pot_jax.runs.claims import claim
from pot_jax.weights.digests import array_digest
from pot_jax.weights.model import COMPONENTS, Model
from pot_jax.zoom.geometry import Geometry

_PACKAGES = ("pot_jax", "jax", "jaxlib", "flax", "numpy")
# Digests of a run's identity -> the settings and groups of settings that decide them. Others say
# where something was stored or how it was computed; the pictures are the same.
_DECIDED = {
    "prompts": "prompts negative_prompt prompt_weights long_prompts",
    "sampler": "sampler",
    "geometry": "zoom",
    "seeds": "seed num_samples",
    "networks": "dtype model",  # another place of the same networks is the same run
    "schedule": "prediction_type",
    "weights": "loras embeddings unet vae",
    "photograph": "photograph.level photograph.method photograph.fit photographs",
    "held": "held",
    "upscaler settings": "upscaler.steps upscaler.guidance_scale upscaler.noise_level "
    "upscaler.solver",
}
# Sampler settings that runs from before them do not have: with their defaults, the same runs.
_NEWER = {"agreement_vae", "noise", "time_travel", "method", "strip", "own_colour", "agree_first"}
_NEWER |= {"agree_every", "blend_release", "timestep_spacing", "sigmas", *config.SIZES}
_DECIDES = {setting: name for name, settings in _DECIDED.items() for setting in settings.split()}


@dataclasses.dataclass(frozen=True)
class Record:
    """The record of one run."""

    settings: RunSettings
    geometry: Geometry  # of the pictures
    weights_sha256: str
    identity: Mapping[str, str] | None  # name -> digest; None in records of format 1
    notices: tuple[str, ...] = ()  # what the run assumed where nothing was said, a line each

    def to_json(self) -> dict[str, Any]:
        """Returns the contents of `config.json`, with the versions, code and devices of now."""
        return {
            "format": config.FORMAT,
            "config": to_dict(self.settings),
            "weights_sha256": self.weights_sha256,
            "identity": self.identity,
            "notices": [homeless(notice) for notice in self.notices],
            "geometry": self.geometry.to_json(),
            "versions": {name: version(name) for name in _PACKAGES}
            | {"python": platform.python_version()},
            "code": code_state(),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], place: str) -> "Record":
        """Reads what any version's `to_json` returned, in file `place`; UserError if it is none."""
        data = config.upgraded(data, place)
        try:
            return cls(
                settings=build(RunSettings, data["config"]),
                geometry=Geometry.from_json(data.get("geometry")),
                weights_sha256=str(data.get("weights_sha256", "")),
                identity=data.get("identity"),
                notices=checked(data.get("notices", ()), tuple[str, ...], "notices"),
            )
        except UserError as error:
            raise UserError(f"{place}: {error}") from None

    def claim(
        self, folder: pathlib.Path, what: str = "run", flag: str = "--workdir"
    ) -> dict[str, Any] | None:
        """Claims `folder` for this run, as `runs.claims.claim` does."""
        path = folder / "config.json"
        differing = lambda found: Record.from_json(found, str(path)).differing(self)  # noqa: E731
        return claim(path, self.to_json(), what=what, flag=flag, differing=differing)

    def differing(self, wanted: "Record") -> list[str]:
        """Returns what makes `wanted` another run than this one; empty if it is the same run."""
        known = self.identity is not None
        changed = {name for name, _, _ in differences(self.identity or {}, wanted.identity)}
        if not wanted.weights_sha256:  # they are not read yet
            changed &= wanted.identity.keys()
        rows = []
        for name, there, here in differences(to_dict(self.settings), to_dict(wanted.settings)):
            decides = _DECIDES.get(name) or _DECIDES.get(name.partition(".")[0])
            if not known and name.endswith(".path"):  # all that format 1 says of them
                decides = name
            if decides and (decides in changed if known else name != "model"):
                rows.append(f"{name} is {shown(repr(there))} there, {shown(repr(here))} here")
                changed.discard(decides)
        if not known:
            ours, theirs = self.weights_sha256, wanted.weights_sha256
            return rows + ["other weights"] * bool(theirs and ours != theirs)
        return rows + [f"other {name}" for name in sorted(changed)]


@functools.cache
def code_state() -> dict[str, Any] | None:
    """Returns the checkout's {"commit": SHA, "clean": if no file differs}; None without git."""
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    git = functools.partial(subprocess.check_output, cwd=root, text=True, stderr=subprocess.DEVNULL)
    try:
        commit, changes = git(["git", "rev-parse", "HEAD"]), git(["git", "status", "--porcelain"])
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout that it does not trust
        return None
    return {"commit": commit.strip(), "clean": not changes.strip()}


def digest(value: Any) -> str:
    """Returns the SHA-256 of plain data or of an array, in hex."""
    if isinstance(value, np.ndarray | jax.Array):
        return array_digest(value)
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def model_identity(model: Model) -> dict[str, str]:
    """Returns the digests of what a model contributes: weights, configs, precision, schedule."""
    schedule, modules = model.schedule, (getattr(model, name) for name in COMPONENTS)
    if schedule.timestep_spacing not in (None, "leading"):  # the only one that reads the offset
        schedule = dataclasses.replace(schedule, steps_offset=0)
    networks = [[m.config.to_json(), str(np.dtype(m.dtype))] for m in modules if m is not None]
    weights = {"weights": model.digest} if model.digest else {}  # not read yet
    return weights | {"networks": digest(networks), "schedule": digest(schedule.to_json())}


def zoom_identity(
    settings: RunSettings, geometry: Geometry, inputs: Mapping[str, Any]
) -> dict[str, str]:
    """Returns the digests of a zoom's settings, its geometry, and its other inputs that are given.

    Inputs are plain data or arrays by their names: prompts, seeds, photograph; None is left out.
    """
    sampler = dataclasses.asdict(settings.sampler).items()
    sampler = {n: x for n, x in sampler if n not in _NEWER or x != getattr(SamplerSettings, n)}
    decides = {
        "geometry": geometry.to_json(),
        "sampler": sampler,
        "own parts": [dataclasses.asdict(own) for own in settings.own_parts],
        "generator": [GENERATOR, bool(jax.config.jax_threefry_partitionable)],
        **inputs,
    }
    return {name: digest(what) for name, what in decides.items() if what is not None}


def own_part(part: str, value: Any) -> OwnPartSettings:
    """Returns what a run records of a part passed from Python: its name and a digest of its source.

    The digest covers the source, the defaults and what a function closes over. If one of these
    cannot be read (typed at a prompt, an object in a closure), there is none: it is not checked.
    """
    try:
        return OwnPartSettings(part, _name(value), digest(_content(value)))
    except (OSError, TypeError, ValueError, RecursionError):
        return OwnPartSettings(part, _name(value))


def _name(value: Any) -> str:
    if isinstance(value, functools.partial):
        return _name(value.func)
    if dataclasses.is_dataclass(value):
        return ", ".join(_name(f) for f in vars(value).values() if callable(f))
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}.{named.__qualname__}"


def _content(value: Any) -> Any:
    """Returns plain data that decide what a value does; raises if they cannot be read."""
    if isinstance(value, functools.partial):
        return ["partial", _content(value.func), _content(value.args), _content(value.keywords)]
    if dataclasses.is_dataclass(value):  # a Solver, a Guidance, a Blend
        return _content(vars(value))
    if isinstance(value, list | tuple):
        return [_content(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _content(item) for name, item in value.items()}
    if value is None or isinstance(value, str | int | float):
        return value
    function = inspect.unwrap(value)
    if not inspect.isfunction(function):
        raise TypeError(f"the state of {value!r} cannot be read")
    if function.__code__.co_filename == "<string>":  # of eval; Python 3.13 gives that of `-c`
        raise OSError("no source")
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    values = cells, function.__defaults__, function.__kwdefaults__
    return [inspect.getsource(function), *map(_content, values)]
