"""The compiled lane: built where that can be, left out with a reason where not, in wheels for machines like this one.

The C file here is a small one of our own; that of the tree is compiled once, for its warnings.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import hatch_build
from hatch_build import LANE, NotCompiledError, lane_binary, update_lane
from tests import tools

ROOT = Path(__file__).resolve().parents[1]
TREE = ("pyproject.toml", "hatch_build.py", ".gitignore", "README.md", "LICENSE", "protos", "geniehive")
C_FILE = """
#include <Python.h>
static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, "_lane", "ANSWER", 0, NULL, NULL, NULL, NULL, NULL};
PyMODINIT_FUNC PyInit__lane(void) { return PyModule_Create(&module); }
"""


@pytest.fixture
def compiler() -> None:
    tools.require_compiler()


@pytest.fixture(autouse=True)
def plain_environ(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GENIEHIVE_PURE", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A tree with a C file, and nothing else."""
    (tmp_path / LANE).parent.mkdir(parents=True)
    (tmp_path / LANE).write_text(C_FILE)
    return tmp_path


def build(target: str, tree: Path, **environ: str) -> tuple[Path, str]:
    """What hatchling built of a tree, and what it said."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(tree / "dist")]
    done = subprocess.run(
        command,
        cwd=tree,
        env=os.environ | environ,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    (built,) = (tree / "dist").iterdir()
    return built, done.stdout


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """All that a wheel is made of, or nearly, with our own C file and what another Python left."""
    for name in TREE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, tmp_path / name)
    pyproject = tmp_path / "pyproject.toml"
    pyproject.write_text(re.sub(r"(?m)^packages = .*$", 'packages = ["geniehive"]', pyproject.read_text()))
    (tmp_path / LANE).write_text(C_FILE)
    (tmp_path / LANE.with_suffix(".another-python.so")).write_text("")
    (tmp_path / lane_binary()).write_text("an old one")
    return tmp_path


def binaries_in(wheel: Path) -> list[str]:
    return [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_the_lane_of_this_python_is_compiled_and_a_second_run_touches_nothing(compiler: None, root: Path) -> None:
    assert update_lane(root)
    binary = root / lane_binary()
    spec = importlib.util.spec_from_file_location("_lane", binary)
    assert importlib.util.module_from_spec(spec).__doc__ == "ANSWER"
    assert set(binary.parent.iterdir()) == {root / LANE, binary}
    made = binary.stat().st_mtime_ns
    assert not update_lane(root)
    assert binary.stat().st_mtime_ns == made


def test_a_changed_c_file_is_compiled_again(compiler: None, root: Path) -> None:
    update_lane(root)
    (root / LANE).write_text(C_FILE.replace("ANSWER", "another"))
    assert update_lane(root)
    assert b"another" in (root / lane_binary()).read_bytes()


def test_the_c_file_of_the_tree_compiles_without_a_warning(
    compiler: None, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    shutil.copyfile(ROOT / LANE, root / LANE)
    assert update_lane(root)
    assert capfd.readouterr().err == ""


def test_a_c_file_that_does_not_compile_leaves_no_lane_and_tells_the_first_error(compiler: None, root: Path) -> None:
    update_lane(root)
    (root / LANE).write_text('#error "it is broken"\n')
    with pytest.raises(NotCompiledError, match=r"streams cost the gateway more .* failed \(1\): .*it is broken"):
        update_lane(root)
    assert not (root / lane_binary()).exists()


def test_without_a_compiler_there_is_no_lane_and_a_line_says_what_to_install(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / lane_binary()).write_text("an old one")
    monkeypatch.setenv("CC", "/nowhere/cc -m64")
    with pytest.raises(NotCompiledError, match=r"CC=/nowhere/cc -m64 is not there; .* apt install gcc python3-dev"):
        update_lane(root)
    assert not (root / lane_binary()).exists()
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(NotCompiledError, match="no C compiler; "):
        update_lane(root)


def test_without_pythons_headers_a_line_says_what_to_install(
    compiler: None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hatch_build.sysconfig, "get_paths", lambda: {"include": "/no/inc", "platinclude": "/no/inc"})
    with pytest.raises(NotCompiledError, match=r"no Python.h in /no/inc; .* apt install python3-dev"):
        update_lane(root)


def test_a_usual_compiler_serves_where_the_one_that_made_this_python_is_not(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools.require_tool("cc")
    monkeypatch.delenv("CC", raising=False)
    suffix = lane_binary().name.removeprefix(LANE.stem)
    known = {"CC": "/nowhere/x86_64-conda-linux-gnu-cc", "EXT_SUFFIX": suffix}
    monkeypatch.setattr(hatch_build.sysconfig, "get_config_var", known.get)
    assert hatch_build.compile_command()[0] == "cc"


@pytest.mark.parametrize("value", ["1", "yes"])
def test_geniehive_pure_leaves_no_lane(root: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    (root / lane_binary()).write_text("an old one")
    monkeypatch.setenv("GENIEHIVE_PURE", value)
    with pytest.raises(NotCompiledError, match="GENIEHIVE_PURE is set"):
        update_lane(root)
    assert not (root / lane_binary()).exists()


def test_lanes_of_other_pythons_stay_unless_the_c_file_is_newer(
    compiler: None, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changed = (root / LANE).stat().st_mtime
    older, newer = (root / LANE.with_suffix(f".{age}.so") for age in ("older", "newer"))
    for file, age in ((older, 10), (newer, -10)):
        file.write_text("")
        os.utime(file, (changed - age, changed - age))
    update_lane(root)
    assert (older.exists(), newer.exists()) == (False, True)


def test_a_wheel_with_the_lane_is_for_machines_like_this_one(compiler: None, tree: Path) -> None:
    wheel, _said = build("wheel", tree)
    assert binaries_in(wheel) == [lane_binary().as_posix()]
    assert re.search(r"-cp3\d+-cp3\w+-(linux|macosx)_\w+\.whl$", wheel.name)
    (metadata,) = (name for name in zipfile.ZipFile(wheel).namelist() if name.endswith("/WHEEL"))
    assert b"Root-Is-Purelib: false" in zipfile.ZipFile(wheel).read(metadata)


def test_a_wheel_without_a_compiler_is_for_any_machine_and_says_so(tree: Path) -> None:
    wheel, said = build("wheel", tree, CC="/nowhere/cc")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert binaries_in(wheel) == []
    assert "CC=/nowhere/cc is not there; install one" in said


def test_a_pure_wheel_leaves_the_lane_to_those_who_use_the_tree(tree: Path) -> None:
    wheel, said = build("wheel", tree, GENIEHIVE_PURE="1")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert binaries_in(wheel) == []
    assert (tree / lane_binary()).read_text() == "an old one"
    assert "GENIEHIVE_PURE" not in said


def test_a_pure_editable_install_takes_the_lane_out_of_the_tree(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENIEHIVE_PURE", "1")
    hook = hatch_build.TreeBuildHook(str(tree), {}, None, None, "", "wheel")
    build_data: dict[str, object] = {"artifacts": []}
    hook.initialize("editable", build_data)
    assert build_data == {"artifacts": []}
    assert not (tree / lane_binary()).exists()


def test_the_sdist_holds_the_c_file_and_no_binary(tree: Path) -> None:
    sdist, _said = build("sdist", tree)
    with tarfile.open(sdist) as held:
        compiled = {Path(name).name for name in held.getnames() if name.endswith((".c", ".so"))}
    assert compiled == {LANE.name}
