"""What joining a group leaves in the process that did."""

import os

import pytest

from learners.process_group import INTERFACE
from tests.learners.ranks import single_rank


def test_the_interface_is_chosen_for_the_group_and_not_for_what_is_started_after_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(INTERFACE, raising=False)
    with single_rank():
        assert os.environ[INTERFACE] == "lo"
    assert INTERFACE not in os.environ


def test_a_users_choice_of_interface_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INTERFACE, "lo")
    with single_rank():
        assert os.environ[INTERFACE] == "lo"
    assert os.environ[INTERFACE] == "lo"
