"""A node agent driven by hand: the Connect stream, one message at a time."""

from __future__ import annotations

import queue
import threading
from typing import Any

import grpc

from geniehive import codec
from geniehive.dial import metadata
from geniehive.resources import Health, HealthStatus, Host, Observed, Service, ServiceState
from geniehive.v1 import node_service_pb2 as pb
from geniehive.v1 import node_service_pb2_grpc as rpc

_DEADLINE_S = 30.0  # for a message that has to come


class Stream:
    """One bidirectional call: `send` a message, take the `next` one that came."""

    def __init__(self, method: Any, node_key: str = "") -> None:
        self._out: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._in: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._call = method(iter(self._out.get, None), metadata=metadata(node_key=node_key))
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def send(self, message: Any) -> None:
        """Send one message."""
        self._out.put(message)

    def next(self, kind: str = "") -> Any:
        """The next message, or the next of one kind: the name of its payload. Raises what ended the stream."""
        while True:
            message = self._in.get(timeout=_DEADLINE_S)
            if isinstance(message, BaseException):
                raise message
            if not kind or message.WhichOneof("payload") == kind:
                return message

    def close(self) -> None:
        """End the call."""
        self._out.put(None)
        self._call.cancel()
        self._reader.join(_DEADLINE_S)

    def _read(self) -> None:
        try:
            for message in self._call:
                self._in.put(message)
            self._in.put(EOFError("the other side ended the stream"))
        except grpc.RpcError as error:
            self._in.put(error)


class HandNode:
    """Speaks for one host. Everything is sent when it is said, nothing by itself."""

    def __init__(self, channel: grpc.Channel, host_id: str, services: tuple[Service, ...], boot_epoch: int = 1) -> None:
        self.host = Host(host_id=host_id, boot_epoch=boot_epoch)
        self.services = services
        self.session_id = ""
        self.sequence = 0
        self._stream = Stream(rpc.NodeServiceStub(channel).Connect)

    def hello(self) -> pb.Welcome:
        """Register; what the control plane says to that."""
        hello = pb.Hello(
            protocol_version=1,
            host=codec.host_to_pb(self.host),
            services=[codec.service_to_pb(service) for service in self.services],
        )
        self._say(hello=hello)
        welcome = self._stream.next("welcome").welcome
        self.session_id = welcome.session_id
        return welcome

    def beat(self, **health: Health) -> None:
        """A heartbeat; services not named are healthy. The last part of a service's id names it. Waits for the ack."""
        self.sequence += 1
        states = [
            ServiceState(
                service_id=service.service_id,
                health=health.get(service.service_id.rpartition("/")[2], Health(status=HealthStatus.HEALTHY)),
                observed=Observed(running=self.sequence),
            )
            for service in self.services
        ]
        beat = pb.Heartbeat(sequence=self.sequence, services=[codec.service_state_to_pb(state) for state in states])
        self._say(heartbeat=beat)
        while self._stream.next("ack").ack.sequence != self.sequence:
            pass

    def close(self) -> None:
        """End the stream."""
        self._stream.close()

    def _say(self, **payload: Any) -> None:
        self._stream.send(
            pb.NodeMessage(
                host_id=self.host.host_id, boot_epoch=self.host.boot_epoch, session_id=self.session_id, **payload
            )
        )
