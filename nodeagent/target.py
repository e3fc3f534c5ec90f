"""What the agent watches: a service as configured or as found, and how its engine is asked."""

from __future__ import annotations

from dataclasses import dataclass

from geniehive.config import ServiceConfig
from geniehive.resources import Runtime, Service
from nodeagent.discovery import Found, as_service
from nodeagent.engines import Engine
from nodeagent.process import ManagedProcess


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is known without asking (`service`), and how to ask.

    `protocol`: the engine's word; "auto" finds out, None only asks whether it lives. `engine`: where
    discovery already knows it. `managed`: the process, where the agent runs it.
    """

    service: Service
    protocol: str | None
    api_key: str = ""
    manifest: str = ""
    engine: Engine | None = None
    managed: ManagedProcess | None = None


def configured_target(
    config: ServiceConfig, host_id: str, endpoint: str, managed: ManagedProcess | None = None
) -> Target:
    """The target of a configured service; `endpoint` is where it listens, also where the config leaves that open."""
    protocol = config.discover_protocol
    service = Service(
        service_id=config.service_id,
        host_id=host_id,
        operations=config.operations,
        endpoint=endpoint,
        protocol=protocol if protocol not in {None, "auto"} else "openai",
        runtime=Runtime(engine=config.runtime.engine, launcher=config.runtime.launcher, version=config.runtime.version),
        assets=config.assets,
        routes=config.routes,
        max_concurrency=config.max_concurrency,
    )
    return Target(service=service, protocol=protocol, api_key=config.api_key, manifest=config.manifest, managed=managed)


def found_target(host_id: str, found: Found) -> tuple[Target, Service]:
    """The target of a service that discovery found, and the service as it was seen then."""
    seen = as_service(host_id, found)
    bare = Service(service_id=seen.service_id, host_id=host_id, endpoint=seen.endpoint, discovered=True)
    return Target(service=bare, protocol="auto", engine=found.engine), seen
