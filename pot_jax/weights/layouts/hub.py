"""Models of the Hugging Face hub: "owner/name", or "owner/name@revision".

The revision is a branch, a tag or a commit, `main` by default. It is resolved to a commit once.
Everything is then fetched from that commit into the hub's own cache (`HF_HOME`), and read from
there like any other model folder:

    model_index.json -> the commit, and the components' names
    the repository's list of files -> settings and tokenizer of each component -> its weights

Only files with known names are fetched: JSON settings, tokenizers, safetensors; never code or
pickles. A commit's list of files never changes. It is kept in the cache, so that a commit that is
there loads without the network and chooses the same weights.
"""

import contextlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from pot_jax.errors import UserError, one_line, shown
from pot_jax.media.files import write_json
from pot_jax.weights.formats.kinds import json_object
from pot_jax.weights.layouts import folder as layout
from pot_jax.weights.model import COMPONENTS

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})(?:@(.*))?", re.DOTALL)
# A revision becomes part of a path in the cache: no "..", nothing hidden, nothing absolute.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
# What is fetched of a component besides its weights, where the repository has it.
_SETTINGS = (
    "config.json scheduler_config.json tokenizer.json vocab.json merges.txt tokenizer_config.json "
    "special_tokens_map.json added_tokens.json"
)
_OPTIONAL = [component.folder for component in COMPONENTS.values() if component.optional]
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class Snapshot(NamedTuple):
    """One commit of a repository whose settings have been fetched."""

    repository: str  # "owner/name"
    commit: str
    folder: Path  # in the hub's cache
    files: tuple[str, ...]  # of the commit, fetched or not

    @property
    def source(self) -> str:
        """The id that loads exactly this again, even if the branch moves."""
        return f"{self.repository}@{self.commit}"


def is_id(name: str) -> bool:
    """Returns whether `name` has the form of a hub id: `owner/name` or `owner/name@revision`."""
    return _REPOSITORY.fullmatch(name) is not None


def fetch_settings(name: str) -> Snapshot:
    """Fetches everything of the model `owner/name` or `owner/name@revision` except its weights.

    Raises UserError if there is no such repository or revision, this user has no access to it, it
    holds no model in diffusers' layout, or it is not in the cache and the hub cannot be reached.
    """
    repository, revision = _REPOSITORY.fullmatch(name).groups()
    if revision is not None and not _REVISION.fullmatch(revision):
        expected = "expected a branch, a tag or a commit after the @"
        raise UserError(f"{shown(name)}: {shown(revision)!r} is not a revision; {expected}")
    index = _fetch(repository, revision or "main", "model_index.json")
    commit = index.parent.name
    folders = [*layout.known_classes(layout.read_index(index.parent)["_class_name"]), *_OPTIONAL]
    files = _files(repository, commit, index.parent)
    settings = [f"{folder}/{file}" for folder in folders for file in _SETTINGS.split()]
    for file in (layout.SAMPLER, *settings):
        if file in files:
            _fetch(repository, commit, file)
    return Snapshot(repository, commit, index.parent, files)


def fetch_weights(
    snapshot: Snapshot, components: Iterable[str], variant: str | None = None
) -> None:
    """Fetches components' weights, as `component_tensors` chooses; UserError if it cannot."""
    for folder, stem, *_ in (COMPONENTS[name] for name in components):
        place = f"{folder}/"
        names = [file.removeprefix(place) for file in snapshot.files if file.startswith(place)]
        chosen = layout.choose_weights(names, stem, variant, f"{snapshot.source} ({folder})")
        path = _fetch(snapshot.repository, snapshot.commit, place + chosen)
        if chosen.endswith(".json"):
            for shard in sorted(set(layout.read_weight_map(path).values())):
                _fetch(snapshot.repository, snapshot.commit, place + shard)


def _files(repository: str, commit: str, folder: Path) -> tuple[str, ...]:
    """Returns the names of all files of a commit, from the cache or else from the hub."""
    # Next to huggingface_hub's own `snapshots`, so that it is deleted with the repository.
    kept = folder.parents[1] / "pot_jax" / f"{commit}.json"
    # If it is not there yet, or damaged, the hub is asked again.
    with contextlib.suppress(UserError, KeyError, TypeError):
        return tuple(name for name in json_object(kept)["files"] if isinstance(name, str))
    from huggingface_hub import HfApi

    try:
        with _explained(repository, commit):
            info = HfApi().model_info(repository, revision=commit)
            names = tuple(sibling.rfilename for sibling in info.siblings or ())
    except _Unreachable:
        # Another program fetched the model; only its files are there to choose from.
        return tuple(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    with contextlib.suppress(UserError, OSError):  # a cache that this user cannot write to
        write_json(kept, {"files": names})
    return names


def _fetch(repository: str, revision: str, file: str) -> Path:
    """Returns the file in the cache; fetches it if it is not there."""
    from huggingface_hub import hf_hub_download

    with _explained(repository, revision, file):
        return Path(hf_hub_download(repository, file, revision=revision))


class _Unreachable(UserError):
    """The hub cannot be reached, and what is wanted is not in the cache."""


@contextlib.contextmanager
def _explained(repository: str, revision: str, file: str = "") -> Iterator[None]:
    """Turns what huggingface_hub raises in the block into a UserError of one line."""
    from huggingface_hub import constants, errors

    name, what, kind = f"{repository}@{revision}", file or "the list of files", UserError
    try:
        yield
    except Exception as error:  # its HTTP library, and so its classes, change between versions
        cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
        status = getattr(getattr(cause, "response", None), "status_code", None)
        if isinstance(cause, errors.GatedRepoError):
            how = f"do so at {constants.ENDPOINT}/{repository}, and {_LOG_IN}"
            text = f"{repository} is open only to users who accept its terms: {how}"
        elif isinstance(cause, errors.RepositoryNotFoundError) or status == 401:
            neither = f"no model folder {repository} here and no such repository on the hub"
            text = f"there is {neither}; check the name; if it is private, {_LOG_IN}"
        elif isinstance(cause, errors.RevisionNotFoundError):
            lacks = f"has no branch, tag or commit {revision}"
            text = f"{repository} {lacks}; check what is after the @"
        elif isinstance(cause, errors.EntryNotFoundError) and status == 404:
            expected = "a model in the layout that diffusers saves was expected"
            text = f"{name} has no {file} on the hub; {expected}"
        elif status == 403:
            text = f"the hub refuses {name} to this user (HTTP {status}); {_LOG_IN}"
        elif status is not None:
            text = f"the hub answered HTTP {status} for {name}; try again later"
        elif isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) or (
            type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError")
        ):
            state = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else constants.ENDPOINT
            lacks = f"{what} of {name} is not in the cache ({constants.HF_HUB_CACHE})"
            once = "load it once with a connection"
            text, kind = f"the hub cannot be reached ({state}) and {lacks}; {once}", _Unreachable
        else:
            text = f"{what} of {name} cannot be fetched ({one_line(error)})"
        raise kind(text) from None
