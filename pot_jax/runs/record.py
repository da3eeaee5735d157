"""What a run's `config.json` says: everything that decides its pictures, and what made them.

Writer and reader share this one type. A run is identified by the digests in `identity`: folders
with equal digests hold the same run, wherever its model or photograph was stored. The settings only
serve to say what differs.
"""

import dataclasses
import functools
import pathlib
import platform
import subprocess
from collections.abc import Mapping
from typing import Any

import jax

from pot_jax import config
from pot_jax.checks import build, checked, differences, to_dict, version
from pot_jax.config import RunSettings
from pot_jax.errors import UserError, shown
from pot_jax.runs.claims import claim
from pot_jax.zoom.geometry import Geometry

_PACKAGES = ("pot_jax", "jax", "jaxlib", "flax", "numpy")
# Settings and groups of settings -> the digest of a run's identity that they decide. Others say
# where something was stored or how it was computed; the pictures are the same.
_DECIDES = {
    "prompts": "prompts",
    "negative_prompt": "prompts",
    "sampler": "sampler",
    "zoom": "geometry",
    "seed": "seeds",
    "num_samples": "seeds",
    "dtype": "networks",
    "prediction_type": "schedule",
    "loras": "weights",
    "embeddings": "weights",
    "photograph.level": "photograph",
    "photograph.method": "photograph",
    "upscaler.steps": "upscaler settings",
    "upscaler.guidance_scale": "upscaler settings",
    "upscaler.noise_level": "upscaler settings",
    "upscaler.solver": "upscaler settings",
}


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
            "notices": list(self.notices),
            "geometry": self.geometry.to_json(),
            "versions": {name: version(name) for name in _PACKAGES}
            | {"python": platform.python_version()},
            "code": code_state(),
            "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}",
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], place: str) -> "Record":
        """Reads what `to_json` returned, in this version or an earlier one, from the file `place`.

        Raises:
          UserError: it is not the record of a run.
        """
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

        def differing(found):
            return Record.from_json(found, str(path)).differing(self)

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
            if decides and (decides in changed or not known):
                rows.append(f"{name} is {shown(repr(there))} there, {shown(repr(here))} here")
                changed.discard(decides)
        if not known:
            ours, theirs = self.weights_sha256, wanted.weights_sha256
            return rows + ["other weights"] * bool(theirs and ours != theirs)
        return rows + [f"other {name}" for name in sorted(changed)]


@functools.cache
def code_state() -> dict[str, Any] | None:
    """Returns the commit of the checkout that this code runs from, and whether it is clean.

    {"commit": its SHA, "clean": whether no file differs}; None without a checkout or without git.
    """
    root = pathlib.Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "clean": not git("status", "--porcelain")}
    except (OSError, subprocess.CalledProcessError):  # no git, or a checkout that it does not trust
        return None
