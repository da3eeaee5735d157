"""Models of the Hugging Face hub: "owner/name", or "owner/name@revision".

The revision is a branch, a tag or a commit, `main` where none is given. It is resolved to a commit
once, and everything is then fetched of that commit into the hub's own cache (`HF_HOME`), from where
it is read like any other model folder:

    model_index.json -> the commit, and the components' names
    the repository's list of files -> settings and tokenizer of each component -> its weights

Only files of known names are fetched: settings as JSON, tokenizers, safetensors; never code, never
pickles. The list of files belongs to its commit for ever and is kept in the cache, so that a commit
that is there is loaded without the network, and to the same choice of weights.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from pot_jax.errors import UserError, shown
from pot_jax.weights.formats.json import json_object
from pot_jax.weights.layouts.component import choose_weights, shard_of_each
from pot_jax.weights.layouts.index import component_folders

_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_REPOSITORY = re.compile(rf"({_NAME}/{_NAME})(?:@(.*))?", re.DOTALL)
# A revision becomes part of a path in the cache: no "..", nothing hidden, nothing absolute.
_REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*(/[A-Za-z0-9_][A-Za-z0-9._+-]*)*")
# What is fetched of a component besides its weights, where the repository has it.
_SETTINGS = (
    *("config.json", "scheduler_config.json"),
    *("tokenizer.json", "vocab.json", "merges.txt", "tokenizer_config.json"),
    *("special_tokens_map.json", "added_tokens.json"),
)
_STEMS = {"transformers": "model", "diffusers": "diffusion_pytorch_model"}  # of weight files
_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class Snapshot(NamedTuple):
    """One commit of a repository, of which the settings have been fetched."""

    repository: str  # "owner/name"
    commit: str
    folder: Path  # in the hub's cache
    files: tuple[str, ...]  # all that the commit has, fetched or not

    @property
    def source(self) -> str:
        """The id that loads exactly this again, whatever becomes of the branch."""
        return f"{self.repository}@{self.commit}"


def is_id(name: str) -> bool:
    """Whether `name` is written as a hub id is: `owner/name` or `owner/name@revision`."""
    return _REPOSITORY.fullmatch(name) is not None


def fetch_settings(name: str) -> Snapshot:
    """Fetches all of a model but its weights.

    Args:
      name: `owner/name` or `owner/name@revision`.

    Raises:
      UserError: there is no such repository or revision, it is closed to this user, it holds no
        model in diffusers' layout, or it is neither in the cache nor can the hub be reached.
    """
    repository, revision = _REPOSITORY.fullmatch(name).groups()
    if revision is not None and not _REVISION.fullmatch(revision):
        raise UserError(
            f"{shown(name)}: {shown(revision)!r} is no revision; a branch, a tag or a commit was "
            "expected after the @"
        )
    revision = revision or "main"
    index = _fetch(repository, revision, "model_index.json")
    commit = index.parent.name
    folders = component_folders(index.parent)
    files = _files(repository, commit, index.parent)
    for file in (f"{folder}/{file}" for folder in folders for file in _SETTINGS):
        if file in files:
            _fetch(repository, commit, file)
    return Snapshot(repository, commit, index.parent, files)


def fetch_weights(snapshot: Snapshot, variant: str | None = None) -> None:
    """Fetches the weights of every component: those that `component_tensors` would choose.

    Raises:
      UserError: the repository has no such weights, or they cannot be fetched.
    """
    for folder, library in component_folders(snapshot.folder).items():
        if folder == "tokenizer" or folder.endswith("scheduler"):
            continue
        place = f"{folder}/"
        names = [file.removeprefix(place) for file in snapshot.files if file.startswith(place)]
        chosen = choose_weights(names, _STEMS[library], variant, f"{snapshot.source} ({folder})")
        path = _fetch(snapshot.repository, snapshot.commit, place + chosen)
        if chosen.endswith(".json"):
            for shard in sorted(set(shard_of_each(path).values())):
                _fetch(snapshot.repository, snapshot.commit, place + shard)


def _files(repository: str, commit: str, folder: Path) -> tuple[str, ...]:
    """The names of all files of a commit, from the cache or else from the hub."""
    # Beside huggingface_hub's own `snapshots`, so that it goes when the repository goes.
    kept = folder.parents[1] / "pot_jax" / f"{commit}.json"
    try:
        names = json_object(kept)["files"]
        return tuple(name for name in names if isinstance(name, str))
    except (UserError, KeyError, TypeError):
        pass  # not there yet, or damaged: ask again
    from huggingface_hub import HfApi

    try:
        with _explained(repository, commit):
            info = HfApi().model_info(repository, revision=commit)
            names = tuple(sibling.rfilename for sibling in info.siblings or ())
    except _Unreachable:
        # Another program fetched the model: what it left is all there is to choose from.
        return tuple(path.relative_to(folder).as_posix() for path in folder.glob("*/*"))
    _keep(kept, {"files": names})
    return names


def _keep(path: Path, value: Any) -> None:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(6)}")
    try:
        path.parent.mkdir(exist_ok=True)
        temporary.write_text(json.dumps(value), "utf-8")
        os.replace(temporary, path)
    except OSError:  # a cache that this user only reads: the hub is asked again next time
        with contextlib.suppress(OSError):
            temporary.unlink()


def _fetch(repository: str, revision: str, file: str) -> Path:
    """The file in the cache, fetched if it is not there."""
    from huggingface_hub import hf_hub_download

    with _explained(repository, revision, file):
        return Path(hf_hub_download(repository, file, revision=revision))


class _Unreachable(UserError):
    """The hub cannot be asked, and what was wanted of it is not in the cache."""


@contextlib.contextmanager
def _explained(repository: str, revision: str, file: str = "") -> Iterator[None]:
    """Turns what huggingface_hub raises inside the block into one line for the user."""
    try:
        yield
    except Exception as error:  # its HTTP library, and so its classes, change between versions
        raise _explanation(error, repository, revision, file) from None


def _explanation(error: Exception, repository: str, revision: str, file: str) -> UserError:
    from huggingface_hub import constants, errors

    name = f"{repository}@{revision}"
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    status = getattr(getattr(cause, "response", None), "status_code", None)
    if isinstance(cause, errors.GatedRepoError):
        return UserError(
            f"{repository} is open only to who accepts its terms: do so at "
            f"{constants.ENDPOINT}/{repository}, and {_LOG_IN}"
        )
    if isinstance(cause, errors.RepositoryNotFoundError) or status == 401:
        return UserError(
            f"there is no model folder {repository} here and no such repository on the hub; check "
            f"the name, or if it is private, {_LOG_IN}"
        )
    if isinstance(cause, errors.RevisionNotFoundError):
        return UserError(
            f"{repository} has no branch, tag or commit {revision}; check what is after the @"
        )
    if isinstance(cause, errors.EntryNotFoundError) and status == 404:
        return UserError(
            f"{name} has no {file} on the hub; a model in the layout that diffusers saves was "
            "expected"
        )
    if status == 403:
        return UserError(f"the hub refuses {name} to this user (HTTP {status}); {_LOG_IN}")
    if status is not None:
        return UserError(f"the hub answered HTTP {status} for {name}; try again later")
    if isinstance(error, errors.LocalEntryNotFoundError | errors.OfflineModeIsEnabled) or (
        type(cause).__name__ in ("ConnectError", "ConnectTimeout", "ReadTimeout", "ProxyError")
    ):
        state = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else constants.ENDPOINT
        return _Unreachable(
            f"the hub cannot be reached ({state}) and {file or 'the list of files'} of {name} is "
            f"not in the cache ({constants.HF_HUB_CACHE}); load it once with a connection"
        )
    line = " ".join(str(error).split()) or type(error).__name__
    return UserError(f"{file or 'the list of files'} of {name} cannot be fetched ({shown(line)})")
