"""The explorer: one HTML file in which zooms are flown through, without network or server.

`explorer.html` beside this file is the page, with its style and script; its script says how the
view is kept and what filter it draws with. Here the data are put into it: pictures as lossless
WebP, prompts and everything else as JSON, which no browser takes for markup.
"""

import base64
import concurrent.futures
import hashlib
import html
import io
import json
import os
import pathlib
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from pot_jax.errors import UserError, shown
from pot_jax.media.files import write_atomically
from pot_jax.zoom.geometry import Geometry, require_levels

_PAGE = pathlib.Path(__file__).with_name("explorer.html")
_LARGEST = 16383  # pixels of a side: WebP's limit
# What could end a script's block or a line of a script -> how JSON spells it otherwise.
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


class Shown(NamedTuple):
    """One zoom as a page shows it."""

    name: str  # above its picture, where several are side by side; "" for none
    pictures: np.ndarray  # as delivered, [N, H, W, 3] uint8
    geometry: Geometry  # of the pictures
    prompts: Sequence[str] = ()  # of the levels, widest first; fewer, or none, are allowed
    width_metres: float = 0.0  # of level 0's view; 0: not stated
    recipe: str = ""  # JSON that is kept in the page, and not shown; "" for none


def page(zooms: Sequence[Shown]) -> str:
    """Returns the page of one zoom, or of several side by side with one view, as HTML.

    Side by side, zooms see the same place: their zoom factors, aspects, loops and placements have
    to be the same, as shares of a side; the size of their pictures may differ, and so may their
    depth, but in loops: where one has no deeper level, its deepest is enlarged. Raises UserError if
    these do not fit, or a picture is too large for WebP, and ValueError for no zooms.
    """
    if not zooms:
        raise ValueError("expected at least one zoom")
    deepest = max(zooms, key=lambda zoom: zoom.geometry.levels)
    for zoom in zooms:
        require_levels(zoom.pictures, zoom.geometry)
        _require_same_place(zoom, deepest)
    g, widths = deepest.geometry, {zoom.width_metres for zoom in zooms}
    data = {
        "zoom_factor": g.zoom_factor,
        "aspect": g.width / g.height,
        "loop": g.loop,
        "corners": _corners(g).tolist(),
        # In a loop nothing has a width, for it comes again smaller.
        "width_metres": 0.0 if g.loop or len(widths) > 1 else widths.pop(),
        "zooms": [
            {
                "name": zoom.name,
                "size": [zoom.geometry.width, zoom.geometry.height],
                "prompts": list(zoom.prompts),
                "recipe": zoom.recipe,
                "pictures": pictures,
            }
            for zoom, pictures in zip(zooms, map(_encoded, zooms))
        ],
    }
    text = _PAGE.read_text(encoding="utf-8")
    sources = [_source(text, kind) for kind in ("style", "script")]
    policy = "default-src 'none'; img-src data:; style-src {}; script-src {}; base-uri 'none'"
    title = next((prompt for prompt in deepest.prompts if prompt.strip()), "a zoom")
    values = {
        "policy": f"{policy.format(*sources)}; form-action 'none'",
        "title": html.escape(title[:80]),
        "data": json.dumps(data, allow_nan=False).translate(_ESCAPED),
    }
    return re.sub("@(policy|title|data)@", lambda found: values[found[1]], text)


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


def _corners(geometry: Geometry) -> np.ndarray:
    """The corner (x, y) of every window, as fractions of its level's sides, [N-1 or N, 2]."""
    return (geometry.corners / np.array([geometry.height, geometry.width]))[:, ::-1]


def _require_same_place(one: Shown, other: Shown) -> None:
    a, b = one.geometry, other.geometry
    same = min(a.windows, b.windows)
    found = {
        "zoom factors": (a.zoom_factor, b.zoom_factor),
        "aspects": (a.width * b.height, b.width * a.height),
        "a loop and an open chain": (a.loop, b.loop),
        "loops of other depths": (a.loop and a.levels, b.loop and b.levels),
        "placements": (_corners(a)[:same].tolist(), _corners(b)[:same].tolist()),
    }
    for what, (ours, theirs) in found.items():
        if ours != theirs:
            names = f"{shown(one.name)} and {shown(other.name)}"
            raise UserError(
                f"{names} cannot share a view: expected zooms of the same places, got {what}"
                f"{'' if what.startswith(('a ', 'loops')) else ' that differ'}; show them apart"
            )


def _encoded(zoom: Shown) -> list[str]:
    """The pictures as lossless WebP, in base64."""
    if max(zoom.geometry.height, zoom.geometry.width) > _LARGEST:
        size = f"{zoom.geometry.height} x {zoom.geometry.width}"
        raise UserError(f"expected pictures of up to {_LARGEST} pixels a side, got {size}")

    def encoded(picture):
        file = io.BytesIO()
        # Of a photograph a tenth more is saved by no slower method.
        Image.fromarray(picture).save(file, "WEBP", lossless=True, exact=True, method=4, quality=75)
        return base64.b64encode(file.getvalue()).decode()

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        return list(threads.map(encoded, zoom.pictures))


def _source(text: str, kind: str) -> str:
    """What a policy calls the page's own block of this kind: its digest."""
    block = re.search(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)[1]
    return f"'sha256-{base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()}'"
