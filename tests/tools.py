"""What a test needs and may not find: programs that are no Python packages (grpcurl, buf, a C compiler), the lane."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

import hatch_build
from geniehive.relay.lane import COMPILED

ROOT = Path(__file__).resolve().parents[1]
FETCHED_BY_CI = ROOT / ".cache" / "bin"


def require_tool(name: str) -> str:
    """The path of the program; without it the test is skipped, and in CI, which installs all of them, it fails."""
    path = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", os.defpath), str(FETCHED_BY_CI)]))
    if path is None:
        _lacking(f"{name} is not on PATH (.ci/run fetches it into .cache/bin)")
    return path


def require_folder(name: str) -> Path:
    """A folder that .ci/run makes in .cache; without it the test is skipped, and in CI it fails."""
    path = FETCHED_BY_CI.parent / name
    if not path.is_dir():
        _lacking(f"{path.relative_to(ROOT)} is not there (.ci/run installs it)")
    return path


def require_compiler() -> None:
    """A C compiler and Python.h; without them the test is skipped, and in CI it fails."""
    try:
        hatch_build.compile_command()
    except hatch_build.NotCompiledError as trouble:
        _lacking(str(trouble))


def _lacking(message: str) -> NoReturn:
    if os.environ.get("CI"):
        pytest.fail(message, pytrace=False)
    pytest.skip(message)


def require_lane() -> None:
    """For tests of the compiled lane: without it they are skipped, and in CI, which has a C compiler, they fail."""
    if not COMPILED:
        _lacking("geniehive/relay/_lane.c was not built into this installation: that takes a C compiler")
