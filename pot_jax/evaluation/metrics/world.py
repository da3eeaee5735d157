"""What the classifier of the procedural world sees in pictures, and whether prompts were followed.

An answer is {head: word} as of `world.captions.attributes`: "concept", and attributes by names like
"leaf.colour". An atom is one of them that a prompt names (GenEval 2's words).
"""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
from flax.traverse_util import unflatten_dict

from pot_jax.checks import require
from pot_jax.errors import UserError
from pot_jax.media.files import file_digest
from pot_jax.media.pixels import from_bytes
from pot_jax.models.classifier import Classifier
from pot_jax.parallel.devices import fixed_settings
from pot_jax.zoom.operators import downsample

SIDE = 64  # pixels that the classifier sees
# Trained by tools/train_classifier: float16 arrays, and the heads' answers in the file's metadata.
CLASSIFIER = Path(__file__).parents[2] / "assets" / "classifier.safetensors"
# Of that file: scores of different classifiers cannot be compared.
SHA256 = "f8745fb53a7ff5855a2d55de8133857294de48a7916e92918c605567cf7bca9c"
_ROWS = 16  # pictures classified at once


def shrunk(pictures: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Returns square pictures [n, S, S, 3], bytes or floats in [-1, 1], as floats of `side` pixels.

    They are shrunk by D, the mean of cells; raises UserError unless S is a multiple of `side`.
    """
    height, width = pictures.shape[1:3]
    fits = height == width and height % side == 0
    require(fits, "pictures", f"squares of a multiple of {side} pixels", (height, width))
    floats = from_bytes(pictures) if pictures.dtype == np.uint8 else pictures
    return np.asarray(downsample(np.float32(floats), height // side))


@functools.cache
def _loaded(path: Path, sha256: str):
    if (found := file_digest(path)) != sha256:
        wanted = f"the classifier with the digest {sha256[:12]}, got {found[:12] or 'none'}"
        why = "whose scores could not be compared with others'; install pot_jax again"
        raise UserError(f"{path}: expected {wanted}, {why}")
    with safetensors.safe_open(path, "numpy") as file:
        params = {name: np.float32(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118
        classes = json.loads(file.metadata()["classes"])
    module = Classifier(tuple((head, len(words)) for head, words in classes.items()))
    params = {"params": unflatten_dict(params, sep="/")}
    return functools.partial(jax.jit(module.apply), params), classes


@fixed_settings()
def look(
    pictures: np.ndarray, *, path: Path = CLASSIFIER, sha256: str = ""
) -> tuple[np.ndarray, list[dict[str, str]]]:
    """Returns what a classifier sees in pictures [n, S, S, 3]: features [n, D], and n answers.

    Pictures are as of `shrunk`; the classifier's file, by default the shipped one, has to have the
    digest. Raises UserError if it has another, or the pictures' size does not fit.
    """
    apply, classes = _loaded(path, sha256 or SHA256)
    rows, count = shrunk(pictures), len(pictures)
    rows = np.pad(rows, ((0, -count % _ROWS), (0, 0), (0, 0), (0, 0)))
    batches = rows.reshape(-1, _ROWS, *rows.shape[1:])
    found = [jax.device_get(apply(jnp.asarray(batch))) for batch in batches]
    features, logits = jax.tree.map(lambda *parts: np.concatenate(parts)[:count], *found)
    best = {head: np.array(classes[head])[x.argmax(-1)] for head, x in logits.items()}
    return features, [{head: str(best[head][row]) for head in best} for row in range(count)]


def accuracy(
    answers: Sequence[Mapping[str, str]], wanted: Sequence[Mapping[str, str]]
) -> dict[str, float]:
    """Returns how many answers are as wanted, 0 to 1, over n pictures.

    `concept`: of the pictures' concepts; `attribute`: of all attributes that are wanted (atoms);
    `all`: of pictures, those with the concept and every attribute right at once (prompts). NaN
    where nothing is wanted. The classifier's own errors count too: of renders that it never saw, it
    gets 99.8 % of concepts, 99.1 % of attributes and 97.7 % of all at once. Pictures of one colour
    score as chance does.
    """
    pairs = zip(answers, wanted)
    right = [{head: got[head] == word for head, word in one.items()} for got, one in pairs]
    rows = {
        "concept": [row["concept"] for row in right if "concept" in row],
        "attribute": [ok for row in right for head, ok in row.items() if head != "concept"],
        "all": [all(row.values()) for row in right if row],
    }
    return {name: float(np.mean(row)) if row else float("nan") for name, row in rows.items()}
