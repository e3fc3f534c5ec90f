"""Builds what is not in git: the gRPC stubs, and the relay's lane.

Stubs: protos/geniehive/v1/*.proto -> geniehive/v1/*_pb2.py, *_pb2.pyi, *_pb2_grpc.py. Lane: geniehive/relay/_lane.c ->
geniehive/relay/_lane.*.so for the Python that runs this, where that has a C compiler and Python.h. It is optional:
without it all works, and streams cost the gateway more processor time. GENIEHIVE_PURE=1 leaves it out on purpose, for
a wheel that any machine can install.

Hatchling runs this for wheels and for editable installs, `make proto` runs it as `python -m hatch_build`, and CI
compares the stubs with those of `buf generate`. Everything is made in a temporary folder and only the files that differ
are moved into place, so a run that changes nothing touches nothing, and a process that imports them meanwhile never
reads half a file. Both are in one file because hatchling loads it by its path: what lies beside it cannot be imported.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("geniehive/v1")
LANE = Path("geniehive/relay/_lane.c")
C_FLAGS = ("-O2", "-Wall", "-Wextra", "-fPIC")
LINK_FLAGS = ("-bundle", "-undefined", "dynamic_lookup") if sys.platform == "darwin" else ("-shared",)


class NotCompiledError(Exception):
    """Why there is no compiled lane, and what to do if one is wanted."""

    def __str__(self) -> str:
        """The line that tells it."""
        return f"relay: runs in Python, streams cost the gateway more processor time: {super().__str__()}"


class TreeBuildHook(BuildHookInterface[Any]):
    """Hatchling's entry: called before a wheel or an editable install is put together."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write stubs and lane into the source tree, and take the lane into the wheel.

        `artifacts` in pyproject.toml takes the stubs. The lane is named here: binaries that other Pythons left in the
        tree stay out. A pure wheel leaves the tree's lane alone, since an editable install may be using it.
        """
        root = Path(self.root)
        update(root, root)
        if version != "editable" and pure():
            return
        try:
            update_lane(root)
        except NotCompiledError as lost:
            self.app.display_warning(str(lost))
        else:
            build_data["artifacts"].append(f"/{lane_binary().as_posix()}")
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


def update(root: Path, out: Path, *, check: bool = False) -> list[Path]:
    """Bring the stubs under `out` up to date with the protos under `root`; returns the files that differed.

    With `check` nothing is written.
    """
    with tempfile.TemporaryDirectory(prefix="geniehive-stubs-") as scratch:
        made = _generate(root, Path(scratch))
        stale = sorted({file.relative_to(out) for file in (out / PACKAGE).glob("*_pb2*")} - made.keys())
        differing = [name for name, text in made.items() if not _same(out / name, text)]
        if not check:
            for name in differing:
                _replace(Path(scratch) / name, out / name)
            for name in stale:
                (out / name).unlink()
    return [*differing, *stale]


def _generate(root: Path, scratch: Path) -> dict[Path, bytes]:
    """Run protoc on all protos at once, into `scratch`; the names are relative to it."""
    from grpc_tools import protoc  # noqa: PLC0415  (the sdist is built without it)

    protos = root / "protos"
    sources = sorted(file.relative_to(protos).as_posix() for file in protos.glob(f"{PACKAGE.as_posix()}/*.proto"))
    if not sources:
        sys.exit(f"no .proto files under {protos / PACKAGE}: the source tree is not whole, fetch it again")
    status = protoc.main(
        [
            "protoc",
            f"--proto_path={protos}",
            f"--proto_path={resources.files('grpc_tools') / '_proto'}",
            f"--python_out={scratch}",
            f"--pyi_out={scratch}",
            f"--grpc_python_out={scratch}",
            *sources,
        ]
    )
    if status != 0:
        sys.exit(f"protoc failed ({status}); its messages are above")
    return {file.relative_to(scratch): file.read_bytes() for file in sorted((scratch / PACKAGE).iterdir())}


def pure() -> bool:
    """Whether GENIEHIVE_PURE asks for a build without compiled code."""
    return os.environ.get("GENIEHIVE_PURE", "") not in {"", "0"}


def lane_binary() -> Path:
    """The compiled lane of this Python, relative to the tree."""
    return LANE.with_suffix(sysconfig.get_config_var("EXT_SUFFIX"))


def update_lane(root: Path) -> bool:
    """Bring the compiled lane under `root` up to date with its C file; returns whether it differed.

    Raises NotCompiledError where it cannot be compiled, or must not be. Then there is none: one from before might not
    be that of this C file.
    """
    target = root / lane_binary()
    _remove_lanes_of_other_pythons(root)
    with tempfile.TemporaryDirectory(prefix="geniehive-lane-") as scratch:
        made = Path(scratch) / target.name
        try:
            _compile(root / LANE, made)
        except NotCompiledError:
            target.unlink(missing_ok=True)
            raise
        differs = not _same(target, made.read_bytes())
        if differs:
            _replace(made, target)
    return differs


def _remove_lanes_of_other_pythons(root: Path) -> None:
    """Those older than the C file: only their own Python could say whether they differ, and it may never come."""
    source = root / LANE
    for file in source.parent.glob(f"{LANE.stem}.*.so"):
        if file.name != lane_binary().name and file.stat().st_mtime_ns < source.stat().st_mtime_ns:
            file.unlink(missing_ok=True)


def compile_command() -> list[str]:
    """The compiler, its flags and where Python.h is; without output and source. Raises NotCompiledError."""
    if pure():
        raise NotCompiledError("GENIEHIVE_PURE is set")
    compiler = _compiler()
    includes = list(dict.fromkeys(sysconfig.get_paths()[kind] for kind in ("include", "platinclude")))
    if not any((Path(folder) / "Python.h").is_file() for folder in includes):
        raise NotCompiledError(f"no Python.h in {' or '.join(includes)}; install it (Debian: apt install python3-dev)")
    return [*compiler, *C_FLAGS, *LINK_FLAGS, *(f"-I{folder}" for folder in includes)]


def _compile(source: Path, made: Path) -> None:
    command = [*compile_command(), "-o", str(made), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  (no shell)
    if done.returncode != 0:
        first = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip())
        raise NotCompiledError(f"{command[0]} failed ({done.returncode}): {first}")
    sys.stderr.write(done.stderr)  # warnings


def _compiler() -> list[str]:
    """$CC; else the one that made this Python, which may not be on this machine; else a usual one."""
    asked = os.environ.get("CC")
    for line in [asked] if asked else [sysconfig.get_config_var("CC"), "cc", "gcc", "clang"]:
        words = shlex.split(line or "")
        if words and shutil.which(words[0]):
            return words
    missing = f"CC={asked} is not there" if asked else "no C compiler"
    raise NotCompiledError(f"{missing}; install one (Debian: apt install gcc python3-dev)")


def _same(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


def _replace(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, beside)
    beside.replace(target)


def main() -> None:
    """`python -m hatch_build`: the same by hand."""
    parser = argparse.ArgumentParser(
        prog="python -m hatch_build", description="Build the gRPC stubs from protos/, and the relay's lane."
    )
    parser.add_argument("--out", type=Path, help="write geniehive/v1/ into this folder; no lane (default: the tree)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the stubs are not up to date")
    args = parser.parse_args()
    differing = update(ROOT, args.out or ROOT, check=args.check)
    if args.check and differing:
        names = ", ".join(str(name) for name in differing)
        sys.exit(f"stubs are not up to date with protos/: {names}; run `make proto`")
    print(f"stubs: {len(differing)} file(s) written" if differing else "stubs: up to date")
    if not args.check and args.out is None:
        print(_lane_line())


def _lane_line() -> str:
    try:
        return f"relay: {lane_binary().name} {'written' if update_lane(ROOT) else 'up to date'}"
    except NotCompiledError as lost:
        return str(lost)


if __name__ == "__main__":
    main()
