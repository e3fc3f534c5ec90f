"""Fixtures for all tests: `require_tool`, and `llama_server`, a real llama.cpp on a generated model."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests import tools

pytest_plugins = ("tests.engine_fixture",)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """`require_tool("grpcurl")` is its path; it skips the test where the tool is missing, and fails it in CI."""
    return tools.require_tool
