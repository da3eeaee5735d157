"""What to tell the user when huggingface_hub fails."""

import contextlib
from collections.abc import Iterator

from pot_jax.errors import UserError, one_line

_LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


class Unreachable(UserError):
    """The hub cannot be reached, and what is wanted is not in the cache."""


@contextlib.contextmanager
def explained(repository: str, revision: str, file: str = "") -> Iterator[None]:
    """Turns what huggingface_hub raises in the block into a UserError of one line."""
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
            f"{repository} is open only to users who accept its terms: do so at "
            f"{constants.ENDPOINT}/{repository}, and {_LOG_IN}"
        )
    if isinstance(cause, errors.RepositoryNotFoundError) or status == 401:
        return UserError(
            f"there is no model folder {repository} here and no such repository on the hub; check "
            f"the name; if it is private, {_LOG_IN}"
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
        return Unreachable(
            f"the hub cannot be reached ({state}) and {file or 'the list of files'} of {name} is "
            f"not in the cache ({constants.HF_HUB_CACHE}); load it once with a connection"
        )
    return UserError(
        f"{file or 'the list of files'} of {name} cannot be fetched ({one_line(error)})"
    )
