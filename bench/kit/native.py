"""The C programs of the benchmarks: compiled with `cc` where their source is newer."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from kit.processes import CACHE, REPO, BenchError

_SOURCES = {"upstream": "bench/upstream/upstream.c", "sse_load": "bench/load/sse_load.c"}


def program(name: str) -> str:
    """The path of a compiled program. Raises BenchError where there is no compiler."""
    source, built = REPO / _SOURCES[name], CACHE / name
    if built.exists() and built.stat().st_mtime > source.stat().st_mtime:
        return str(built)
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        raise BenchError("the benchmarks compile small C programs: install a C compiler (Debian: apt install gcc)")
    CACHE.mkdir(parents=True, exist_ok=True)
    _compile(compiler, source, built)
    return str(built)


def _compile(compiler: str, source: Path, built: Path) -> None:
    flags = ["-O2", "-Wall", "-Wextra", "-std=gnu11", "-pthread"]
    done = subprocess.run(
        [compiler, *flags, "-o", str(built), str(source)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise BenchError(f"{source} does not compile:\n{done.stderr}")


def tool(name: str, package: str) -> str:
    """The path of an installed program. Raises BenchError that names its Debian package."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise BenchError(f"{name} is not installed (Debian: apt install {package})")
    return found
