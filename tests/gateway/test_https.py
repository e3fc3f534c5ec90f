"""HTTPS: a certificate that is replaced is shown to new connections, one that is damaged is not, old ones stay."""

from __future__ import annotations

import asyncio
import logging
import os
import ssl

import pytest

from gateway.https import Https
from geniehive.config import GatewayConfig
from geniehive.errors import ConfigError
from geniehive.tls import leaf_of
from tests.controlplane.tls_edge import Maker

CA = Maker()


@pytest.fixture
def files(tmp_path):
    key, chain = CA.server("localhost")
    (tmp_path / "cert.pem").write_bytes(chain)
    (tmp_path / "key.pem").write_bytes(key)
    return tmp_path


def https(folder, **more):
    return Https(GatewayConfig(tls_cert_file=str(folder / "cert.pem"), tls_key_file=str(folder / "key.pem")), **more)


def replace(folder, *, key: bytes | None = None, chain: bytes | None = None, at: int) -> None:
    made = CA.server("localhost")
    (folder / "key.pem").write_bytes(made[0] if key is None else key)
    (folder / "cert.pem").write_bytes(made[1] if chain is None else chain)
    for name in ("key.pem", "cert.pem"):
        os.utime(folder / name, (at, at))


async def echoing(context):
    async def echo(reader, writer):
        while data := await reader.read(100):
            writer.write(data)

    server = await asyncio.start_server(echo, "127.0.0.1", 0, ssl=context)
    return server, server.sockets[0].getsockname()[1]


async def connected(port):
    trust = ssl.create_default_context(cadata=CA.pem.decode())
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname="localhost")
    shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    return reader, writer, ssl.DER_cert_to_PEM_cert(shown).encode()


async def test_a_new_certificate_is_for_new_connections_and_disturbs_no_old_one(files):
    found = https(files)
    server, port = await echoing(found.context)
    reader, writer, first = await connected(port)
    replace(files, at=1)
    found.read_again()
    _, other, second = await connected(port)
    assert leaf_of(first) != leaf_of(second)
    assert found.expires_at == leaf_of(second).not_after
    writer.write(b"still here")
    assert await reader.read(100) == b"still here"
    other.close()
    writer.close()
    server.close()


@pytest.mark.parametrize("wrong", [{"key": b"nonsense"}, {"chain": b""}, {"key": CA.server("x")[0]}])
async def test_a_pair_that_does_not_fit_changes_nothing_and_is_told(files, wrong, caplog):
    found = https(files)
    server, port = await echoing(found.context)
    _, writer, first = await connected(port)
    writer.close()
    replace(files, **wrong, at=1)
    found.read_again()
    assert "the certificate is not changed" in caplog.text
    _, writer, second = await connected(port)
    assert first == second
    writer.close()
    server.close()


async def test_a_reload_is_taken_at_once(files, caplog):
    found, reload = https(files), asyncio.Event()
    with caplog.at_level(logging.INFO):
        async with asyncio.TaskGroup() as tasks:
            following = tasks.create_task(found.follow(reload))
            replace(files, at=1)
            reload.set()
            async with asyncio.timeout(20):
                while "new connections get the certificate" not in caplog.text:
                    await asyncio.sleep(0.01)
            following.cancel()


def test_an_end_that_is_near_is_told(files, caplog):
    end = leaf_of((files / "cert.pem").read_bytes()).not_after
    https(files, now=lambda: end - 86400)._warn()
    assert "ends in 1.0 days: put a new one there" in caplog.text


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [("key.pem", b"", "no PEM, or damaged"), ("cert.pem", b"x", "no PEM, or damaged"),
     ("key.pem", CA.server("x")[0], "the key is not the certificate's"), ("cert.pem", None, "No such file")],
)  # fmt: skip
def test_files_that_cannot_be_served_stop_the_gateway(files, name, data, words):
    (files / name).unlink()
    if data is not None:
        (files / name).write_bytes(data)
    with pytest.raises(ConfigError, match=words):
        https(files)
