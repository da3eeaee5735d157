# ruff: noqa: E501 - lines of JavaScript and markup
"""The explorer: the page's bytes, and the page in a real browser."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import json
import re

import explorer_checks as checks
import numpy as np
import pytest
from browser import chromium
from explorer_checks import ZOOMS, hostile_prompts, written
from PIL import Image
from zooms import noise, pasted

from pot_jax.errors import UserError
from pot_jax.media.explorer import Explorer, Shown, page, write_page
from pot_jax.zoom.geometry import Geometry

G = Geometry(4, 2, 32, 32)
PICTURES = pasted(noise(G), G)
PROMPTS = ["a galaxy", "a star", "a planet", "an island"]


@pytest.fixture(scope="module")
def browser():
    with chromium() as session:
        yield session


class Outline(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, [name for name, _ in attributes]))


def data_of(text):
    return json.loads(re.search(r'id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_pictures_and_words_come_back_as_they_were():
    shown = Shown("a", PICTURES, G, PROMPTS, 2.0, '{"seed": 1}')
    data = data_of(page([shown]))
    (zoom,) = data["zooms"]
    assert (zoom["prompts"], zoom["recipe"], data["width_metres"]) == (PROMPTS, '{"seed": 1}', 2.0)
    for text, picture in zip(zoom["pictures"], PICTURES):
        found = Image.open(io.BytesIO(base64.b64decode(text)))
        assert found.format == "WEBP"
        np.testing.assert_array_equal(np.asarray(found), picture)


def test_prompts_are_text_and_never_markup():
    hostile = hostile_prompts(400)
    g = Geometry(4, 2, 4, 4)
    plain = Outline(page([Shown("", noise(g), g, PROMPTS)])).tags
    for first in range(0, 400, 4):
        some = hostile[first : first + 4]
        text = page([Shown(some[0], noise(g), g, some, recipe=some[1])])
        assert Outline(text).tags == plain, some
        assert data_of(text)["zooms"][0]["prompts"] == some


def test_the_policy_allows_the_page_s_own_blocks_alone():
    text = page([Shown("", PICTURES, G)])
    policy = html.unescape(re.search(r'Policy" content="(.*?)">', text)[1])
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (block,) = re.findall(f"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
    assert not re.search(r"https?://|//[a-z]", re.sub(r'id="data".*?</script>', "", text))


def test_equal_zooms_give_equal_pages(tmp_path):
    for name in ("a", "b"):
        write_page(tmp_path / name, [Shown("", PICTURES, G, PROMPTS)])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (Geometry(4, 4, 32, 32), "zoom factor"),
        (Geometry(4, 2, 32, 64), "aspect"),
        (Geometry(4, 2, 32, 32, ((2, 0),) * 3), "placement"),
        (Geometry(4, 2, 32, 32, loop=True), "loop"),
    ],
)
def test_zooms_of_other_places_do_not_share_a_view(other, words):
    both = [Shown("one", PICTURES, G), Shown("two", noise(other), other)]
    for pair in (both, both[::-1]):
        with pytest.raises(UserError, match=f"cannot share a view.*{words}"):
            page(pair)


def test_loops_of_two_depths_do_not_share_a_view():
    loops = [Geometry(n, 2, 32, 32, loop=True) for n in (2, 3)]
    with pytest.raises(UserError, match="loop"):
        page([Shown(str(g.levels), noise(g), g) for g in loops])


def test_other_sizes_and_depths_share_a_view():
    small = Geometry(3, 2, 16, 16)
    data = data_of(page([Shown("a", noise(small), small), Shown("b", PICTURES, G)]))
    assert len(data["corners"]) == 3


def test_pictures_of_another_geometry_are_refused():
    with pytest.raises(UserError, match="expected all levels"):
        page([Shown("", PICTURES[1:], G)])


def test_a_notebook_shows_it_in_a_sandbox():
    text = Explorer(page([Shown("", PICTURES, G, ['"><script>']) ]))._repr_html_()  # fmt: skip
    assert Outline(text).tags == [
        ("iframe", ["title", "sandbox", "allow", "style", "srcdoc"]),
    ]


# In the browser. ---------------------------------------------------------------------------------


def test_whole_levels_are_the_zoom_s_own_bytes(browser, tmp_path):
    assert not checks.whole_levels(browser, tmp_path)


def test_views_are_as_the_stated_filter_has_them(browser, tmp_path):
    assert not checks.views(10, browser, tmp_path)


def test_borders_pass_without_a_pop(browser, tmp_path):
    assert checks.border_change(browser, tmp_path) <= 1.1


def test_134_levels_from_end_to_end(browser, tmp_path):
    assert not checks.depth(134, browser, tmp_path, every=7)


def test_hostile_prompts_run_nothing(browser, tmp_path):
    assert not checks.hostile(50, browser, tmp_path)


@pytest.fixture
def opened(browser, tmp_path):
    path = written(tmp_path, G, PICTURES, PROMPTS, width_metres=8.0)
    browser.open(path, 400, 300)
    browser.until("canvas.dataset.whole === 'true'")
    yield browser
    assert not browser.wrong()


def depth_of(browser):
    return browser.run("return depth()")


def press(browser, key, **how):
    browser.run("dispatchEvent(new KeyboardEvent('keydown', {key: arguments[0]}))", key)
    browser.until("!way.by && !asked")


def test_the_wheel_keeps_the_place_under_the_pointer(opened):
    opened.run("show(1, [0.1, 0])")
    place = "f = focus(view.level), m = f.map((x, a) => x + (0.5 + view.d[a] + arguments[0][a] - x) * p ** -view.z)"
    before = opened.run(f"const {place}; return m", [0.05, 0.1])
    at = {"clientX": 200 + 0.05 * 300, "clientY": 150 + 0.1 * 300, "deltaY": -120}
    opened.run(
        "canvas.dispatchEvent(new WheelEvent('wheel', {...arguments[0], cancelable: true}))", at
    )
    opened.until("!way.by && !asked")
    assert 1.4 < depth_of(opened) < 1.6
    after = opened.run(f"const {place}; return m", [0.05, 0.1])
    np.testing.assert_allclose(after, before, atol=1e-9)


def test_every_level_is_reached_by_keyboard_alone(opened):
    for level in (1, 2, 3):
        press(opened, "PageDown")
        assert depth_of(opened) == level
    press(opened, "Home")
    assert depth_of(opened) == 0
    press(opened, "+")
    assert depth_of(opened) == pytest.approx(0.25)
    press(opened, "ArrowRight")
    assert opened.run("return view.d") == pytest.approx([0.1, 0])
    press(opened, "End")
    assert depth_of(opened) == 3
    press(opened, "PageUp")
    assert (depth_of(opened), opened.run("return view.d")) == (2, [0, 0])


def test_fingers_pinch_and_drag(opened):
    opened.tell("Emulation.setTouchEmulationEnabled", enabled=True, maxTouchPoints=2)

    def touch(kind, *places):
        points = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate(places)]
        opened.tell("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    touch("touchStart", (190, 150), (210, 150))
    for k in range(1, 11):
        touch("touchMove", (190 - 2 * k, 150), (210 + 2 * k, 150))
    touch("touchEnd")
    opened.tell("Emulation.setTouchEmulationEnabled", enabled=False)
    assert depth_of(opened) == pytest.approx(np.log2(3), abs=0.1)


def test_the_view_is_in_the_address_and_comes_back(opened):
    found, view = opened.seen("#1.25,0.1,-0.2")
    opened.until("location.hash === '#1.25,0.1,-0.2'")
    opened.driver.refresh()
    again, same = opened.seen()
    assert view == same == "#1.25,0.1,-0.2"
    np.testing.assert_array_equal(found, again)


@pytest.mark.parametrize(
    "fragment",
    ["#1e999", "#NaN", "#-5", "#999999999,9,9", "#1,2", "#__proto__", "#<img src=x onerror=ran=1>",
     "#1.5,0.1,0.1,0.1", "#" + "9" * 400, "#javascript:ran=1", "#%00", "#0x10"],
)  # fmt: skip
def test_hostile_addresses_are_harmless(opened, fragment):
    opened.seen(fragment)
    assert 0 <= depth_of(opened) <= 5
    assert all(abs(d) <= 2 for d in opened.run("return view.d"))
    assert not opened.run("return window.ran")


def test_it_plays_at_a_constant_rate_and_pauses(opened):
    opened.run("show(0, [0, 0]); window.seen = []; const o = tell; $.play.click();")
    opened.until("depth() > 0.6")
    opened.run("$.play.click()")
    rested = depth_of(opened)
    assert opened.run("return [playing, $.play.getAttribute('aria-label')]") == [0, "Play"]
    opened.until("!asked")
    assert depth_of(opened) == rested
    opened.run("show(0, [0, 0]); playing = RATE; last = 1000; frame(1050); playing = 0")
    assert depth_of(opened) == pytest.approx(0.05 / 1.5)


def test_it_reads_itself_out(opened):
    opened.run("show(2, [0, 0])")
    opened.until("canvas.getAttribute('aria-label') === 'Level 2 of 0 to 3: a planet'")
    words = "return [$.live.textContent, $.slider.getAttribute('aria-valuetext'), $.caption.textContent]"
    assert opened.run(words) == [*["Level 2 of 0 to 3: a planet"] * 2, "a planet"]
    assert opened.run("return $.length.textContent") == "50 cm"  # of 2 metres in 300 pixels


@pytest.mark.parametrize(
    ("metres", "words"),
    [(1e-17, "0.01 fm"), (3e-15, "2 fm"), (1e-9, "1 nm"), (7e-6, "5 µm"), (0.03, "2 cm"), (999, "500 m"),
     (1000, "1 km"), (5e8, "500,000 km"), (2e11, "200 million km"), (1e16, "1 light-year"),
     (1e22, "1 million light-years"), (1e27, "100 billion light-years")],
)  # fmt: skip
def test_scale_bars_have_names(opened, metres, words):
    length, found = opened.run("return ruler(arguments[0])", metres)
    assert found == words
    assert metres / 2.6 <= length <= metres * (1 + 1e-9)


def test_who_wants_no_motion_gets_none(opened):
    feature = [{"name": "prefers-reduced-motion", "value": "reduce"}]
    opened.tell("Emulation.setEmulatedMedia", features=feature)
    opened.run("show(0, [0, 0]); glide(1); frame(performance.now())")
    assert depth_of(opened) == 1
    opened.tell("Emulation.setEmulatedMedia", features=[])


def test_a_loop_has_no_end(browser, tmp_path):
    g = Geometry(3, 2, 32, 32, loop=True)
    pictures = pasted(noise(g), g)
    browser.open(written(tmp_path, g, pictures), 32, 32)
    for turns in (1, 40, -40):
        browser.run(
            f"show(0, [0, 0]); for (let i = 0; i < 9 * {abs(turns)}; i++) zoom({np.sign(turns) / 3})"
        )
        found, _ = browser.seen()
        np.testing.assert_array_equal(found, pictures[0])
    assert not browser.wrong()


def test_zooms_side_by_side_share_the_view(browser, tmp_path):
    small = dataclasses.replace(G, levels=2, height=16, width=16)
    zooms = [Shown("one", PICTURES, G, PROMPTS), Shown("two", 255 - PICTURES, G, PROMPTS)]
    write_page(tmp_path / "both.html", [*zooms, Shown("three", noise(small), small)])
    browser.open(tmp_path / "both.html", 3 * 32 + 4, 32)
    found, _ = browser.seen("#1")
    np.testing.assert_array_equal(found[:, :32], PICTURES[1])
    np.testing.assert_array_equal(found[:, 34:66], 255 - PICTURES[1])
    assert browser.run("return [...document.querySelectorAll('.name')].map(x => x.textContent)") == [
        "one", "two", "three"]  # fmt: skip
    browser.seen("#3")  # deeper than the third
    assert not browser.wrong()


def test_without_webgl_a_plain_canvas_draws(browser, tmp_path):
    none = (
        "const get = HTMLCanvasElement.prototype.getContext; HTMLCanvasElement.prototype.getContext"
    )
    none += " = function(kind, ...more) { return kind === 'webgl2' ? null : get.call(this, kind, ...more); }"
    script = browser.tell("Page.addScriptToEvaluateOnNewDocument", source=none)
    browser.open(written(tmp_path, G, PICTURES, PROMPTS), 32, 32)
    for level in range(4):
        found, _ = browser.seen(f"#{level}")
        np.testing.assert_array_equal(found, PICTURES[level])
    browser.seen("#1.5")
    browser.tell("Page.removeScriptToEvaluateOnNewDocument", **script)
    assert not browser.wrong()


def test_a_lost_context_is_made_again(opened):
    found, _ = opened.seen("#1.5")
    opened.run(
        "window.lost = canvas.getContext('webgl2').getExtension('WEBGL_lose_context'); lost.loseContext()"
    )
    opened.run("setTimeout(() => lost.restoreContext(), 50)")
    opened.until("canvas.dataset.whole === 'true' && !canvas.getContext('webgl2').isContextLost()")
    np.testing.assert_array_equal(opened.seen()[0], found)


def test_a_notebook_s_frame_shows_it(browser, tmp_path):
    path = tmp_path / "notebook.html"
    path.write_text("<!doctype html>" + Explorer(page([Shown("", PICTURES, G)]))._repr_html_())
    browser.open(path, 400, 600)
    browser.driver.switch_to.frame(0)
    browser.until("canvas.dataset.whole === 'true'")
    browser.run("show(1, [0, 0])")
    browser.until("$.live.textContent.startsWith('Level 1')")
    browser.driver.switch_to.default_content()
    assert not browser.wrong()


def test_zooms_cover_smaller_and_larger_canvases():
    scales = [min(h / g.height, w / g.width) for g, sizes in ZOOMS for h, w in sizes]
    assert min(scales) < 1 < max(scales)
