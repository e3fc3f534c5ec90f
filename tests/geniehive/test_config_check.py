"""What the types cannot say about a config."""

import msgspec
import pytest

from geniehive.config import AuthConfig, Config, ControlConfig, GatewayConfig
from geniehive.config_check import check_exposure, is_loopback, normalize_endpoint, parse_address
from geniehive.config_load import load_config
from geniehive.errors import ConfigError


def config_of(tmp_path, text):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(path, {}).config


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("control: {listen: '8801'}", "expected host:port"),
        ("control: {listen: 'grpc://h:1'}", "without a scheme"),
        ("control: {listen: '::1:8801'}", "needs brackets"),
        ("control: {lease_ttl_s: 5}", "must be longer than heartbeat_interval_s"),
        ("control_plane: {address: ''}", "is empty; name the control plane"),
        ("control_plane: {addresses: ['a:1', b]}", 'got "b"'),
        ("node: {host_id: 'a b'}", "letters, digits"),
        ("node: {address: 'http://h'}", "without scheme and port"),
        ("node: {address: 169.254.1.1}", "not an address of an engine"),
        ("auth: {node_api_keys: ['']}", "not empty"),
        ("auth: {node_api_keys: ['a b']}", "without spaces"),
        ("services: [{service_id: a, endpoint: 'http://h'}, {service_id: a, endpoint: 'http://h'}]", "given twice"),
        ("services: [{service_id: 'a b', endpoint: 'http://h'}]", "use letters"),
        ("services: [{service_id: a}]", "endpoint is missing"),
        ("services: [{service_id: a, endpoint: 'http://h', assets: [{asset_id: m}]}]", "kind is missing"),
        ("services: [{service_id: a, kind: chat, kinds: [chat], endpoint: 'http://h'}]", "not both"),
        ("services: [{service_id: a, kind: chat, endpoint: 'http://h', assets: [{asset_id: m}, {asset_id: m}]}]", "m"),
        ("services: [{service_id: a, endpoint: 'http://h', runtime: {launcher: managed}}]", "needs a command"),
        ("services: [{service_id: a, runtime: {launcher: managed, command: [x]}}]", "endpoint is missing"),
        ("services: [{service_id: a, endpoint: 'http://h', runtime: {command: [x]}}]", "launcher: managed"),
    ],
)  # fmt: skip
def test_nonsense_is_refused_with_the_fix(tmp_path, text, words):
    with pytest.raises(ConfigError) as caught:
        config_of(tmp_path, text)
    assert words in caught.value.message
    assert "\n" not in caught.value.message


def test_the_embedded_engine_needs_neither_command_nor_endpoint(tmp_path):
    text = "services: [{service_id: a, runtime: {engine: llama.cpp, launcher: managed}}]"
    assert config_of(tmp_path, text).services[0].discover_protocol == "auto"


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://h", "expected http"),
        ("file:///etc/passwd", "expected http"),
        ("h:80", "expected http"),
        ("http://", "expected http"),
        ("http://u:p@h", "user or password"),
        ("http://h:99999", "not a URL"),
        ("http://h/?a=b", r"must not have a \?"),
        ("http://h/ x", "spaces"),
        ("http://169.254.169.254", "not an address of an engine"),
        ("http://[fe80::1]", "not an address of an engine"),
        ("http://0.0.0.0:80", "not an address of an engine"),
        ("http://224.0.0.1", "not an address of an engine"),
        ("http://2130706433", "odd way"),
        ("http://0x7f.0.0.1", "odd way"),
        ("http://127.1", "odd way"),
        ("http://h.0x10", "odd way"),
    ],
)
def test_odd_endpoints_are_refused(url, words):
    with pytest.raises(ValueError, match=words):
        normalize_endpoint(url)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
        ("https://Engine.Example/v1", "https://engine.example"),
        ("http://[::1]:8080/v1/", "http://[::1]:8080"),
        ("http://h:1/proxy/llm/v1", "http://h:1/proxy/llm"),
        ("http://box-01.lan:8000", "http://box-01.lan:8000"),
    ],
)
def test_good_endpoints_are_normalised(url, kept):
    assert normalize_endpoint(url) == kept


def test_addresses_are_split():
    assert parse_address("127.0.0.1:8801") == ("127.0.0.1", 8801)
    assert parse_address("[::1]:8801") == ("::1", 8801)
    assert parse_address(":8801") == ("", 8801)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.0.0.1", True), ("127.8.8.8", True), ("::1", True), ("[::1]", True), ("localhost", True), ("0.0.0.0", False),
     ("", False), ("::", False), ("192.168.1.2", False), ("box.example", False), ("127.0.0.1.example", False)],
)  # fmt: skip
def test_loopback_is_what_only_this_machine_reaches(host, loopback):
    assert is_loopback(host) is loopback


KEYS = AuthConfig(client_api_keys=("c",), node_api_keys=("n",), admin_api_keys=("a",))
OPEN_GATEWAY = Config(gateway=GatewayConfig(host="0.0.0.0"))
PLAIN_CONTROL = Config(control=ControlConfig(listen="0.0.0.0:8801", tls="off"))


def test_a_gateway_beyond_loopback_without_keys_is_refused_unless_insisted():
    with pytest.raises(ConfigError, match=r"auth.client_api_keys is empty: set a key.*--insecure"):
        check_exposure(OPEN_GATEWAY, insecure=False)
    check_exposure(OPEN_GATEWAY, insecure=True)
    check_exposure(msgspec.structs.replace(OPEN_GATEWAY, auth=KEYS), insecure=False)
    check_exposure(OPEN_GATEWAY, insecure=False, gateway=False)


def test_a_control_plane_beyond_loopback_without_tls_is_refused_unless_insisted():
    for auth in (AuthConfig(), KEYS):
        config = msgspec.structs.replace(PLAIN_CONTROL, auth=auth)
        with pytest.raises(ConfigError, match=r"control.tls is off: let it be on.*--insecure"):
            check_exposure(config, insecure=False)
        check_exposure(config, insecure=True)
        check_exposure(config, insecure=False, control=False)
    for tls in ("auto", "on"):
        check_exposure(Config(control=ControlConfig(listen="0.0.0.0:8801", tls=tls)), insecure=False)


@pytest.mark.parametrize(
    ("section", "key", "other"),
    [("control", "tls_cert_file", "ca_cert_file"), ("control", "ca_key_file", "ca_cert_file"),
     ("control_plane", "cert_file", "ca_file"), ("gateway", "tls_key_file", "tls_cert_file")],
)  # fmt: skip
def test_a_file_of_tls_that_is_no_use_alone_is_refused(tmp_path, section, key, other):
    path = tmp_path / "config.yaml"
    path.write_text(f"{section}: {{{key}: some.pem}}")
    with pytest.raises(ConfigError, match=rf"{section}.{key}: needs {section}.{other} as well"):
        load_config(path, {})


def test_loopback_needs_no_keys():
    check_exposure(Config(), insecure=False)


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("/tmp/x", "sqlite+aiosqlite:///state"),
        ("sqlite:///x.db", "write sqlite+aiosqlite://"),
        ("postgres://u:secret@h/g", "write postgresql+asyncpg://"),
        ("mysql://u:secret@h/g", "sqlite+aiosqlite:///state"),
        ("postgresql+asyncpg://", "postgresql+asyncpg://"),
    ],
)
def test_a_storage_url_that_the_store_cannot_open_is_refused_without_its_password(tmp_path, url, words):
    with pytest.raises(ConfigError) as raised:
        config_of(tmp_path, f"storage: {{url: '{url}'}}")
    assert "storage.url" in raised.value.message
    assert words in raised.value.message
    assert "secret" not in raised.value.message


@pytest.mark.parametrize("url", ["sqlite+aiosqlite:///x.db", "sqlite+aiosqlite://", "postgresql+asyncpg://u@h/g"])
def test_a_storage_url_that_is_good_is_kept(tmp_path, url):
    assert config_of(tmp_path, f"storage: {{url: '{url}'}}").storage.url == url


def test_no_machine_runs_a_thousand_workers(tmp_path):
    with pytest.raises(ConfigError, match="from 1 to 256, got 1000"):
        config_of(tmp_path, "gateway: {workers: 1000}")


def test_a_number_that_yaml_takes_for_a_word_comes_with_how_to_write_it(tmp_path):
    with pytest.raises(ConfigError, match=r"write 1\.0e\+300"):
        config_of(tmp_path, "control: {lease_ttl_s: 1e300}")
