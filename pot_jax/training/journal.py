"""The log of a phase of training: a table of its losses and a plot of their curve."""

import csv
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pot_jax.media.images import save_png


class Journal:
    """The losses of one phase: `<name>.csv`, one row an entry, and `<name>_loss.png`.

    A resumed phase continues the table; rows past the step it resumes from are dropped.
    """

    def __init__(self, folder: str | Path, name: str, resumed_at: int = 0):
        self._name, self._table = name, Path(folder) / f"{name}.csv"
        self._curve = Path(folder) / f"{name}_loss.png"
        text = self._table.read_text(encoding="utf-8") if self._table.exists() else ""
        rows = csv.DictReader(text.splitlines())
        self._rows = [row for row in rows if int(row["step"]) <= resumed_at]
        if self._rows:
            self._write("w", self._rows)

    def add(
        self, step: int, seconds: float, progress: float, batch_size: int, rate: float, values: dict
    ) -> None:
        """Adds the values of one step, {name: number}, to the table, and logs them."""
        last = self._rows[-1] if self._rows else {"step": 0, "seconds": 0.0}
        took = seconds - float(last["seconds"])
        speed = (step - int(last["step"])) * batch_size / took if took > 0 else 0.0
        row = {"step": step, "seconds": f"{seconds:.1f}", "images_per_second": f"{speed:.2f}"}
        row["learning_rate"] = f"{rate:.3e}"
        row |= {name: f"{value:.6f}" for name, value in values.items()}
        self._rows.append(row)
        self._write("w" if len(self._rows) == 1 else "a", [row])
        at = f"{self._name} step {step} ({100 * progress:.0f} %, {seconds / 60:.1f} min)"
        shown = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        logging.info("%s: %s, %.1f images/s", at, shown, speed)
        if len(self._rows) % 10 == 0:
            self.draw()

    def recent(self, name: str) -> dict[str, float]:
        """Returns {name: its mean over the last tenth of the entries}; {} before the first."""
        last = self._rows[-max(len(self._rows) // 10, 1) :]
        return {name: float(np.mean([float(row[name]) for row in last]))} if last else {}

    def draw(self) -> None:
        """Writes the curve: loss, on a logarithmic axis, over steps; none of a single entry."""
        if len(self._rows) > 1:
            points = [(float(row["step"]), float(row["loss"])) for row in self._rows]
            save_png(self._curve, draw_curve(*np.array(points).T))

    def _write(self, mode: str, rows: list[dict]) -> None:
        with open(self._table, mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)


def draw_curve(steps: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Plots positive losses [n] over steps [n], and their running mean: uint8 [320, 640, 3]."""
    page = Image.new("RGB", (640, 320))
    draw = ImageDraw.Draw(page)
    heights = np.log(np.maximum(losses, 1e-12))
    width = max(len(heights) // 20, 1)
    smooth = np.convolve(heights, np.full(width, 1 / width), "valid")
    for values, colour in ((heights, "dimgrey"), (smooth, "orange")):
        x = np.interp(steps[-len(values) :], steps[[0, -1]], (30, 610))
        y = np.interp(values, (heights.min(), heights.max()), (290, 30))
        draw.line(np.stack([x, y], axis=1).ravel().tolist(), fill=colour)
    draw.text((30, 8), f"loss {losses.max():.3g} .. {losses.min():.3g}")
    draw.text((30, 300), f"step {steps[0]:.0f} .. {steps[-1]:.0f}")
    return np.asarray(page)
