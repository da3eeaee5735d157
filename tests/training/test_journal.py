import csv

import numpy as np
import pytest

from pot_jax.training.journal import Journal, draw_curve


def note(journal, step, loss):
    journal.add(step, 2.0 * step, step / 10, 8, 1e-3, {"loss": loss, "psnr": 20.0})


def rows(folder):
    with open(folder / "toy.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_a_row_an_entry_with_its_speed(tmp_path):
    journal = Journal(tmp_path, "toy")
    note(journal, 1, 0.5)
    note(journal, 3, 0.25)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "3"]
    assert float(rows(tmp_path)[1]["loss"]) == 0.25
    # Two steps of 8 in 4 seconds.
    assert float(rows(tmp_path)[1]["images_per_second"]) == 4.0


def test_a_resumed_journal_drops_the_steps_to_be_repeated(tmp_path):
    journal = Journal(tmp_path, "toy")
    for step in range(1, 6):
        note(journal, step, 1.0)
    journal = Journal(tmp_path, "toy", resumed_at=3)
    note(journal, 4, 0.5)
    assert [row["step"] for row in rows(tmp_path)] == ["1", "2", "3", "4"]


def test_recent_is_the_mean_of_the_last_tenth(tmp_path):
    journal = Journal(tmp_path, "toy")
    assert journal.recent("loss") == {}
    for step in range(1, 21):
        note(journal, step, float(step))
    assert journal.recent("loss") == {"loss": pytest.approx(19.5)}


def test_the_curve_falls_when_the_loss_does(tmp_path):
    page = draw_curve(np.arange(50), np.geomspace(1, 0.01, 50))
    bright = (page.astype(int)[..., 0] > 200) & (page.astype(int)[..., 2] < 120)
    heights = [np.nonzero(column)[0].mean() for column in bright.T if column.any()]
    assert heights[0] < heights[-1]  # rows count downwards


def test_a_single_entry_draws_nothing(tmp_path):
    journal = Journal(tmp_path, "toy")
    note(journal, 1, 0.5)
    journal.draw()
    assert not (tmp_path / "toy_loss.png").exists()
