"""The explorer: one HTML file in which zooms are flown through, without network or server.

`explorer.html` beside this file is the page, with its style and script; its script says how the
view is kept and what filter it draws with. Here the data are put into it: pictures as lossless
WebP, prompts and everything else as JSON, which no browser takes for markup.
"""

import base64
import concurrent.futures
import fractions
import hashlib
import html
import io
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from pot_jax.checks import require
from pot_jax.errors import UserError, shown
from pot_jax.media.files import write_atomically
from pot_jax.zoom.geometry import Geometry, require_levels

_PAGE = pathlib.Path(__file__).with_name("explorer.html")
_LARGEST = 16383  # pixels of a side: WebP's limit
_ENDING = "<>&\u2028\u2029"  # what could end a script's block, or a line of a script


class Shown(NamedTuple):
    """One zoom as a page shows it."""

    name: str  # above its picture, where several are side by side; "" for none
    pictures: np.ndarray  # as delivered, [N, H, W, 3] uint8
    geometry: Geometry  # of the pictures
    prompts: Sequence[str] = ()  # of the levels, widest first; fewer, or none, are allowed
    width_metres: float = 0.0  # of level 0's view; 0: not stated
    recipe: str = ""  # JSON that is kept in the page, and not shown; "" for none


def page(zooms: Sequence[Shown]) -> str:
    """Returns the page of zooms as HTML, side by side with one view if they are several.

    These see the same places: their zoom factor, aspect, placements and loop have to be the same.
    Their pictures' size may differ, and but in a loop their depth: where one has no deeper level,
    its deepest is enlarged. UserError if they do not fit each other, or are too large for WebP.
    """
    deepest = max(zooms, key=lambda zoom: zoom.geometry.levels)
    for zoom in zooms:
        require_levels(zoom.pictures, zoom.geometry)
        _require_same_places(zoom, deepest)
    g, widths = deepest.geometry, {zoom.width_metres for zoom in zooms}
    data = {
        "zoom_factor": g.zoom_factor,
        "aspect": g.width / g.height,
        "loop": g.loop,
        "corners": _corners(g),
        # In a loop nothing has a width, for it comes again smaller.
        "width_metres": 0.0 if g.loop or len(widths) > 1 else widths.pop(),
        "zooms": [_data(zoom) for zoom in zooms],
    }
    text = _PAGE.read_text(encoding="utf-8")
    policy = "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'"
    for kind in ("style", "script"):
        block = re.search(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)[1].encode()
        digest = base64.b64encode(hashlib.sha256(block).digest()).decode()
        policy += f"; {kind}-src 'sha256-{digest}'"
    found = json.dumps(data, allow_nan=False)
    for letter in _ENDING:  # each by itself: `translate` takes a second for 20 MB
        found = found.replace(letter, f"\\u{ord(letter):04x}")
    title = html.escape(next(iter(deepest.prompts), "a zoom")[:80])
    values = {"policy": policy, "title": title, "data": found}
    return re.sub("@(policy|title|data)@", lambda mark: values[mark[1]], text)


def check_page(geometry: Geometry) -> None:
    """Raises UserError if the pictures are too large for a page."""
    largest = max(geometry.height, geometry.width)
    require(largest <= _LARGEST, "pictures", f"at most {_LARGEST} pixels a side", largest)


def write_page(path: str | os.PathLike, zooms: Sequence[Shown]) -> None:
    """Writes `page(zooms)`, atomically; raises UserError as `page` does, or if it cannot."""
    text = page(zooms)
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


class Explorer:
    """A page that notebooks show inline."""

    def __init__(self, text: str):
        self.html = text  # the whole page

    def _repr_html_(self) -> str:
        style = "width: 100%; height: 560px; border: 0; border-radius: 8px"
        return (
            f'<iframe title="a zoom" sandbox="allow-scripts" allow="fullscreen" style="{style}" '
            f'srcdoc="{html.escape(self.html)}"></iframe>'
        )


def _corners(geometry: Geometry) -> list[list[float]]:
    """The corner (x, y) of every window, as fractions of its level's sides."""
    return (geometry.corners / [geometry.height, geometry.width])[:, ::-1].tolist()


def _require_same_places(one: Shown, other: Shown) -> None:
    def places(g, windows):
        aspect = fractions.Fraction(g.width, g.height)
        known = {"zoom factor": g.zoom_factor, "aspect": aspect, "loop": g.loop and g.levels}
        return known | {"placement": _corners(g)[:windows]}

    windows = min(one.geometry.windows, other.geometry.windows)
    ours, theirs = (places(zoom.geometry, windows) for zoom in (one, other))
    if differing := [name for name in ours if ours[name] != theirs[name]]:
        names, what = f"{shown(one.name)} and {shown(other.name)}", " and ".join(differing)
        raise UserError(
            f"{names} cannot share a view: expected one {what}, got two; show them apart"
        )


def _data(zoom: Shown) -> dict[str, Any]:
    """What the page's script reads of a zoom; its pictures are WebP in base64."""
    check_page(zoom.geometry)
    size = [zoom.geometry.width, zoom.geometry.height]

    def encoded(picture):
        file = io.BytesIO()
        # Slower methods save a photograph's page 2 % more at several times the cost.
        Image.fromarray(picture).save(file, "WEBP", lossless=True, exact=True, method=4, quality=75)
        return base64.b64encode(file.getvalue()).decode()

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        pictures = list(threads.map(encoded, zoom.pictures))
    known = {"name": zoom.name, "size": size, "prompts": list(zoom.prompts), "recipe": zoom.recipe}
    return known | {"pictures": pictures}
