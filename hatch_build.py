"""Builds the gRPC stubs: protos/geniehive/v1/*.proto -> geniehive/v1/*_pb2.py, *_pb2.pyi, *_pb2_grpc.py.

One generator, three callers: hatchling runs it for wheels and for editable installs, `make proto` runs
it as `python -m hatch_build`, and CI compares its output with that of `buf generate`. The stubs are made
in a temporary folder and only the files that differ are moved into place, so a run that changes nothing
touches nothing, and a process that imports the stubs meanwhile never reads half a file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOT = Path(__file__).resolve().parent
PACKAGE = Path("geniehive/v1")


class StubsBuildHook(BuildHookInterface[Any]):
    """Hatchling's entry: called before a wheel or an editable install is put together."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  (hatchling's signature)
        """Write the stubs into the source tree; `artifacts` in pyproject.toml takes them into the wheel."""
        root = Path(self.root)
        update(root, root)


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


def _same(file: Path, content: bytes) -> bool:
    return file.is_file() and file.read_bytes() == content


def _replace(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    shutil.copyfile(source, beside)
    beside.replace(target)


def main() -> None:
    """`python -m hatch_build`: the same generation by hand."""
    parser = argparse.ArgumentParser(prog="python -m hatch_build", description="Build the gRPC stubs from protos/.")
    parser.add_argument("--out", type=Path, default=ROOT, help="folder to write geniehive/v1/ into (default: the tree)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the stubs are not up to date")
    args = parser.parse_args()
    differing = update(ROOT, args.out, check=args.check)
    if args.check and differing:
        names = ", ".join(str(name) for name in differing)
        sys.exit(f"stubs are not up to date with protos/: {names}; run `make proto`")
    print(f"stubs: {len(differing)} file(s) written" if differing else "stubs: up to date")


if __name__ == "__main__":
    main()
