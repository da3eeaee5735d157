"""What a seed fixes: every attribute of one nested world, drawn once."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from pot_jax.world import palettes


@dataclass(frozen=True)
class World:
    """One world, galaxy to ladybug. Angles in radians, lengths in the object's frame."""

    seed: int
    light: float  # direction the light comes from, in the plane of the view
    galaxy_kind: str
    galaxy: str
    galaxy_radius: float
    galaxy_angle: float
    galaxy_tilt: float  # cosine of the inclination: 1 is face-on
    arms: int
    barred: bool  # of a spiral: its arms begin at the ends of a bar
    pitch: float  # winding of the arms; its sign is their sense
    nebula: str
    nebula_second: str
    cloudy: bool  # the star lies in a nebula, else in a star field
    nebula_density: float  # of the clouds, -1 .. 1
    sun: str
    planet: str
    ringed: bool
    moon: bool
    clouds: float  # coverage, -1 .. 1
    island_size: float
    forest: str
    tree: str
    leaf: str
    leaf_angle: float
    beetle: str
    beetle_angle: float
    spots: str
    offsets: tuple[tuple[float, float], ...]  # where in the noise each texture is taken

    @property
    def towards_light(self) -> tuple[np.float32, np.float32]:
        """The unit vector (x, y) to where the light comes from."""
        return np.float32(np.cos(self.light)), np.float32(np.sin(self.light))


@lru_cache(maxsize=256)
def imagine(seed: int) -> World:
    """Returns the world of a seed (any whole number from 0); the same in every process."""
    rng = np.random.default_rng([20231204, seed])

    def among(names):
        names = list(names)
        return names[int(rng.random() * len(names))]  # Generator.choice is 20 times as slow

    planet = among(["blue", "blue", *palettes.PLANETS])
    forest = among(palettes.PLANETS[planet].forests)
    tree = among(palettes.FORESTS[forest].trees)
    leaf = among(palettes.TREES[tree].leaves)
    nebula = among(palettes.NEBULA)
    return World(
        seed=seed,
        light=rng.uniform(0, 2 * np.pi),
        galaxy_kind=among(["spiral", *palettes.GALAXY_KINDS]),
        galaxy=among(palettes.GALAXY),
        galaxy_radius=rng.uniform(0.62, 0.95),
        galaxy_angle=rng.uniform(0, 2 * np.pi),
        galaxy_tilt=rng.uniform(0.42, 1.0),
        arms=among([2, 2, 3, 4]),
        barred=bool(rng.random() < 0.25),
        pitch=among([-1, 1]) * rng.uniform(0.75, 1.25),
        nebula=nebula,
        nebula_second=among([name for name in palettes.NEBULA if name != nebula]),
        cloudy=bool(rng.random() < 0.8),
        nebula_density=rng.uniform(-1, 1),
        sun=among(palettes.SUN),
        planet=planet,
        ringed=bool(rng.random() < 0.3),
        moon=bool(rng.random() < 0.3),
        clouds=rng.uniform(-1, 1),
        island_size=rng.uniform(0.38, 0.5),
        forest=forest,
        tree=tree,
        leaf=leaf,
        leaf_angle=rng.uniform(0, 2 * np.pi),
        # It stands out from its leaf.
        beetle=among(c for c in ("red", "red", "orange", "yellow", "black") if c != leaf),
        beetle_angle=rng.uniform(0, 2 * np.pi),
        spots=among(palettes.SPOTS),
        offsets=tuple((float(a), float(b)) for a, b in rng.uniform(0, 16, (16, 2))),
    )
