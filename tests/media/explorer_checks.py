# ruff: noqa: E501 - lines of JavaScript and markup
"""What the explorer has to reach in a real browser; tests run a few of each, acceptance all.

Each takes how many, the browser and a folder, and returns what is wrong, a line each.
"""

import html
import itertools

import numpy as np
from explorer_reference import drawn
from zooms import noise, pasted, world

from pot_jax.media.explorer import Shown, write_page
from pot_jax.zoom.geometry import Geometry

NEAR = 2  # bytes; the reference's own rounding of mip maps and layers is within one
# Zooms, each with the canvases that its views are drawn in: smaller, of its own size, larger.
ZOOMS = [
    (Geometry(5, 2, 64, 64), [(64, 64), (160, 160), (90, 220)]),
    (Geometry(4, 2, 64, 96, ((-16, 24), (8, -16), (0, 24))), [(48, 72), (200, 150)]),
    (Geometry(4, 3, 72, 72, ((24, 24), (-24, 3), (0, -9))), [(100, 60), (150, 150)]),
    (Geometry(3, 4, 128, 128, loop=True), [(96, 96), (256, 300)]),
    # Far off-centre: a level deep inside does not fill these, and up to four wider ones show.
    (Geometry(12, 2, 64, 64, ((16, 16),) * 11), [(64, 114), (139, 64)]),
]


def written(folder, geometry, pictures, prompts=(), **others):
    """The page of one zoom."""
    path = folder / "zoom.html"
    write_page(path, [Shown("", pictures, geometry, prompts, **others)])
    return path


def views(count, browser, folder):
    """Seeded views against the reference: a fifth beside a border, every other off the path."""
    rng, wrong = np.random.default_rng(0), []
    canvases = list(itertools.chain(*([(g, size) for size in sizes] for g, sizes in ZOOMS)))
    for number in range(count):
        # All canvases in turn: few views meet every zoom.
        g, size = canvases[(number * 4) % len(canvases)]
        pictures = pasted(noise(g, number), g)
        depth = rng.uniform(0, g.windows)
        if number % 5 == 0:
            depth = rng.integers(1, max(2, g.windows)) + rng.uniform(-0.004, 0.004)
        away = rng.uniform(-0.5, 0.5, 2) * (number % 2)
        fragment = "#" + ",".join(f"{x:.6f}" for x in (depth, *away))
        browser.open(written(folder, g, pictures), size[1], size[0], fragment)  # from outside
        found, _ = browser.seen()
        wanted = drawn(pictures, g, (float(f"{depth:.6f}"), np.round(away, 6)), size)
        most = np.abs(found.astype(int) - wanted).max()
        if most > NEAR:
            wrong.append(f"{fragment} of {g} at {size}: {most} of 255")
        wrong += browser.wrong()
    return wrong


def whole_levels(browser, folder):
    """Whole levels in a window of their own size: the very bytes."""
    wrong = []
    for g, _ in ZOOMS:
        pictures = pasted(noise(g), g)
        browser.open(written(folder, g, pictures), g.width, g.height)
        for level in range(g.levels):
            found, _ = browser.seen(f"#{level}")
            if not np.array_equal(found, pictures[level]):
                wrong.append(f"level {level} of {g}: other bytes")
    return wrong + browser.wrong()


def border_change(browser, folder, size=64):
    """Mean change from frame to frame, 1/60 s apart while it plays: at borders over mid-level."""
    g = Geometry(5, 2, size, size)
    pictures = pasted(world(11, 0, g.levels, size), g)
    browser.open(written(folder, g, pictures), size, size)
    half = 1 / 60 / 1.5 / 2

    def change(at):
        a, b = (browser.seen(f"#{at + side:.6f}")[0].astype(int) for side in (-half, half))
        return np.abs(a - b).mean()

    borders, between = ([change(at) for at in ats] for ats in ((1, 2, 3), (0.5, 1.5, 2.5, 3.5)))
    return np.mean(borders) / np.mean(between)


def depth(levels, browser, folder, every=1):
    """A zoom as deep as the film: each `every`-th level's own bytes, and there and back by steps."""
    g = Geometry(levels, 2, 16, 16)
    pictures = pasted(noise(g), g)
    page = written(folder, g, pictures, [f"level {i}" for i in range(levels)], width_metres=1e25)
    browser.open(page, 16, 16)
    wrong = []
    for level in range(0, levels, every):
        found, _ = browser.seen(f"#{level}")
        if not np.array_equal(found, pictures[level]):
            wrong.append(f"level {level}: other bytes")
    browser.run(
        f"show(0, [0, 0]); for (let i = 0; i < {8 * (levels - 1)}; i++) zoom(0.125, [0.1, 0.1]); redraw()"
    )
    found, view = browser.seen()
    middle = [float(x) for x in view[1:].split(",")]
    if middle[0] != levels - 1:
        wrong.append(f"small steps end at {view}, not at {levels - 1}")
    browser.run(f"for (let i = 0; i < {8 * (levels - 1)}; i++) zoom(-0.125); redraw()")
    if (view := browser.seen()[1].split(",")[0]) != "#0":
        wrong.append(f"and come back to {view}")
    return wrong + browser.wrong()


def cost(browser, page, width, height, seconds=3):
    """(milliseconds of script a frame, frames a second) while it plays; frames are waited for."""
    browser.open(page, width, height)
    browser.seen("#0")
    wait = "const gl = canvas.getContext('webgl2'), done = arguments[1], byte = new Uint8Array(4);"
    script = f"""{wait} spent.length = 0; let frames = 0; const began = performance.now();
      toggle();
      const next = () => {{ gl.readPixels(0, 0, 1, 1, gl.RGBA, gl.UNSIGNED_BYTE, byte); frames++;
        const now = performance.now() - began;
        if (now < 1000 * arguments[0]) return ask(next);
        toggle(); done([spent.reduce((a, b) => a + b, 0) / spent.length, frames / now * 1000]); }};
      ask(next);"""
    return browser.driver.execute_async_script(script, seconds)


# What is tried against pages of other people's texts: OWASP's and portswigger's lists, shortened,
# around a script that leaves a mark. All combinations of a way out and what follows.
MARK = "window.ran=1"
OUT = ["", '"', "'", "`", "'\"", ">", "\">", "'>", "</title>", "</script>", "</SCRIPT >", "</style>",
       "</textarea>", "-->", "]]>", "--!>", "</noscript>", "\u2028", "\u2029", "\\", "\\u003c/script>",
       "\\x3c/script>", "${", "*/", "//\n", "\0", "&quot;", "&lt;/script&gt;", "</p>", "@data@@title@@policy@",
       '"}', '"]}]}</script>', "\\\"};"]  # fmt: skip
IN = ["<script>{}</script>", "<script src=data:text/javascript,{}></script>", "<img src=x onerror={}>",
      "<svg onload={}>", "<svg><script>{}</script></svg>", "<svg><animate onbegin={} attributeName=x dur=1s>",
      "<body onload={}>", "<iframe srcdoc='<script>parent.ran=1</script>'>", "<iframe src=javascript:parent.ran=1>",
      "<input autofocus onfocus={}>", "<details open ontoggle={}>", "<video><source onerror={}></video>",
      "<math><mtext><table><mglyph><style><img src=x onerror={}>", "<a href=javascript:{} id=canvas>x</a>",
      "<object data=data:text/html,<script>{}</script>>", "<meta http-equiv=refresh content=0;url=javascript:{}>",
      "<base href=//example.invalid/>", "<form id=data><input name=textContent>", "<!--<script>{}", "{};//",
      "<link rel=stylesheet href=//example.invalid/x.css>", "<style>*{{background:url(//example.invalid)}}</style>",
      "<template><script>{}</script></template>", "<marquee onstart={}>", "<embed src=javascript:{}>",
      "<img src=//example.invalid/x.png>", "constructor.constructor('{}')()", "{{{{{}}}}}"]  # fmt: skip


def hostile_prompts(count):
    """Prompts that would run a script where they were taken for markup, seeded."""
    every = [way + what.format(MARK) for way, what in itertools.product(OUT, IN)]
    every += [html.escape(one) for one in every[:50]]
    chosen = np.random.default_rng(0).permutation(len(every))[:count]
    return [every[i] for i in sorted(chosen)]


def hostile(count, browser, folder):
    """Hostile prompts, names and recipes, shown one after another: nothing runs, all is text."""
    prompts, wrong = hostile_prompts(count), []
    g = Geometry(2, 2, 4, 4)
    write_page(folder / "plain.html", 2 * [Shown("a", noise(g), g, ["a", "b"], recipe="c")])
    browser.open(folder / "plain.html", 300, 200)
    elements = browser.run("return document.querySelectorAll('*').length")
    for first in range(0, count, 100):
        some = prompts[first : first + 100]
        g = Geometry(len(some), 2, 4, 4)
        path = folder / "hostile.html"
        shown = Shown(some[0], noise(g), g, some, recipe=some[-1])
        write_page(path, [shown, shown._replace(name=some[-1])])
        browser.open(path, 300, 200)
        for level, prompt in enumerate(some):
            browser.run(f"show({level}, [0, 0]); tell()")
            found = browser.run("return $.caption.textContent")
            if found != prompt:
                wrong.append(f"{prompt!r} is shown as {found!r}")
        browser.seen()
        if browser.run("return window.ran") or elements != browser.run(
            "return document.querySelectorAll('*').length"
        ):
            wrong.append(f"something of {first} to {first + 99} became markup or ran")
        wrong += browser.wrong()
    return wrong
