"""The log of a phase of training: a table of its losses and a plot of their curve."""

import csv
import logging
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from pot_jax.media.images import save_png

_WIDTH, _HEIGHT, _MARGIN = 640, 320, 30


class Journal:
    """The losses of one phase: `<name>.csv`, one row an entry, and `<name>_loss.png`.

    A resumed phase continues the same table; rows past the step it resumes from are dropped, since
    those steps are about to be repeated.
    """

    def __init__(self, folder: str | Path, name: str, resumed_at: int = 0):
        self._name = name
        self._table = Path(folder) / f"{name}.csv"
        self._curve = Path(folder) / f"{name}_loss.png"
        self._rows = [row for row in _read(self._table) if int(row["step"]) <= resumed_at]
        self._write("w", self._rows)

    def add(
        self,
        step: int,
        seconds: float,
        progress: float,
        batch_size: int,
        rate: float,
        values: dict[str, float],
    ) -> None:
        """Adds the values of one step to the table, and logs them."""
        last = self._rows[-1] if self._rows else {"step": 0, "seconds": 0.0}
        took = seconds - float(last["seconds"])
        speed = (step - int(last["step"])) * batch_size / took if took > 0 else 0.0
        row = {"step": step, "seconds": f"{seconds:.1f}", "images_per_second": f"{speed:.2f}"}
        row |= {"learning_rate": f"{rate:.3e}"}
        row |= {name: f"{value:.6f}" for name, value in values.items()}
        self._rows.append(row)
        self._write("w" if len(self._rows) == 1 else "a", [row])
        shown = " ".join(f"{name} {value:.4f}" for name, value in values.items())
        logging.info(
            "%s step %d (%.0f %%, %.1f min): %s, %.1f images/s",
            self._name,
            step,
            100 * progress,
            seconds / 60,
            shown,
            speed,
        )
        if len(self._rows) % 10 == 0:
            self.draw()

    def recent(self, name: str) -> dict[str, float]:
        """Returns {name: its mean over the last tenth of the entries}; {} before the first."""
        last = self._rows[-max(len(self._rows) // 10, 1) :]
        return {name: float(np.mean([float(row[name]) for row in last]))} if last else {}

    def draw(self) -> None:
        """Writes the curve: loss, on a logarithmic axis, over steps."""
        if len(self._rows) < 2:
            return
        steps = np.array([int(row["step"]) for row in self._rows], float)
        losses = np.array([float(row["loss"]) for row in self._rows])
        save_png(self._curve, draw_curve(steps, losses))

    def _write(self, mode: str, rows: list[dict]) -> None:
        if not rows:
            return
        with open(self._table, mode, newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            if mode == "w":
                writer.writeheader()
            writer.writerows(rows)


def draw_curve(steps: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Plots positive losses [n] over steps [n], and their running mean: uint8 [H, W, 3]."""
    page = Image.new("RGB", (_WIDTH, _HEIGHT), (18, 18, 22))
    draw = ImageDraw.Draw(page)
    heights = np.log(np.maximum(losses, 1e-12))
    smooth = _running_mean(heights, max(len(heights) // 20, 1))
    low, high = heights.min(), max(heights.max(), heights.min() + 1e-6)
    x = _MARGIN + (steps - steps[0]) / max(steps[-1] - steps[0], 1) * (_WIDTH - 2 * _MARGIN)
    for values, colour in ((heights, (90, 90, 100)), (smooth, (255, 190, 80))):
        y = _HEIGHT - _MARGIN - (values - low) / (high - low) * (_HEIGHT - 2 * _MARGIN)
        draw.line([(float(a), float(b)) for a, b in zip(x, y)], fill=colour, width=1)
    draw.text((_MARGIN, 8), f"loss {losses.max():.3g} .. {losses.min():.3g}", fill="white")
    draw.text((_MARGIN, _HEIGHT - 20), f"step {steps[0]:.0f} .. {steps[-1]:.0f}", fill="white")
    return np.asarray(page)


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    sums = np.cumsum(np.concatenate([np.zeros(1), values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - width, 0)
    return (sums[ends] - sums[starts]) / (ends - starts)


def _read(path: Path) -> list[dict]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
