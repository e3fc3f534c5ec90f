"""Fixtures of the command's tests."""

import pytest

from tests.ports import free_port


@pytest.fixture
def unused_port():
    """A port on which nothing listens."""
    return free_port()
