"""Run llama.cpp's own HTTP server on one model, from the `xllamacpp` wheel, until a signal or the parent's death.

The server is llama.cpp's, routes and all; this module chooses its settings, checks what would otherwise end in a
stack trace, and tells the parent one line of JSON on stdout when /health answers 200:

    {"event": "ready", "url": "http://127.0.0.1:18091", "port": 18091, "pid": 4711, "alias": "geniehive-tiny",
     "operations": ["chat", "completion", "embeddings"], "context": 16384, "parallel": 4, "startup_s": 0.14}

stderr carries llama.cpp's errors and, last, our one line. Exit status: 0 after SIGTERM or SIGINT, 1 when it cannot
start, 2 for a wrong command line.

Chat and embeddings from one process: llama.cpp serves both once embeddings are enabled with a pooling type that is
not `none` (checked: the answers to chat are the same tokens with and without).
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from nodeagent.embedded import gguf, tiny_model
from nodeagent.embedded.cores import usable_cores
from nodeagent.embedded.options import EngineOptions, default_cache_dir, parse
from nodeagent.parentage import on_stdin_closed, signal_on_parent_death

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

USUAL_CONTEXT: Final = 8192
TINY_CONTEXT: Final = 4 * tiny_model.CONTEXT_TRAIN
TINY_PREDICT: Final = 256
_PROMPT_CACHE_MIB: Final = 1024
_TINY_PROMPT_CACHE_MIB: Final = 64
_ERRORS_ONLY, _INFORMATION = 1, 3
_LOG_THREAD_S: Final = 0.1


class CannotStartError(Exception):
    """The engine cannot start; the message is one line that names the fix."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The options with every gap filled from the model's file: what llama.cpp is told."""

    options: EngineOptions
    model: Path
    tiny: bool
    alias: str
    context: int
    pooling: str | None
    embedding: bool
    operations: tuple[str, ...]


def main(argv: Sequence[str]) -> int:
    """Run until told to stop; the exit status."""
    started = time.monotonic()
    options = parse(argv)
    try:
        _follow_parent(options.parent_pid)
        plan = make_plan(options)
        llama = _import_engine()
        _check_port_is_free(options.host, options.port)
        _die_at_once_on_signals()
        server = _start(llama, plan)
        return _serve(server, plan, started)
    except CannotStartError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1


def make_plan(options: EngineOptions) -> Plan:
    """Fill the gaps from the model's file. Raises CannotStartError if there is no such model."""
    tiny = options.model is None
    path = _generated(options.cache_dir) if options.model is None else options.model
    header = _header(path)
    operations, embedding = _operations(header, embed=tiny if options.embedding is None else options.embedding)
    own_context = min(header.context_length or USUAL_CONTEXT, USUAL_CONTEXT)
    return Plan(
        options=options,
        model=path,
        tiny=tiny,
        alias=options.alias or (tiny_model.ALIAS if tiny else path.stem),
        context=options.context or (TINY_CONTEXT if tiny else own_context),
        pooling=options.pooling or ("mean" if embedding and header.pooling is None else None),
        embedding=embedding,
        operations=operations,
    )


def _operations(header: gguf.Header, *, embed: bool) -> tuple[tuple[str, ...], bool]:
    """What the model can do, and whether llama.cpp's embedding mode is needed for it.

    A file that names a pooling type was made for embeddings (or, with rank, for reranking) and cannot chat.
    """
    rank = 4
    if header.pooling == rank:
        return ("rerank",), True
    if header.pooling:
        return ("embeddings",), True
    return ("chat", "completion", "embeddings") if embed else ("chat", "completion"), embed


def _generated(cache_dir: Path | None) -> Path:
    directory = cache_dir or default_cache_dir()
    try:
        return tiny_model.ensure_tiny_model(directory)
    except OSError as error:
        reason = error.strerror or error
        raise CannotStartError(
            f"the tiny model cannot be written to {directory} ({reason}): name another place with --cache-dir"
        ) from error


def _header(path: Path) -> gguf.Header:
    try:
        return gguf.read_header(path)
    except FileNotFoundError as error:
        raise CannotStartError(f"there is no model file {path}: check --model") from error
    except gguf.NotGgufError as error:
        raise CannotStartError(f"{path} is not a GGUF model ({error}): llama.cpp needs a .gguf file") from error
    except OSError as error:
        raise CannotStartError(f"the model {path} cannot be read ({error.strerror}): --model takes one file") from error


def _import_engine() -> ModuleType:
    try:
        import xllamacpp  # noqa: PLC0415 (an extra; imported once everything cheap has been checked)
    except ImportError as error:
        raise CannotStartError(
            f"the embedded engine is not installed ({error}): pip install 'geniehive[engine]'"
        ) from error
    module: ModuleType = xllamacpp
    return module


def _check_port_is_free(host: str, port: int) -> None:
    """Bind and let go, because llama.cpp's own refusal reaches us without its reason."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        if os.name == "posix":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise CannotStartError(
                f"cannot listen on {host}:{port} ({error.strerror}): name a free one with --port; 0 picks one"
            ) from error


def _start(llama: ModuleType, plan: Plan) -> Any:
    """Load the model and start to listen: returns when /health would answer 200."""
    try:
        return llama.Server(_parameters(llama, plan))
    except RuntimeError as error:
        _take_the_last_word()
        raise CannotStartError(
            f"llama.cpp could not load {plan.model}: the lines above say why; download the file again if it is "
            "damaged, pip install -U xllamacpp if its architecture is unknown, lower --ctx if memory ran out"
        ) from error


def _take_the_last_word() -> None:
    """Let llama.cpp's log thread, which nothing can flush, finish; then keep stderr for our line alone."""
    time.sleep(_LOG_THREAD_S)
    ours = os.dup(2)
    with Path(os.devnull).open("wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    sys.stderr = os.fdopen(ours, "w")


def _parameters(llama: ModuleType, plan: Plan) -> Any:
    options = plan.options
    params = llama.CommonParams()
    params.model.path = str(plan.model)
    params.model_alias = {plan.alias}
    params.hostnames = [options.host]
    params.port = options.port
    params.n_ctx = plan.context
    params.n_parallel = options.parallel
    params.kv_unified = True  # slots share the cache: one long request may use what idle slots do not
    params.n_predict = options.predict or (TINY_PREDICT if plan.tiny else -1)
    # More threads than free cores is worse than too few: llama.cpp's threads spin while they wait for one another.
    threads = options.threads or (1 if plan.tiny else max(1, usable_cores() - 1))
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.n_gpu_layers = _gpu_layers(plan)
    params.embedding = plan.embedding
    if plan.pooling is not None:
        params.pooling_type = llama.llama_pooling_type[f"LLAMA_POOLING_TYPE_{plan.pooling.upper()}"]
    params.cache_ram_mib = _TINY_PROMPT_CACHE_MIB if plan.tiny else _PROMPT_CACHE_MIB
    params.use_jinja = True
    params.endpoint_metrics = True
    params.endpoint_slots = True
    params.ui = False
    # There is no key on this port: a web page that the user happens to visit must not read its answers.
    params.cors_origins, params.cors_origins_explicit = "http://127.0.0.1", True
    params.verbosity = _INFORMATION if options.verbose else _ERRORS_ONLY
    return params


def _gpu_layers(plan: Plan) -> int:
    automatic = -1
    if plan.options.gpu_layers is not None:
        return plan.options.gpu_layers
    return 0 if plan.tiny else automatic


def _serve(server: Any, plan: Plan, started: float) -> NoReturn:
    """Say that we are ready, then wait for a signal. Leaves by `os._exit`.

    There is nothing to save, and llama.cpp's own shutdown would wait for the answers that are still being written.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer)  # wakes this thread whichever thread the kernel chose for the signal
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    _announce(str(server.listening_address), plan, started)
    os.read(reader, 1)
    os._exit(0)


def _announce(url: str, plan: Plan, started: float) -> None:
    ready = {
        "event": "ready",
        "url": url,
        "port": int(url.rpartition(":")[2]),
        "pid": os.getpid(),
        "alias": plan.alias,
        "operations": plan.operations,
        "context": plan.context,
        "parallel": plan.options.parallel,
        "startup_s": round(time.monotonic() - started, 3),
    }
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()


def _die_at_once_on_signals() -> None:
    """While a model loads, Python cannot run a handler; the default action ends us at once, and nothing is lost."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _follow_parent(parent_pid: int | None) -> None:
    if parent_pid is None:
        return
    try:
        watched = os.name == "posix" and signal_on_parent_death(parent_pid, signal.SIGKILL)
    except ProcessLookupError as error:
        raise CannotStartError(f"{error}: leave --parent-pid out to run on its own") from error
    if not watched:
        on_stdin_closed(lambda: os._exit(0))
