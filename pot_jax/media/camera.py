"""The camera's flight: at which level it is in every frame, and at which place of the world.

Symbols: N levels, p the zoom factor; t the camera's level, a real number in [0, N-1]: its view is
p^-t as wide as level 0. In a loop t ends at N, where it sees level 0 again, and level i+N is level
i. Places are pairs (y, x), fractions of a side, the level's or the view's.

When: t moves at a constant rate R. With easing of e seconds it takes that long to reach R after a
rest, and to come to rest again: its rate is R (3 y^2 - 2 y^3) when a share y of e has passed. That
covers R e/2, half of what R covers in the time, so the easing adds e seconds to a flight.

Where: the view at a whole t is level t. Let F be a point of the world, u(t) its place in the view,
and L = ln p. A view that moves w of its own sides a level has u' = L (u - 1/2) - w; where w is
constant, one point stays fixed on the screen. From level i to i+1 that is w_i = o_i L / (1 - 1/p),
for the offset o_i of level i+1's centre in level i. Flown so, w would jump at each level. In

    u(i+x) = (F's place in the flight of constant w_i) - (w_{i-1} - w_i) x (1-x)^2

it does not: from w_{i-1} at x = 0 it swings to w_i at x = 1. w_{-1} is w_0, of a loop w_{N-1}.

So the view never leaves level 0. It keeps clear of a side while it moves there by at most L/2, and
all w_i do, as windows lie in their parents. Where w_{i-1} > w_i towards a side, the swing's w falls
from w_{i-1}, never above it; to the other side the swing adds room, since x (1-x)^2 >= 0.

How even: w is at most 2.1 times L/2 (p to 10, extremes that alternate). So the mean speed of what
is seen is 1 to 4 times a centred zoom's, which is even; to 2 times, for half the possible offsets.
"""

import math
from collections.abc import Callable

import numpy as np

from pot_jax.checks import require
from pot_jax.config import MovieSettings
from pot_jax.errors import UserError
from pot_jax.zoom.geometry import Geometry

_LONGEST = 1_000_000  # frames: nine hours at 30 a second


def zoom_path(levels: int, movie: MovieSettings, *, loop: bool = False) -> np.ndarray:
    """Returns the camera's level t at every frame: [F] float64 in [0, N-1], of a loop in [0, N].

    Directions are "in", from level 0 to level N-1, "out", the reverse, and "both", in and out
    again. A film rests for `movie.hold` seconds before the flight and where it ends, "both" not
    again on its return. That of a `loop` flies over N levels without rests or easing, and its last
    frame is the one before the first. Raises UserError as `flight_frames` does.
    """
    rest, frames = round(movie.hold * movie.fps), flight_frames(levels, movie, loop=loop)
    fall = np.linspace(0, levels - (not loop), frames + 1)
    if loop:
        path = DIRECTIONS[movie.direction](fall, 0)[:-1]
    else:
        fall = _eased(fall, movie.easing * movie.fps / max(frames, 1))
        path = DIRECTIONS[movie.direction](fall, rest)
    missing = round(movie.seconds * movie.fps) - len(path)  # a flight there and back takes an even
    return np.pad(path, (0, max(0, missing)), mode="edge")  # number of frames


def flight_frames(levels: int, movie: MovieSettings, *, loop: bool = False) -> int:
    """Returns the frames of one flight over all levels, rests aside; quick, whatever the number.

    Raises UserError if the film would be too long, or too short for its rests and its easing.
    """
    falls, fps, ways = levels - (not loop), movie.fps, 1 + (movie.direction == "both")
    still = 0 if loop else 2 * round(movie.hold * fps) + 1
    eased = 0 if loop or not falls else movie.easing * fps
    frames = falls * movie.seconds_per_level * fps + eased
    name = "seconds" if movie.seconds else "seconds_per_level"
    seconds = movie.seconds or (still + ways * frames) / fps
    if not seconds * fps <= _LONGEST:
        raise UserError(
            f"movie.{name}: expected a movie of up to {_LONGEST} frames, got {seconds:.3g} seconds "
            f"at {fps} frames a second"
        )
    if movie.seconds:
        frames = round(seconds * fps - still) // ways
        least = (still + ways * max(falls > 0, 2 * eased)) / fps
        expected = f"at least {least:.3g}, for the holds and the easing"
        require(frames >= max(falls > 0, 2 * eased), "movie.seconds", expected, movie.seconds)
    expected = f"at most {falls * movie.seconds_per_level:.3g}, the time without it"
    require(frames >= 2 * eased, "movie.easing", expected, movie.easing)
    return max(round(frames), falls > 0)


def _one_way(fall, rest):
    return np.concatenate([np.repeat(fall[:1], rest), fall, np.repeat(fall[-1:], rest)])


DIRECTIONS = {
    "in": _one_way,
    "out": lambda fall, rest: _one_way(fall[::-1], rest),
    "both": lambda fall, rest: np.concatenate([_one_way(fall, rest), fall[-2::-1]]),
}


def _eased(places: np.ndarray, share: float) -> np.ndarray:
    """Returns places that advance evenly from 0, with ramps of that share of their time at ends."""
    if not share or not places[-1]:
        return places
    far, ramp = places[-1], share * places[-1]
    near = np.minimum(places, far - places)
    y = np.minimum(near / ramp, 1)
    moved = ramp * (y**3 - y**4 / 2) + np.maximum(near - ramp, 0)  # since the nearer end
    moved *= far / (far - ramp)
    return np.where(places <= far / 2, moved, far - moved)


def fixed_point(geometry: Geometry) -> np.ndarray:
    """Returns the place u_i in every level of the point F, [N, 2], that levels 0 and M share.

    F is the fixed point of the map from level 0 to level M, the number of windows, N-1 or N. With
    window i's corner c_i in level i, u_i = c_i + u_{i+1} / p, and by definition u_0 = u_M; so u_0 =
    sum_i c_i p^-i / (1 - p^-M). Places are measured in their own levels: 64 lose no precision.
    """
    p, windows = geometry.zoom_factor, geometry.windows
    corners = geometry.corners / np.array([geometry.height, geometry.width], np.float64)
    if not windows:
        return np.full((1, 2), 0.5)
    shrink = float(p) ** -np.arange(windows)
    places = np.empty((windows + 1, 2))
    places[-1] = (corners * shrink[:, None]).sum(0) / (1 - float(p) ** -windows)
    for level in reversed(range(windows)):
        places[level] = corners[level] + places[level + 1] / p
    return places[: geometry.levels]


def course(geometry: Geometry) -> Callable[[float], np.ndarray]:
    """Returns the function of t in [0, M] that gives u(t), F's place in view (`fixed_point`)."""
    p, last = geometry.zoom_factor, max(geometry.windows, 1) - 1
    offsets = np.array(geometry.offsets or [(0, 0)] * (last + 1), np.float64).reshape(-1, 2)
    # Of constant w_i: u - 1/2 = pans_i + (u_i - 1/2 - pans_i) p^x, so pans_i is w_i / L.
    pans = offsets / (geometry.height, geometry.width) / (1 - 1 / p)
    places, turns = fixed_point(geometry), math.log(p) * (np.roll(pans, 1, axis=0) - pans)
    if not geometry.loop:
        turns[0] = 0

    def place(t: float) -> np.ndarray:
        level = min(math.floor(t), last)
        x = t - level
        swing = (places[level] - 0.5 - pans[level]) * (p**x - 1)
        return places[level] + swing - turns[level] * (x * (1 - x) ** 2)

    return place
