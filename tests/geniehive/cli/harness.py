"""Runs the real `geniehive` in processes of its own, and a node made of gRPC calls that announces what a test says."""

from __future__ import annotations

import contextlib
import os
import queue
import selectors
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass

import grpc

from geniehive import codec
from geniehive.resources import Host, HostObserved, Service
from geniehive.v1 import node_service_pb2 as pb
from geniehive.v1 import node_service_pb2_grpc

PATIENCE_S = 60.0
COMMAND = (sys.executable, "-m", "geniehive.cli")


def clean_environ(**more):
    """Our environment without anybody's GENIEHIVE_ settings."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GENIEHIVE_")}
    return kept | {"COLUMNS": "300", "NO_COLOR": "1"} | more


def geniehive(*arguments, timeout=PATIENCE_S, **environ):
    """Run a subcommand to its end."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=clean_environ(**environ),
        check=False,
    )


@dataclass
class Daemon:
    process: subprocess.Popen
    where: str

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """Ask it to end, and wait until it has; its exit code."""
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(PATIENCE_S)


@contextlib.contextmanager
def daemon(*arguments, **environ):
    """Start a daemon, wait until it says that it is ready, and end it."""
    told, tell = os.pipe()
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments), "--ready-fd", str(tell)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=clean_environ(**environ),
        pass_fds=(tell,),
    )
    os.close(tell)
    try:
        with os.fdopen(told) as pipe, selectors.DefaultSelector() as selector:
            selector.register(pipe, selectors.EVENT_READ)
            assert selector.select(PATIENCE_S), "not ready in time"
            where = pipe.readline().strip()
        if not where:
            process.wait(PATIENCE_S)
            raise AssertionError(f"ended: {process.stdout.read()}")
        yield Daemon(process, where)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(PATIENCE_S)
        process.stdout.close()


@contextlib.contextmanager
def node(address: str, host: Host, services: tuple[Service, ...], observed: HostObserved, key: str = ""):
    """Announce a host with services, and stay until the block ends."""
    outbox: queue.Queue = queue.Queue()
    acked = threading.Event()
    metadata = (("x-geniehive-node-key", key),) if key else ()

    def outgoing():
        while (message := outbox.get()) is not None:
            yield message

    def hello():
        return pb.Hello(
            protocol_version=1, host=codec.host_to_pb(host), services=[codec.service_to_pb(one) for one in services]
        )

    def answer(call):
        with contextlib.suppress(grpc.RpcError):
            for message in call:
                if message.HasField("welcome"):
                    session = message.welcome.session_id
                    beat = pb.Heartbeat(sequence=1, host=codec.host_observed_to_pb(observed))
                    beat.services.extend(codec.service_state_to_pb(state_of(one)) for one in services)
                    outbox.put(envelope(session_id=session, heartbeat=beat))
                elif message.HasField("ack"):
                    acked.set()
                elif message.HasField("command"):
                    result = pb.CommandResult(
                        command_id=message.command.command_id, state=pb.COMMAND_RESULT_STATE_SUCCEEDED, message="done"
                    )
                    outbox.put(envelope(session_id=message.session_id, command_result=result))

    def envelope(**fields):
        return pb.NodeMessage(host_id=host.host_id, boot_epoch=1, **fields)

    with grpc.insecure_channel(address) as channel:
        call = node_service_pb2_grpc.NodeServiceStub(channel).Connect(outgoing(), metadata=metadata)
        outbox.put(envelope(hello=hello()))
        reader = threading.Thread(target=answer, args=(call,))
        reader.start()
        try:
            assert acked.wait(PATIENCE_S), "the control plane did not take the heartbeat"
            yield
        finally:
            outbox.put(None)
            call.cancel()
            reader.join(PATIENCE_S)


def state_of(service):
    from geniehive.resources import AssetState, ServiceState

    return ServiceState(
        service_id=service.service_id,
        health=service.health,
        observed=service.observed,
        assets=tuple(AssetState(asset_id=a.asset_id, loaded=a.loaded, vram_bytes=a.vram_bytes) for a in service.assets),
    )
