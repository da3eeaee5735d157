"""One tiny model and its folder for all the tests of loading; each test damages its own copy."""

import shutil

import pytest
from tiny_models import tiny_model

from pot_jax.errors import UserError
from pot_jax.weights.export import export


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "tiny"
    export(model, folder)
    return folder


@pytest.fixture
def folder(exported, tmp_path):
    """A copy of the exported model, to be damaged."""
    return shutil.copytree(exported, tmp_path / "tiny")


@pytest.fixture(scope="session")
def one_line():
    """Calls, and returns the message of the UserError that must come: one line with the words."""

    def check(call, *words):
        with pytest.raises(UserError) as caught:
            call()
        message = str(caught.value)
        assert "\n" not in message
        assert len(message) < 1500
        for word in words:
            assert word in message, message
        return message

    return check
