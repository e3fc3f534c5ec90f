"""Join and mTLS with real daemons: two pasted commands, what is refused, grpcurl, and certificates that rotate."""

from __future__ import annotations

import asyncio
import json
import re
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest
from aiohttp import web

from tests.controlplane.tls_edge import Maker
from tests.integration.daemons import Daemon, clean_environ, cli, complaint, eventually, geniehive
from tests.integration.hub import Hub, running_hub
from tests.integration.upstreams import serving
from tests.ports import free_run

EVENTS = 120
PAUSE_S = 0.1
STREAMS = 12
MODEL = "slow-talker"


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A control plane with a joined host, atlas, and a joined gateway, front."""
    with running_hub(tmp_path_factory.mktemp("mtls")) as found:
        found.join_node("atlas")
        yield found


@pytest.fixture(scope="module")
def grpcurl(require_tool: Callable[[str], str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    program = require_tool("grpcurl")

    def call(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [program, "-max-time", "20", *arguments], env=clean_environ(), capture_output=True, text=True, timeout=30,
            check=False,
        )  # fmt: skip

    return call


def test_two_pasted_commands_join_a_host_over_mtls(hub: Hub) -> None:
    """`geniehive token create --join` there, its line here; `geniehive nodes` then shows the host."""
    eventually(lambda: hub.hosts() == {"atlas": "up"}, logs=hub.tails)
    log = hub.daemons["atlas"].log()
    assert f"joined {hub.address} as host atlas" in log
    cmdline = Path(f"/proc/{hub.daemons['atlas'].pid}/cmdline").read_bytes()
    assert b"gh1-" not in cmdline
    assert (hub.folder / "atlas/state/node-identity/identity.pem").stat().st_mode & 0o777 == 0o600


def test_a_joined_host_starts_again_without_a_token(hub: Hub) -> None:
    daemon = hub.daemons["atlas"]
    daemon.terminate()
    assert daemon.wait() == 0
    daemon.argv = [*daemon.argv[:4], "node", "--config", "config.yaml"]
    daemon.start()
    eventually(lambda: daemon.log().count("connected to the control plane") >= 2, logs=hub.tails)


@pytest.mark.parametrize("trouble", ["used", "expired", "another CA", "nobody there", "joined already"])
def test_each_way_to_fail_is_one_clear_line(hub: Hub, trouble: str, tmp_path: Path) -> None:
    words = hub.line("--ttl", "1s" if trouble == "expired" else "1h")
    if trouble == "used":
        hub.ask(*words, "--host-id", "used-once", "--no-start", host="used-once")
    elif trouble == "expired":
        over = time.time() + 1.1
        eventually(lambda: time.time() > over)
    elif trouble == "another CA":
        words[-1] = f"gh1-{'0' * 64}{words[-1][68:]}"
    elif trouble == "nobody there":
        words[-2] = "127.0.0.1:9"
    host = "atlas" if trouble == "joined already" else f"fails-{trouble.partition(' ')[0]}"
    done = hub.tell(*words, "--no-start", host=host)
    said = complaint(done.stderr)
    expected = {
        "used": (4, "this join token was used already, by used-once: each works once"),
        "expired": (4, "this join token has expired"),
        "another CA": (4, "its CA is another one; nothing was sent to it"),
        "nobody there": (3, "cannot reach the control plane at 127.0.0.1:9"),
        "joined already": (1, "has joined"),
    }[trouble]
    assert (done.returncode, expected[1] in said) == (expected[0], True), said
    assert not (hub.folder / host / "state/node-identity/identity.pem").exists() or trouble == "joined already"


def test_a_person_logs_in_and_sees_what_the_scope_allows(hub: Hub) -> None:
    hub.ask(*hub.line("--kind", "operator", "--name", "alice"), host="laptop")
    assert "atlas" in hub.ask("nodes", host="laptop")
    done = hub.tell("token", "create", "--join", host="laptop")
    assert done.returncode == 4
    assert "operator alice may not do this" in complaint(done.stderr)


def test_without_a_certificate_the_command_line_says_how_to_get_one(hub: Hub) -> None:
    done = hub.tell("nodes", "--control", hub.address, host="stranger")
    assert done.returncode == 3
    assert "geniehive login" in complaint(done.stderr)


def test_grpcurl_works_with_certificates(hub: Hub, grpcurl: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    hub.ask(*hub.line("--kind", "admin", "--name", "root"), host="desk")
    identity = hub.folder / "desk/.local/state/geniehive/operator-identity"
    files = ("-cacert", f"{identity}/ca.pem", "-cert", f"{identity}/identity.pem", "-key", f"{identity}/identity.pem")
    done = grpcurl(*files, hub.address, "geniehive.v1.ClusterService/ListHosts")
    assert done.returncode == 0, done.stderr
    assert "atlas" in done.stdout
    node = hub.folder / "atlas/state/node-identity"
    files = ("-cacert", f"{node}/ca.pem", "-cert", f"{node}/identity.pem", "-key", f"{node}/identity.pem")
    done = grpcurl(*files, "-d", '{"host_id": "atlas"}', hub.address, "geniehive.v1.ClusterService/DrainHost")
    assert "PermissionDenied" in done.stderr
    assert "host atlas may not do this" in done.stderr
    done = grpcurl("-cacert", f"{node}/ca.pem", hub.address, "list")
    assert done.returncode != 0


def test_a_host_waits_for_approval_where_that_is_asked_for(tmp_path: Path) -> None:
    with running_hub(tmp_path, join_approval=True) as hub:
        daemon = hub.paste("atlas", hub.line(), {"node": {"host_id": "atlas", "discover": False, "status_port": 0}})
        eventually(lambda: "atlas waits for approval" in daemon.log(), logs=hub.tails)
        assert "pending" in hub.ask("nodes", "members")
        assert hub.hosts() == {}
        hub.ask("nodes", "approve", "atlas")
        eventually(lambda: hub.hosts() == {"atlas": "up"}, logs=hub.tails)


def test_up_can_be_joined_too(tmp_path: Path) -> None:
    """Its own gateway and node agent join by themselves; the line for others needs no config."""
    first = free_run(3)
    config = {
        "control": {"listen": f"0.0.0.0:{first + 1}"},
        "gateway": {"port": first},
        "node": {"status_port": first + 2, "host_id": "me", "discover": False},
    }
    (tmp_path / "up.yaml").write_text(json.dumps(config))
    environ = clean_environ(HOME=str(tmp_path))
    up = Daemon(
        argv=cli("up", "--config", "up.yaml", "--no-engine"),
        log_path=tmp_path / "up.log",
        cwd=tmp_path,
        environ=environ,
    ).start()
    try:
        eventually(lambda: "is up." in up.log(), logs=up.tail, within=60)
        hosts = httpx.get(f"http://127.0.0.1:{first}/v1/cluster/hosts", trust_env=False).json()["data"]
        assert [(host["host_id"], host["lease"]) for host in hosts] == [("me", "up")]
        done = geniehive("token", "create", "--join", cwd=tmp_path, environ=environ)
        assert re.fullmatch(rf"geniehive node join [0-9a-z.:-]+:{first + 1} gh1-\S+\n", done.stdout), done.stderr
        up.terminate()
        assert up.wait() == 0
    finally:
        up.kill()


# --- rotation ---


async def models(_request: web.Request) -> web.Response:
    return web.json_response({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "x"}]})


async def talk(request: web.Request) -> web.StreamResponse:
    """A stream of EVENTS words, one every PAUSE_S; or one word at once."""
    if not (await request.json()).get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "yes"}, "finish_reason": "stop"}
        return web.json_response({"id": "x", "object": "chat.completion", "model": MODEL, "choices": [choice]})
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for number in range(EVENTS):
        last = number == EVENTS - 1
        choice = {"index": 0, "delta": {"content": f"{number} "}, "finish_reason": "stop" if last else None}
        chunk = {"id": "x", "object": "chat.completion.chunk", "model": MODEL, "choices": [choice]}
        await answer.write(f"data: {json.dumps(chunk)}\n\n".encode())
        await asyncio.sleep(PAUSE_S)
    await answer.write(b"data: [DONE]\n\n")
    return answer


def body(*, stream: bool) -> dict[str, object]:
    return {"model": MODEL, "messages": [{"role": "user", "content": "hi"}], "stream": stream}


async def one_stream(http: httpx.AsyncClient) -> str:
    """The words of a whole stream."""
    words = []
    async with http.stream("POST", "/v1/chat/completions", json=body(stream=True)) as answer:
        assert answer.status_code == 200, await answer.aread()
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                words.append(json.loads(line[6:])["choices"][0]["delta"]["content"])
            last = line or ""
            if last == "data: [DONE]":
                return "".join(words)
    raise AssertionError("the stream ended without [DONE]")


def expiry(url: str, name: str, verify: ssl.SSLContext | bool = True) -> float:
    """The end of a certificate as the metrics have it."""
    text = httpx.get(f"{url}/metrics", trust_env=False, verify=verify).text
    return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(name))


def metric(url: str, name: str) -> float:
    return expiry(url, name)


class Replacing:
    """Puts a new certificate of the gateway's HTTPS in place, again and again, as certbot would now and then."""

    def __init__(self, folder: Path, ca: Maker) -> None:
        self.path = folder / "front.pem"
        self._ca = ca
        self._stop = threading.Event()
        self.count = 0
        self.replace()

    def replace(self) -> None:
        key, chain = self._ca.server("localhost", "127.0.0.1")
        temporary = self.path.with_suffix(".new")
        temporary.write_bytes(key + chain)
        temporary.replace(self.path)
        self.count += 1

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(1.0):
            self.replace()


async def load(url: str, trust: ssl.SSLContext) -> tuple[list[str], int]:
    """STREAMS whole streams, and short requests on connections of their own meanwhile."""
    async with httpx.AsyncClient(base_url=url, verify=trust, trust_env=False, timeout=30) as http:
        streams = [asyncio.create_task(one_stream(http)) for _ in range(STREAMS)]
        short = 0
        while not all(stream.done() for stream in streams):
            async with httpx.AsyncClient(base_url=url, verify=trust, trust_env=False, timeout=30) as fresh:
                answer = await fresh.post("/v1/chat/completions", json=body(stream=False))
            assert answer.status_code == 200, answer.text
            short += 1
        return [await stream for stream in streams], short


def test_certificates_rotate_under_streams_and_nothing_is_lost(tmp_path: Path) -> None:
    """Certificates are renewed every 5 s, and HTTPS gets another one each second, while streams of 12 s run."""
    ca, names = Maker(), ("geniehive_node_certificate_expiry", "geniehive_gateway_certificate_expiry")
    trust = ssl.create_default_context(cadata=ca.pem.decode())
    routes = {("GET", "/v1/models"): models, ("POST", "/v1/chat/completions"): talk}
    with serving(routes) as engine, running_hub(tmp_path, certificate_ttl_s=10) as hub:
        service = {"service_id": "atlas/chat", "endpoint": engine, "kind": "chat", "discover_protocol": "openai"}
        replacing = Replacing(tmp_path, ca)
        status = hub.join_node("atlas", [service])
        front = hub.join_gateway("front", tls_cert_file=str(replacing.path))
        url, node = f"https://127.0.0.1:{front}", f"http://127.0.0.1:{status}"
        with httpx.Client(base_url=url, verify=trust, trust_env=False) as http:
            eventually(lambda: MODEL in http.get("/v1/models").text, logs=hub.tails)
        before = (expiry(node, names[0]), expiry(url, names[1], trust))
        shown = ssl.get_server_certificate(("127.0.0.1", front))
        with replacing:
            streams, short = asyncio.run(load(url, trust))
        assert streams == ["".join(f"{number} " for number in range(EVENTS))] * STREAMS
        assert short > 5
        after = (expiry(node, names[0]), expiry(url, names[1], trust))
        assert all(new >= old + 8 for old, new in zip(before, after, strict=True)), (before, after)
        assert replacing.count > 4
        assert ssl.get_server_certificate(("127.0.0.1", front)) != shown
        assert metric(node, "geniehive_node_reconnects") == 0  # the stream of the node is still its first
        hub.daemons["hub"].kill()  # whoever dials now shows a certificate that was not there at the start
        hub.start()
        eventually(lambda: hub.hosts() == {"atlas": "up"}, logs=hub.tails)
        log = hub.daemons["hub"].log()
        assert "refused" not in log, log


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_https_takes_no_old_tls(https_gateway: int, version: ssl.TLSVersion) -> None:
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    old.minimum_version = old.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionResetError)), raw(https_gateway, old):
        pass


def test_https_takes_tls_1_2_with_forward_secrecy_alone(https_gateway: int) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with raw(https_gateway, context) as tls:
        cipher = tls.cipher()
        assert cipher is not None
        assert cipher[0].startswith("ECDHE-")
    context.set_ciphers("AES128-GCM-SHA256:AES256-SHA:AES128-SHA:ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA")
    with pytest.raises((ssl.SSLError, ConnectionResetError)), raw(https_gateway, context):
        pass


def test_plain_http_at_the_https_port_gets_no_answer(https_gateway: int) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://127.0.0.1:{https_gateway}/healthz", trust_env=False)


@pytest.fixture(scope="module")
def https_gateway(hub: Hub) -> int:
    """A gateway with HTTPS; its port."""
    ca = Maker()
    key, chain = ca.server("localhost", "127.0.0.1")
    (hub.folder / "https.pem").write_bytes(chain)
    (hub.folder / "https.key").write_bytes(key)
    files = {"tls_cert_file": str(hub.folder / "https.pem"), "tls_key_file": str(hub.folder / "https.key")}
    port = hub.join_gateway("front", **files)
    trust = ssl.create_default_context(cadata=ca.pem.decode())
    eventually(lambda: httpx.get(f"https://localhost:{port}/healthz", verify=trust, trust_env=False).is_success)
    return port


def raw(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    import socket

    return context.wrap_socket(socket.create_connection(("127.0.0.1", port)), server_hostname="localhost")
