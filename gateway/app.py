"""Wires one worker: what it knows of the cluster, whom it may ask, and the server in front.

When told to stop, a worker is not ready any more, refuses new work, lets what runs finish up to a deadline, ends the
rest with an error, and goes.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
import socket
import ssl
import time
from collections.abc import Callable, Coroutine
from typing import Any, NamedTuple

import geniehive
from gateway.admission import Admission, Queue
from gateway.agents import Agents
from gateway.attempts import Attempts
from gateway.auth import INFERENCE, Authenticator
from gateway.circuit import Circuits
from gateway.cluster import ClusterViews
from gateway.control_link import ControlLink
from gateway.http import refusal_of
from gateway.https import HANDSHAKE_S, Https
from gateway.inflight import InFlight
from gateway.key_watch import KeyWatch
from gateway.listen import url_of
from gateway.loading import Loading
from gateway.meter import MetricsMeter
from gateway.metrics import Metrics
from gateway.middleware import Front
from gateway.ollama.facade import Facade
from gateway.openai.audio import Audio
from gateway.openai.forms import Forms
from gateway.openai.forward import Forward
from gateway.openai.generate import Generate
from gateway.openai.media import Media
from gateway.openai.models import Models
from gateway.openai.voices import Voices
from gateway.opening import Opening
from gateway.operations import Operations
from gateway.own_metrics import OwnMetrics
from gateway.permits import Permits
from gateway.receipts import Receipts
from gateway.request_views import RequestViews
from gateway.router import Router
from gateway.routes import Desks, route_table
from gateway.routing_watch import RoutingWatch
from gateway.server.server import Server, Spawn
from gateway.siblings import Siblings
from gateway.tuning import affordable, open_files, tune
from gateway.upstream import Upstream
from gateway.view import RoutingView
from geniehive.config import Config
from geniehive.credentials import source_for
from geniehive.identity import Kind
from geniehive.relay.outbox import Outbox
from geniehive.renewal import Renewal

_log = logging.getLogger(__name__)
_BACKLOG = 2048
_ACCEPTED_AT_ONCE = 16  # connections a round of the loop
_LAST_GRACE_S = 1.0  # for connections to close once nothing runs on them


async def serve(
    config: Config,
    sock: socket.socket,
    *,
    stop: asyncio.Event,
    ready: Callable[[str], None],
    siblings: Siblings | None = None,
    reload: asyncio.Event | None = None,
) -> None:
    """One worker on a bound socket: its watch of the cluster, its upstream connections, its server.

    Setting `reload` has the certificate of HTTPS read again at once; it is anyway when its file changes.
    """
    requests = RequestViews(Receipts(config.gateway.receipts), siblings or Siblings())
    view = RoutingView(config.routing.default_strategy, config.routing.scored)
    in_flight = InFlight(time.monotonic)
    targets, node_key = config.control_plane.targets, config.control_plane.node_api_key
    credentials = source_for(config, Kind.GATEWAY)
    https = Https(config.gateway) if config.gateway.tls_cert_file else None
    gateway_id = config.gateway.gateway_id or f"gateway-{secrets.token_hex(4)}"
    watch = RoutingWatch(
        targets,
        node_key,
        gateway_id,
        view,
        in_flight,
        random.random,
        geniehive.__version__,
        stale_after_s=config.routing.health_stale_after_s,
    )
    watch.credentials = credentials
    outbox = Outbox(asyncio.get_running_loop())
    async with (
        asyncio.TaskGroup() as tasks,
        ControlLink(targets, credentials) as link,
        Upstream(connect_timeout_s=config.gateway.connect_timeout_s, outbox=outbox) as upstream,
    ):
        watching = tasks.create_task(watch.run())
        renewal = Renewal(credentials, targets, random.random)
        view.certificate_end = lambda: renewal.expires_at
        renewing = tasks.create_task(renewal.run())
        cluster = ClusterViews(view, in_flight, link.channel, node_key, config)
        spawn = spawner(tasks)
        front = build_app(config, view, in_flight, upstream, cluster, requests, spawn)
        async with requests.answering():
            following = tasks.create_task(https.follow(reload or asyncio.Event())) if https else None
            await _listen(config, sock, front, spawn, outbox, stop, ready, https.context if https else None)
            if following is not None:
                following.cancel()
        watching.cancel()
        renewing.cancel()


async def _listen(
    config: Config,
    sock: socket.socket,
    front: Front,
    spawn: Spawn,
    outbox: Outbox,
    stop: asyncio.Event,
    ready: Callable[[str], None],
    tls: ssl.SSLContext | None,
) -> None:
    """Answer until told to stop, then drain. The port stays open meanwhile: /readyz has to say no."""
    limits, drain_s = config.gateway, config.gateway.drain_timeout_s
    server = Server(
        front,
        refusal_of,
        spawn,
        outbox=outbox,
        header_timeout_s=limits.header_timeout_s,
        max_connections=affordable(limits.max_connections, open_files()),
    )
    # libuv accepts one connection a round of its loop and socket; with a thousand streams a round takes tens of
    # milliseconds, and who comes new would wait for seconds. So the same socket is listened to several times.
    listeners = [
        await asyncio.get_running_loop().create_server(
            server, sock=each, backlog=_BACKLOG, ssl=tls, ssl_handshake_timeout=HANDSHAKE_S if tls else None
        )
        for each in (sock, *(sock.dup() for _ in range(_ACCEPTED_AT_ONCE - 1)))
    ]
    tune()
    try:
        ready(url_of(sock, tls=tls is not None))
        await stop.wait()
        if front.open_requests:
            _log.info("stopping: %d requests may finish within %g s", front.open_requests, drain_s)
        await front.drain(drain_s)
    finally:
        for listener in listeners:
            listener.close()
        await server.shutdown(_LAST_GRACE_S)


class Keepers(NamedTuple):
    """What keeps requests back: services that failed, and the line for those that are full."""

    circuits: Circuits
    line: Queue


def build_app(
    config: Config,
    view: RoutingView,
    in_flight: InFlight,
    upstream: Upstream,
    cluster: ClusterViews,
    requests: RequestViews,
    spawn: Spawn,
    keepers: Keepers | None = None,
) -> Front:
    """What answers requests, from the parts that outlive them."""
    limits = config.gateway
    circuits, line = keepers or Keepers(Circuits(limits.ejection), Queue())
    metrics = Metrics(view, in_flight, circuits, line)
    receipts = requests.receipts
    meter = MetricsMeter(metrics, receipts.keep)
    admission = Admission(view, in_flight, circuits, line, limits.queue, metrics.waited)
    opening = Opening(upstream, Loading(view, limits), limits)
    attempts = Attempts(in_flight, circuits, admission, opening, limits, spawn, meter, random.random)
    permits = Permits()
    router = Router(view, in_flight, circuits, receipts=limits.receipts > 0, permits=permits)
    operations = Operations(view, metrics, geniehive.__version__)
    generate = Generate(router, attempts, limits)
    forward, forms = Forward(router, attempts, limits), Forms(router, attempts, limits)
    desks = Desks(
        generate=generate,
        agents=Agents(router, attempts, limits, generate.parsed),
        audio=Audio(router, attempts, limits),
        media=Media(forward, forms, Voices(view), limits.extra_routes),
        ollama=Facade(view, router, attempts, limits, geniehive.__version__),
        models=Models(view, in_flight),
        cluster=cluster,
        requests=requests,
        operations=operations,
    )
    table = route_table(desks)
    authenticator = Authenticator(tuple(config.auth.client_api_keys), tuple(config.auth.admin_api_keys))
    front = Front(
        table,
        authenticator.check_fields,
        meter,
        refused_when_draining=INFERENCE,
        request_timeout_s=limits.request_timeout_s,
    )
    operations.front = front
    receipts.open_exchanges = permits.open_exchanges = lambda: front.exchanges
    view.follow(KeyWatch(authenticator, permits.open_exchanges).changed)
    OwnMetrics(metrics.registry, lambda: front.open_requests, upstream)
    return front


def spawner(tasks: asyncio.TaskGroup) -> Spawn:
    """Starts small helpers of requests; one that fails is logged and takes nothing down with it."""

    async def guarded(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        try:
            await work()
        except Exception:  # noqa: BLE001 - one request's helper must not end the gateway
            _log.exception("a helper of a request failed")

    return lambda work: tasks.create_task(guarded(work))
