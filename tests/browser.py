"""Chromium as users have it, for pages: real frames, real clicks, and what its console says.

Debian's `chromium` and `chromium-driver`, driven by selenium. Where they are not there tests skip;
with CI or REQUIRE_CHROMIUM in the environment, that is a failure.
"""

import base64
import contextlib
import io
import os
import shutil
import tempfile
import time

import numpy as np
import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service

FLAGS = """--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run
--disable-background-networking --disable-component-update --disable-sync
--enable-unsafe-swiftshader --force-color-profile=srgb"""

# Before a page's own script: what goes wrong is kept, and each frame's script is timed.
WATCH = """
window.wrong = []; window.spent = [];
for (const kind of ["error", "unhandledrejection", "securitypolicyviolation"])
  addEventListener(kind, event => wrong.push(
    kind + ": " + (event.message || event.reason || event.blockedURI)), true);
for (const name of ["alert", "confirm", "prompt", "open"]) window[name] = () => wrong.push(name);
const ask = requestAnimationFrame;
window.requestAnimationFrame = f => ask(now => {
  const began = performance.now(); f(now); spent.push(performance.now() - began); });
"""
# Resolves once the view's pictures are decoded and drawn, with the canvas's own pixels.
LOOK = """
const [wanted, done] = arguments;
if (wanted) { location.hash = wanted; read(); }
const look = () => {
  const { whole, view } = canvas.dataset;
  if (whole !== "true" || view !== fragment()) return setTimeout(look, 5);
  dispatchEvent(new Event("resize"));
  requestAnimationFrame(() => done([canvas.toDataURL("image/png"), canvas.dataset.view]));
};
look();
"""


class Browser:
    """One session."""

    def __init__(self, driver):
        self.driver, self.run = driver, driver.execute_script
        self.tell("Page.addScriptToEvaluateOnNewDocument", source=WATCH)

    def tell(self, command, **arguments):
        """A command of the DevTools protocol."""
        return self.driver.execute_cdp_cmd(command, arguments)

    def open(self, page, width, height, fragment="", dpr=1, mobile=False):
        """Opens a file in a window of this size, anew."""
        sizes = {"width": width, "height": height, "deviceScaleFactor": dpr, "mobile": mobile}
        self.tell("Emulation.setDeviceMetricsOverride", **sizes)
        self.driver.get("about:blank")
        self.driver.get(page.as_uri() + fragment)

    def seen(self, fragment=""):
        """The canvas at a view, [h, w, 3] uint8, and the view as the page writes it."""
        url, view = self.driver.execute_async_script(LOOK, fragment)
        png = base64.b64decode(url.partition(",")[2])
        return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")), view

    def until(self, condition, seconds=20):
        """Waits until a JavaScript expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"never: {condition}"
            time.sleep(0.02)

    def wrong(self):
        """What went wrong on this page, by its own account and the console's."""
        console = [row["message"] for row in self.driver.get_log("browser")
                   if row["level"] == "SEVERE"]  # fmt: skip
        return self.run("return wrong") + console

    def picture(self, path):
        """Writes what the whole window shows, words and controls too, as PNG."""
        path.write_bytes(base64.b64decode(self.tell("Page.captureScreenshot")["data"]))


@contextlib.contextmanager
def chromium():
    """Yields a session."""
    binary, chosen = shutil.which("chromium"), webdriver.ChromeOptions()
    driver = shutil.which("chromedriver")
    if not (binary and driver):
        if "CI" in os.environ or "REQUIRE_CHROMIUM" in os.environ:
            pytest.fail("no chromium: apt-get install chromium chromium-driver")
        pytest.skip("no chromium and chromedriver on this machine")
    chosen.binary_location = binary
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        for flag in (*FLAGS.split(), f"--user-data-dir={home}"):
            chosen.add_argument(flag)
        session = webdriver.Chrome(options=chosen, service=Service(driver))
        session.set_script_timeout(60)
        try:
            yield Browser(session)
        finally:
            session.quit()
