"""The workshop itself: what README promises to type exists, stubs and wheel hold what the protos and the tree say."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import hatch_build
from geniehive import __version__

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("geniehive", "controlplane", "gateway", "nodeagent", "simulator")
STUB_SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py")
BROKEN_PROTO = 'syntax = "proto3";\npackage geniehive.v1;\nmessage Broken { Unknown field = 1; }\n'


def targets() -> set[str]:
    return set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", ".ci/run"])
def test_every_make_target_that_a_page_names_exists(page: str) -> None:
    text = (ROOT / page).read_text()
    named = set(re.findall(r"(?:`|^[ \t]*)make (?:--[a-z-]+ )?([a-z-]+)\b", text, flags=re.MULTILINE))
    assert named, f"{page} names no make target: is the pattern still right?"
    assert named <= targets()


def test_make_with_an_old_python_says_what_to_do(tmp_path: Path) -> None:
    old = tmp_path / "bin" / "python3"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\nexit 1\n")
    old.chmod(0o755)
    for tool in ("bash", "make"):
        (old.parent / tool).symlink_to(shutil.which(tool))
    done = subprocess.run(
        ["make", "-f", ROOT / "Makefile", ".venv/bin/python"],
        cwd=tmp_path,
        env={"PATH": str(old.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Python 3.11 or newer" in done.stderr
    assert not (tmp_path / ".venv").exists()


@pytest.mark.parametrize(("compiled", "pure", "told"), [(False, "", True), (True, "", False), (False, "1", False)])
def test_make_tells_that_the_relay_runs_in_python_where_that_was_not_asked_for(
    tmp_path: Path, compiled: bool, pure: str, told: bool
) -> None:
    for name in ("pyproject.toml", "hatch_build.py", "geniehive/__init__.py", ".venv/bin/python"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\n[ $1 != -c ] || exit {0 if compiled else 1}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["make", "-f", ROOT / "Makefile", ".venv/.installed"],
        cwd=tmp_path,
        env=os.environ | {"GENIEHIVE_PURE": pure},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ("apt install gcc python3-dev), then: make compile" in done.stdout) is told
    assert (tmp_path / ".venv/.installed").exists()


def test_the_stubs_are_those_of_the_protos() -> None:
    assert hatch_build.update(ROOT, ROOT, check=True) == []


def test_stubs_are_made_whole_and_a_second_run_touches_nothing(tmp_path: Path) -> None:
    assert hatch_build.update(ROOT, tmp_path)
    made = {file: file.stat().st_mtime_ns for file in (tmp_path / hatch_build.PACKAGE).iterdir()}
    protos = {file.stem for file in (ROOT / "protos/geniehive/v1").glob("*.proto")}
    assert {file.name for file in made} == {stem + suffix for stem in protos for suffix in STUB_SUFFIXES}
    assert hatch_build.update(ROOT, tmp_path) == []
    assert {file: file.stat().st_mtime_ns for file in made} == made


def test_the_stub_of_a_proto_that_is_gone_is_removed(tmp_path: Path) -> None:
    hatch_build.update(ROOT, tmp_path)
    left_over = tmp_path / hatch_build.PACKAGE / "gone_pb2.py"
    left_over.write_text("")
    assert hatch_build.update(ROOT, tmp_path) == [left_over.relative_to(tmp_path)]
    assert not left_over.exists()


def test_a_proto_that_does_not_compile_stops_the_build_and_leaves_the_stubs(tmp_path: Path) -> None:
    protos = tmp_path / "protos/geniehive/v1"
    protos.mkdir(parents=True)
    (protos / "broken.proto").write_text(BROKEN_PROTO)
    with pytest.raises(SystemExit, match="protoc failed"):
        hatch_build.update(tmp_path, tmp_path)
    assert not (tmp_path / "geniehive").exists()


def test_the_wheel_for_any_machine_holds_the_five_packages_whole_stubs_included(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, env=os.environ | {"GENIEHIVE_PURE": "1"}, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"geniehive-{__version__}-py3-none-any.whl"
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {
        file.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for file in (ROOT / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and not file.name.startswith(".") and file.suffix != ".so"
    }
    assert held == source
    assert "geniehive/v1/node_service_pb2_grpc.py" in held


def test_the_build_pins_the_grpcio_tools_of_the_development_tools() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (pin,) = (need for need in project["build-system"]["requires"] if need.startswith("grpcio-tools"))
    assert pin in project["project"]["optional-dependencies"]["dev"]
    assert f"grpcio>={pin.partition('==')[2]}" in project["project"]["dependencies"]
