"""The role file while the control plane runs: read again when it changes, refused when it is no good."""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import asynccontextmanager

import pytest

from controlplane import roles as module
from controlplane.events import RolesLoaded, RolesRefused
from controlplane.roles import RoleCatalogue
from geniehive.errors import StoreError
from geniehive.v1 import cluster_service_pb2 as pb
from geniehive.v1 import routing_service_pb2, routing_service_pb2_grpc
from tests.controlplane.edge import DEADLINE_S, config_for, running, until

CODER = "roles: [{role_id: coder, description: writes programs}]"
AUTHOR = "roles: [{role_id: author}, {role_id: coder, description: writes programs}]"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(module, "LOOK_S", 0.02)


class Loop:
    """Keeps what it is told; `broken` makes the store fail."""

    def __init__(self):
        self.told, self.broken = [], False
        self.moved = asyncio.Event()

    def post(self, event):
        self.told.append(event)
        self.moved.set()

    async def ask(self, event):
        if self.broken:
            raise StoreError("disk full")
        self.post(event)
        return 1

    async def next(self):
        """What was told last, once something was told."""
        async with asyncio.timeout(DEADLINE_S):
            await self.moved.wait()
        self.moved.clear()
        return self.told[-1]


@asynccontextmanager
async def followed(path):
    """A catalogue that follows its file."""
    loop, reload, catalogue = Loop(), asyncio.Event(), RoleCatalogue(str(path))
    await catalogue.read()
    task = asyncio.create_task(catalogue.follow(loop, reload))
    try:
        yield loop, reload
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def looks(count=4):
    """Time for some looks at the file."""
    await asyncio.sleep(module.LOOK_S * count)


def ids(event):
    assert isinstance(event, RolesLoaded), event
    return [role.role_id for role in event.roles]


async def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text(CODER)
    async with followed(path) as (loop, _):
        await looks()
        assert loop.told == []
        path.write_text(AUTHOR)
        assert ids(await loop.next()) == ["author", "coder"]
        await looks()
        assert len(loop.told) == 1


async def test_a_file_put_in_its_place_with_the_same_time_and_size_is_seen(tmp_path):
    path, other = tmp_path / "roles.yaml", tmp_path / "new.yaml"
    path.write_text(CODER)
    other.write_text(CODER.replace("coder", "coda2"))
    was = path.stat()
    os.utime(other, ns=(was.st_mtime_ns, was.st_mtime_ns))
    async with followed(path) as (loop, _):
        other.replace(path)
        assert ids(await loop.next()) == ["coda2"]


async def test_a_bad_file_is_refused_once_and_a_good_one_is_taken_after_it(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text(CODER)
    async with followed(path) as (loop, _):
        path.write_text("roles: [{role_id: a, routing_policy: {fallback_roles: [a]}}]")
        refused = await loop.next()
        assert isinstance(refused, RolesRefused)
        assert "a → a" in refused.reason
        assert "\n" not in refused.reason
        await looks()
        assert len(loop.told) == 1
        path.write_text(CODER)
        assert ids(await loop.next()) == ["coder"]


async def test_a_file_that_is_gone_is_said_once(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text(CODER)
    async with followed(path) as (loop, _):
        path.unlink()
        assert "no such file" in (await loop.next()).reason
        await looks()
        assert len(loop.told) == 1
        path.write_text(AUTHOR)
        assert ids(await loop.next()) == ["author", "coder"]


async def test_who_asks_is_always_answered(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text(CODER)
    async with followed(path) as (loop, reload):
        reload.set()
        assert ids(await loop.next()) == ["coder"]
        path.write_text("roles: 7")
        assert isinstance(await loop.next(), RolesRefused)
        reload.set()
        assert isinstance(await loop.next(), RolesRefused)


async def test_what_cannot_be_stored_is_tried_again(tmp_path):
    path = tmp_path / "roles.yaml"
    path.write_text(CODER)
    async with followed(path) as (loop, _):
        loop.broken = True
        path.write_text(AUTHOR)
        assert "disk full" in (await loop.next()).reason
        await looks()
        assert len(loop.told) == 1
        loop.broken = False
        assert ids(await loop.next()) == ["author", "coder"]


async def test_without_a_file_a_reload_says_so(caplog):
    task = asyncio.create_task(RoleCatalogue("").follow(Loop(), asked := asyncio.Event()))
    asked.set()
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(DEADLINE_S):
            while not caplog.messages:
                await asyncio.sleep(0.005)
    assert "roles_path is not set" in caplog.text
    task.cancel()


async def test_gateways_hear_of_new_roles_at_once_and_operators_of_bad_ones(tmp_path, caplog):
    path = tmp_path / "roles.yaml"
    path.write_text(CODER)
    async with running(config_for(tmp_path, roles_path=str(path))) as control:
        events = control.cluster.WatchEvents(pb.WatchEventsRequest())
        await events.initial_metadata()
        stub = routing_service_pb2_grpc.RoutingServiceStub(control.channel)
        watch = stub.Watch()
        hello = routing_service_pb2.GatewayHello(protocol_version=1)
        await watch.write(routing_service_pb2.GatewayMessage(gateway_id="g", hello=hello))

        async def update(has):
            async with asyncio.timeout(DEADLINE_S):
                while not has(found := await watch.read()):
                    pass
                return found

        async def happened(kind):
            async with asyncio.timeout(DEADLINE_S):
                while (found := await events.read()).kind != kind:
                    pass
                return found

        await update(lambda found: [role.role_id for role in found.snapshot.roles] == ["coder"])
        path.write_text(AUTHOR)
        await update(lambda found: [role.role_id for role in found.delta.roles] == ["author"])
        await happened("roles.changed")
        path.write_text("roles: [{role_id: ''}]")
        refused = await happened("roles.refused")
        assert f"{path}:1" in refused.message
        said = [record for record in caplog.records if record.message.startswith("roles.refused")]
        assert [record.levelno for record in said] == [logging.ERROR]

        async def kept():
            return [role.role_id for role in (await control.cluster.ListRoles(pb.ListRolesRequest())).roles]

        assert await kept() == ["author", "coder"]
        path.write_text("roles: []")
        await update(lambda found: sorted(found.delta.removed_role_ids) == ["author", "coder"])
        await until(lambda: _empty(kept))


async def _empty(ask):
    return not await ask()
