"""What a test needs and may not find: programs that are not Python packages (grpcurl, buf, curl), the compiled lane."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from geniehive.relay.lane import COMPILED

ROOT = Path(__file__).resolve().parents[1]
FETCHED_BY_CI = ROOT / ".cache" / "bin"


def require_tool(name: str) -> str:
    """The path of the program; without it the test is skipped, and in CI, which installs all of them, it fails."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), str(FETCHED_BY_CI)]))
    if path is not None:
        return path
    missing = f"{name} is not on PATH (.ci/run fetches it into .cache/bin)"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def require_folder(name: str) -> Path:
    """A folder that .ci/run makes in .cache; without it the test is skipped, and in CI it fails."""
    path = FETCHED_BY_CI.parent / name
    if path.is_dir():
        return path
    missing = f"{path.relative_to(ROOT)} is not there (.ci/run installs it)"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)


def require_lane() -> None:
    """For tests of the compiled lane: without it they are skipped, and in CI, which has a C compiler, they fail."""
    if COMPILED:
        return
    missing = "geniehive/relay/_lane.c was not built into this installation: that takes a C compiler"
    if os.environ.get("CI"):
        pytest.fail(missing, pytrace=False)
    pytest.skip(missing)
