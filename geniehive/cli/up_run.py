"""The life of `geniehive up`: the three daemons are children of this process.

While control plane and gateway come up, the well-known ports are asked for engines; where none answers, the node
agent gets the embedded llama.cpp as a managed service. The first Ctrl-C or SIGTERM ends the children in order (the
gateway's requests may finish), the second one kills them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from geniehive.cli import exits, up_join, up_plan, up_report
from geniehive.cli.log_level import LogLevel
from geniehive.cli.sdnotify import Notifier
from geniehive.cli.supervise import Child, ChildSpec
from geniehive.cli.up_plan import Plan

_SCAN_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Wishes:
    """What was asked for on the command line."""

    model: Path | None
    engine: bool
    insecure: bool
    level: LogLevel
    verbose: bool


def run(plan: Plan, wishes: Wishes) -> None:
    """Run until told to stop. Raises GenieHiveError if a daemon cannot start."""
    try:
        asyncio.run(_main(plan, wishes))
    except BaseExceptionGroup as group:
        known = exits.expected(group)
        if known is None:
            raise
        raise known from None


async def _main(plan: Plan, wishes: Wishes) -> None:
    stop = asyncio.Event()
    family = Family(plan, wishes)
    _handle_signals(stop, family)
    async with asyncio.TaskGroup() as group:
        if up_join.speaks_tls(plan, insecure=wishes.insecure):
            family.start(group, ("control",), plan)
        else:
            family.start(group, ("control", "gateway"), plan)
        work = group.create_task(_come_up(group, family, plan, wishes))
        await stop.wait()
        Notifier().send("STOPPING=1")
        work.cancel()
        print("\nstopping ...", flush=True)
        await family.stop()


def _handle_signals(stop: asyncio.Event, family: Family) -> None:
    loop = asyncio.get_running_loop()

    def handle(number: int) -> None:
        if stop.is_set():
            family.kill()
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, handle, number)


class Family:
    """The children, by name."""

    def __init__(self, plan: Plan, wishes: Wishes) -> None:
        self._children: dict[str, Child] = {}
        self._state_dir = plan.state_dir
        self._wishes = wishes
        self._environ: Mapping[str, str] = up_plan.child_environ(os.environ)

    def start(self, group: asyncio.TaskGroup, names: tuple[str, ...], plan: Plan) -> None:
        """Start children with the plan's config."""
        for name in names:
            path = self._state_dir / f"{name}.config.json"
            up_plan.write_config(plan.config, path)
            arguments = [name, "--config", str(path), "--log-level", self._wishes.level.value]
            if self._wishes.insecure and name != "node":
                arguments.append("--insecure")
            log = None if self._wishes.verbose else self._state_dir / f"{name}.log"
            if log is not None:
                log.unlink(missing_ok=True)
            child = Child(ChildSpec(name=name, arguments=arguments, environ=self._environ, log=log), exits.say_error)
            self._children[name] = child
            group.create_task(child.run())

    async def ready(self) -> None:
        """Wait until every child is."""
        for child in tuple(self._children.values()):
            await child.ready.wait()

    async def stop(self) -> None:
        """End the gateway, whose requests may finish; then the node agent, with its engines; then the control plane."""
        for name in ("gateway", "node", "control"):
            if child := self._children.get(name):
                await child.stop()

    def kill(self) -> None:
        """End all at once."""
        for child in self._children.values():
            child.kill()


async def _come_up(group: asyncio.TaskGroup, family: Family, plan: Plan, wishes: Wishes) -> None:
    """Find engines, start the node agent with them, wait for the first model, and say what there is."""
    if up_join.speaks_tls(plan, insecure=wishes.insecure):
        await family.ready()
        await up_join.join_locally(plan)
        family.start(group, ("gateway",), plan)
    found = bool(plan.config.services) or (plan.config.node.discover and await _any_engine(plan))
    tiny = wishes.model is None and not found and wishes.engine and up_plan.embedded_installed()
    if wishes.model is not None or tiny:
        plan = up_plan.with_embedded(plan, wishes.model)
    family.start(group, ("node",), plan)
    await family.ready()
    await up_report.report(
        plan,
        expect=found or tiny or wishes.model is not None,
        model=wishes.model,
        tiny=tiny,
        log_dir=None if wishes.verbose else plan.state_dir,
    )
    Notifier().send("READY=1")


async def _any_engine(plan: Plan) -> bool:
    """Whether an engine answers at one of the well-known ports; asked all at once."""
    from nodeagent.engines.fingerprint import fingerprint
    from nodeagent.engines.http import engine_session

    async def ask(port: int) -> bool:
        try:
            return await fingerprint(f"http://127.0.0.1:{port}", session, _SCAN_S) is not None
        except TimeoutError:
            return False

    async with engine_session() as session:
        return any(await asyncio.gather(*(ask(port) for port in plan.config.node.discover_ports)))
