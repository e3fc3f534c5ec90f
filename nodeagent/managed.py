"""Managed engines: from the config of a service to the process that the agent runs for it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from geniehive.config import ServiceConfig
from geniehive.resources import Health, HealthStatus
from nodeagent.dialling import host_and_port, opens
from nodeagent.embedded.launch import free_port, reads_ready_line
from nodeagent.embedded.options import EngineOptions, engine_argv
from nodeagent.process import Launched, ManagedProcess, ProcessSpec, ProcessStatus, Ready, State

_READY_POLL_S: Final = 0.1
_DEFAULT_SLOTS: Final = 4
_LOADING: Final = frozenset({State.IDLE, State.STARTING})


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagedEngine:
    """A process, and where it will listen."""

    process: ManagedProcess
    endpoint: str


def managed_engine(config: ServiceConfig, on_change: Callable[[ProcessStatus], None]) -> ManagedEngine:
    """The process for a service with `launcher: managed`; nothing is started yet."""
    return _command(config, on_change) if config.runtime.command else _embedded(config, on_change)


def health_of(status: ProcessStatus) -> Health | None:
    """The service's health while its process cannot answer; None while it can, and is to be asked.

    Clients get the reason to read, so it has none of the engine's own words: those are a note (`notes_of`).
    """
    if status.state is State.RUNNING:
        return None
    if status.state in _LOADING:
        again = f" again; before, it {status.reason}" if status.reason else ""
        return Health(status=HealthStatus.LOADING, reason=f"the engine is starting{again}")
    then = "; it is being restarted" if status.state is State.BACKING_OFF else ""
    return Health(status=HealthStatus.UNHEALTHY, reason=f"the engine {status.reason or 'is being stopped'}{then}")


def notes_of(status: ProcessStatus) -> tuple[str, ...]:
    """What operators should know of a process that cannot answer: the engine's own last words."""
    return (f"the engine last said: {status.said}",) if status.said else ()


def _command(config: ServiceConfig, on_change: Callable[[ProcessStatus], None]) -> ManagedEngine:
    runtime = config.runtime
    spec = ProcessSpec(
        name=config.service_id,
        argv=runtime.command,
        env=_environ(config),
        cwd=runtime.cwd or None,
        ready_timeout_s=runtime.start_timeout_s,
        stop_grace_s=runtime.stop_timeout_s,
    )
    return ManagedEngine(
        process=ManagedProcess(spec, _listens(config.endpoint), on_change=on_change), endpoint=config.endpoint
    )


def _embedded(config: ServiceConfig, on_change: Callable[[ProcessStatus], None]) -> ManagedEngine:
    runtime = config.runtime
    host, port = host_and_port(config.endpoint) if config.endpoint else ("127.0.0.1", free_port("127.0.0.1"))
    options = EngineOptions(
        model=Path(runtime.model) if runtime.model else None,
        host=host,
        port=port,
        alias=config.assets[0].asset_id if len(config.assets) == 1 else None,
        context=runtime.context_size,
        parallel=runtime.slots or _DEFAULT_SLOTS,
        embedding=runtime.embedding,
        gpu_layers=runtime.gpu_layers,
        parent_pid=os.getpid(),
    )
    spec = ProcessSpec(
        name=config.service_id,
        argv=engine_argv(options),
        env=_environ(config),
        cwd=runtime.cwd or None,
        ready_timeout_s=runtime.start_timeout_s,
        stop_grace_s=runtime.stop_timeout_s,
    )
    name = f"[{host}]" if ":" in host else host
    return ManagedEngine(
        process=ManagedProcess(spec, reads_ready_line(), on_change=on_change), endpoint=f"http://{name}:{port}"
    )


def _environ(config: ServiceConfig) -> dict[str, str] | None:
    return {**os.environ, **config.runtime.env} if config.runtime.env else None


def _listens(endpoint: str) -> Ready:
    """A ready check: somebody listens at the endpoint. Whether a model is loaded is for the looks to say."""

    async def wait(launched: Launched) -> None:
        del launched
        host, port = host_and_port(endpoint)
        while True:
            if await opens(host, port):
                return
            await asyncio.sleep(_READY_POLL_S)

    return wait
