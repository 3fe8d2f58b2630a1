"""The public names stay, and change only together with the list of them."""

from __future__ import annotations

import importlib

import pytest

from tests import public_api


def test_the_list_of_public_names_is_up_to_date() -> None:
    assert public_api.LISTED.read_text() == public_api.text(), (
        "a public name or signature has changed; if that is meant: "
        "python -m tests.public_api > docs/public-api.txt"
    )


@pytest.mark.parametrize("module", public_api.MODULES)
def test_every_listed_name_can_be_imported(module: str) -> None:
    found = importlib.import_module(module)
    assert [name for name in found.__all__ if not hasattr(found, name)] == []
