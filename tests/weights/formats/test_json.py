"""Settings files: strictly JSON objects."""

import json

import numpy as np
import pytest

from pot_jax.weights.formats.kinds import json_object


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", ["not usable JSON"]),
        (b"{", ["not usable JSON"]),
        (b"[1, 2]", ["JSON object was expected, not list"]),
        (b'{"a": NaN}', ["NaN"]),
        (b'{"a": 1, "a": 2}', ["'a' is given twice"]),
        (b"\xff\xfe\x00", ["not usable JSON"]),
        (b"[" * 200_000, ["not usable JSON"]),
        (b"<html>404</html>", ["not usable JSON"]),
        (b"version https://git-lfs.github.com/spec/v1\noid", ["git-lfs pointer"]),
    ],
)
def test_bad_settings(tmp_path, text, words, one_line):
    path = tmp_path / "config.json"
    path.write_bytes(text)
    one_line(lambda: json_object(path), "config.json", *words)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_is_unicode_whatever_the_locale(tmp_path, encoding):
    (tmp_path / "a.json").write_text('{"name": "Ærø 日本"}', encoding=encoding)
    assert json_object(tmp_path / "a.json") == {"name": "Ærø 日本"}


def test_infinity_is_what_diffusers_writes(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"lambda_min_clipped": -np.inf}))
    assert json_object(tmp_path / "a.json") == {"lambda_min_clipped": -np.inf}


def test_settings_that_are_not_there(tmp_path, one_line):
    one_line(lambda: json_object(tmp_path / "config.json"), "config.json", "does not exist")
