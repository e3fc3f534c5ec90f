"""Peers of a node agent for its tests: a scripted control plane over real gRPC, and an engine over real HTTP."""

import asyncio
from contextlib import asynccontextmanager

import grpc.aio
from aiohttp import web

from geniehive.v1 import node_service_pb2 as pb
from geniehive.v1 import node_service_pb2_grpc

DEADLINE_S = 30.0


async def eventually(holds, deadline_s=DEADLINE_S):
    """Poll until `holds()` is truthy; what it returned."""
    async with asyncio.timeout(deadline_s):
        while not (found := holds()):
            await asyncio.sleep(0.01)
        return found


class ScriptedControlPlane(node_service_pb2_grpc.NodeServiceServicer):
    """Keeps what nodes say, in `received`, and answers with `answer(message)`, a list of ControlMessages."""

    def __init__(self, answer):
        self.answer = answer
        self.received = []
        self.metadata = []
        self.streams = 0

    async def Connect(self, request_iterator, context):
        self.streams += 1
        self.metadata.append(dict(context.invocation_metadata()))
        async for message in request_iterator:
            self.received.append(message)
            for reply in self.answer(message):
                await context.write(reply)

    def said(self, payload):
        """The messages with this payload, in order."""
        return [message for message in self.received if message.WhichOneof("payload") == payload]


def welcome(session_id="s", interval_ms=100, ttl_ms=15_000):
    message = pb.ControlMessage(session_id=session_id)
    message.welcome.session_id = session_id
    message.welcome.heartbeat_interval_ms = interval_ms
    message.welcome.lease_ttl_ms = ttl_ms
    return message


def ack(message):
    reply = pb.ControlMessage(session_id=message.session_id)
    reply.ack.sequence = message.heartbeat.sequence
    return reply


def reject(reason, words=""):
    reply = pb.ControlMessage()
    reply.reject.reason, reply.reject.message = reason, words
    return reply


def well_behaved(message):
    """Welcome and acks."""
    match message.WhichOneof("payload"):
        case "hello":
            return [welcome()]
        case "heartbeat":
            return [ack(message)]
    return []


@asynccontextmanager
async def serving(servicer, port=0):
    """Serve a NodeService on loopback; its address."""
    server = grpc.aio.server()
    node_service_pb2_grpc.add_NodeServiceServicer_to_server(servicer, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield f"127.0.0.1:{bound}"
    finally:
        await server.stop(0)


@asynccontextmanager
async def http_server(routes, port=0):
    """Serve JSON by path: a value, or a handler; the URL. What is not named is 404."""

    async def answer(request):
        found = routes.get(request.path)
        if found is None:
            return web.Response(status=404)
        return await found(request) if callable(found) else web.json_response(found)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


OPENAI = {"/v1/models": {"object": "list", "data": [{"id": "m", "object": "model", "owned_by": "me"}]}}
