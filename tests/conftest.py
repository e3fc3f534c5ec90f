"""Fixtures for all tests: `require_tool`, and `llama_server`, a real llama.cpp on a generated model."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, settings

from tests import tools

# How long Hypothesis takes to make its inputs says how busy the machine is, and nothing of what is tested.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

pytest_plugins = ("tests.engine_fixture",)


@pytest.fixture(scope="session")
def require_tool() -> Callable[[str], str]:
    """`require_tool("grpcurl")` is its path; it skips the test where the tool is missing, and fails it in CI."""
    return tools.require_tool
