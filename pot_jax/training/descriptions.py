"""What is said of the training views: every caption as token ids, and the labels.

Made once, by several processes, and kept in the run's folder, so that no step has to make any.

Symbols: n views, P phrasings of each, T tokens of a prompt.
"""

import hashlib
import json
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pot_jax.errors import UserError, edge
from pot_jax.media.files import write_atomically
from pot_jax.runs.claims import named_differences
from pot_jax.training.data import describe_views, finished
from pot_jax.training.settings import TrainSettings
from pot_jax.weights.tokenization import tokenize
from pot_jax.world.labels import Labels


class Descriptions(NamedTuple):
    """What is said of n views."""

    ids: np.ndarray  # int16 [P, n, T], the token ids of every phrasing
    classes: dict[str, list[str]]  # of `Labels`
    numbers: dict[str, np.ndarray]  # int32 [n] by head, of `Labels`


class Table:
    """The file that descriptions are kept in, and, until it is there, the jobs that make them."""

    def __init__(self, path: Path, settings: TrainSettings, processes: Executor):
        """Starts describing the views unless the file is there."""
        self._path, self._settings = path, settings
        found = path.exists()
        self._jobs = [] if found else describe_views(settings.data, settings.seed, processes)

    def read(self, tokenizer: Any) -> Descriptions:
        """Returns the descriptions in the words of `tokenizer`, and writes them if they are new.

        Raises:
          UserError: the file is of other views or another tokenizer, or damaged.
        """
        record = self._record(tokenizer)
        if not self._jobs:
            return self._load(record)
        made = _merged([finished(job) for job in self._jobs], tokenizer)
        record = json.dumps(record | {"classes": made.classes})
        with write_atomically(self._path) as temporary:
            np.savez(temporary, record=record, ids=made.ids, **made.numbers)
        return made

    def _record(self, tokenizer: Any) -> dict[str, Any]:
        words = tokenizer.backend_tokenizer.to_str()
        data = self._settings.data
        return {
            "tokenizer": hashlib.sha256(words.encode()).hexdigest()[:16],
            "phrasings": data.phrasings,
            "views": data.trained_on,
            "length": tokenizer.model_max_length,
            "seed": self._settings.seed,
        }

    def _load(self, record: dict[str, Any]) -> Descriptions:
        with edge("reading arrays", self._path), open(self._path, "rb") as file:
            arrays = dict(np.load(file))
        try:
            found = json.loads(str(arrays.pop("record")))
            described = Descriptions(arrays.pop("ids"), found.pop("classes"), arrays)
            shape = found["phrasings"], found["views"], found["length"]
            whole = described.ids.shape == shape and described.ids.dtype == np.int16
        except (ValueError, TypeError, LookupError):
            whole = False
        if not whole:
            raise UserError(f"{self._path} holds no descriptions, or not all: delete it")
        if different := named_differences(found, record):
            raise UserError(
                f"{self._path} describes other views, or in other words ({'; '.join(different)}): "
                "delete it, and it is made again"
            )
        return described


def _merged(parts: list[tuple], tokenizer: Any) -> Descriptions:
    """Joins what the jobs return; a text of many views is tokenized once."""
    known: dict[str, int] = {}
    numbers = []
    for texts, chosen, _ in parts:
        rows = np.array([known.setdefault(text, len(known)) for text in texts], np.int32)
        numbers.append(rows[chosen])
    ids = tokenize(tokenizer, list(known)).astype(np.int16)
    labels = Labels(named=[answer for *_, answers in parts for answer in answers])
    return Descriptions(ids[np.concatenate(numbers, axis=1)], labels.classes, labels.numbers)
