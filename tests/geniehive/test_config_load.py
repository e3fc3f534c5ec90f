"""Files, variables, origins: what a config comes to, and the one line that a bad one gets."""

from pathlib import Path

import pytest

from geniehive.config import Config
from geniehive.config_load import load_config
from geniehive.errors import ConfigError
from geniehive.resources import Operation

SERVICE = "services:\n  - {service_id: a, kind: chat, endpoint: 'http://127.0.0.1:1', assets: [{asset_id: m}]}\n"


@pytest.fixture
def load(tmp_path):
    def load(text, **environ):
        path = tmp_path / "geniehive.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path, environ)

    return load


@pytest.fixture
def complaint(load, tmp_path):
    def complaint(text, **environ):
        with pytest.raises(ConfigError) as caught:
            load(text, **environ)
        message = caught.value.message
        assert "\n" not in message
        return message.replace(f"{tmp_path}/", "")

    return complaint


def test_no_file_and_no_variables_are_the_defaults():
    loaded = load_config(None, {})
    assert loaded.config == Config()
    assert loaded.origin("gateway.port") == "default"


@pytest.mark.parametrize("text", ["", "# nothing\n", "gateway:\n", "gateway: {}\nservices: []\n"])
def test_an_empty_file_or_section_is_the_defaults(load, text):
    assert load(text).config == Config()


def test_the_design_example_loads(load):
    text = """
gateway:  {host: 127.0.0.1, port: 8800, workers: 1}
control:  {listen: "127.0.0.1:8801"}
control_plane: {address: "127.0.0.1:8801", node_api_key: "k"}
storage:  {url: "sqlite+aiosqlite:///state/geniehive.sqlite3"}
auth:     {client_api_keys: [], node_api_keys: []}
roles_path: roles.yaml
routing:  {default_strategy: scored, health_stale_after_s: 30, probe_interval_s: 0, probe_timeout_s: 5}
node:     {host_id: atlas-01, display_name: Atlas, labels: {}, heartbeat_interval_s: 5}
services:
  - service_id: atlas-01/chat/qwen3-8b
    kind: chat
    endpoint: http://127.0.0.1:18091
    discover_protocol: null
    runtime: {engine: llama.cpp, launcher: external}
    assets: [{asset_id: qwen3-8b-q4km, loaded: true, context_size: 32768, request_policy: {body_defaults: {top_k: 20}}}]
"""
    config = load(text).config
    (service,) = config.services
    assert service.operations == (Operation.CHAT,)
    assert service.discover_protocol is None
    assert service.assets[0].request_policy.body_defaults == {"top_k": 20}
    assert config.node.heartbeat_interval_s == 5


def test_every_value_knows_its_origin(load):
    loaded = load("gateway:\n  host: 127.0.0.1\n  port: 1\n", GENIEHIVE_GATEWAY__PORT="2")
    assert loaded.origin("gateway.host").endswith("geniehive.yaml:2")
    assert loaded.origin("gateway.port") == "GENIEHIVE_GATEWAY__PORT"
    assert loaded.origin("gateway.workers") == "default"


def test_roles_are_looked_for_beside_the_file_that_names_them(load, tmp_path):
    assert load("roles_path: roles.yaml").config.roles_path == str(tmp_path / "roles.yaml")
    assert load("", GENIEHIVE_ROLES_PATH="roles.yaml").config.roles_path == "roles.yaml"


def test_an_endpoint_loses_its_v1_and_its_slash(load):
    text = "services: [{service_id: a, endpoint: 'http://Localhost:11434/v1/'}]"
    assert load(text).config.services[0].endpoint == "http://localhost:11434"


@pytest.mark.parametrize(
    ("more", "protocol"),
    [
        ("", "auto"),
        ("discover_protocol: null", "auto"),
        ("discover_protocol: ollama", "ollama"),
        ("kind: chat, assets: [{asset_id: m}]", None),
        ("kind: chat, discover_protocol: auto, assets: [{asset_id: m}]", "auto"),
        ("manifest: /models.json", "manifest"),
    ],
)
def test_a_service_is_discovered_where_no_models_are_listed(load, more, protocol):
    text = f"services: [{{service_id: a, endpoint: 'http://h:1'{', ' + more if more else ''}}}]"
    assert load(text).config.services[0].discover_protocol == protocol


# --- variables


@pytest.mark.parametrize(
    ("name", "text", "look", "value"),
    [
        ("GATEWAY__PORT", "9000", lambda c: c.gateway.port, 9000),
        ("GATEWAY__HOST", "10.0.0.1", lambda c: c.gateway.host, "10.0.0.1"),
        ("GATEWAY__GATEWAY_ID", "123", lambda c: c.gateway.gateway_id, "123"),
        ("GATEWAY__CONNECT_TIMEOUT_S", "2.5", lambda c: c.gateway.connect_timeout_s, 2.5),
        ("NODE__DISCOVER", "false", lambda c: c.node.discover, False),
        ("NODE__DISCOVER_PORTS", "[1, 2]", lambda c: c.node.discover_ports, (1, 2)),
        ("NODE__LABELS__ROOM", "attic", lambda c: c.node.labels, {"room": "attic"}),
        ("NODE__HEARTBEAT_INTERVAL_S", "1", lambda c: c.node.heartbeat_interval_s, 1),
        ("AUTH__CLIENT_API_KEYS", "one, two", lambda c: c.auth.client_api_keys, ("one", "two")),
        ("AUTH__CLIENT_API_KEYS", "[007, x]", lambda c: c.auth.client_api_keys, ("007", "x")),
        ("AUTH__CLIENT_API_KEYS", "", lambda c: c.auth.client_api_keys, ()),
        ("CONTROL_PLANE__NODE_API_KEY", "s: [", lambda c: c.control_plane.node_api_key, None),
        ("ROUTING__DEFAULT_STRATEGY", "round_robin", lambda c: c.routing.default_strategy, "round_robin"),
        ("SERVICES__0__ENDPOINT", "http://h:2", lambda c: c.services[0].endpoint, "http://h:2"),
        ("SERVICES__0__KIND", "embeddings", lambda c: c.services[0].kind, Operation.EMBEDDINGS),
        ("SERVICES__0__ASSETS__0__CONTEXT_SIZE", "4096", lambda c: c.services[0].assets[0].context_size, 4096),
        ("SERVICES__0__RUNTIME__ENGINE", "vllm", lambda c: c.services[0].runtime.engine, "vllm"),
    ],
)
def test_a_variable_overrides_its_key(load, name, text, look, value):
    if value is None:  # a key with spaces is taken as it stands, and then refused for what it is
        with pytest.raises(ConfigError, match="printable ASCII"):
            load(SERVICE, **{f"GENIEHIVE_{name}": text})
        return
    loaded = load(SERVICE, **{f"GENIEHIVE_{name}": text})
    assert look(loaded.config) == value


def test_a_variable_may_add_a_service(load):
    item = "{service_id: b, endpoint: 'http://h:2', discover_protocol: auto}"
    config = load(SERVICE, GENIEHIVE_SERVICES__1=item).config
    assert [service.service_id for service in config.services] == ["a", "b"]


def test_variables_of_others_are_left_alone(load):
    environ = {"GENIEHIVE_GATEWAY_PORT": "tcp://10.0.0.1:80", "GENIEHIVE_CONFIG": "x", "PATH": "/bin"}
    assert load("", **environ).config == Config()


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("GENIEHIVE_GATEWAY__PROT", "1", "no key gateway.prot; did you mean GENIEHIVE_GATEWAY__PORT?"),
        ("GENIEHIVE_GATWAY__PORT", "1", "did you mean GENIEHIVE_GATEWAY__PORT?"),
        ("GENIEHIVE_GATEWAY__PORT__X", "1", "no key gateway.port.x"),
        ("GENIEHIVE_GATEWAY__PORT", "eight", "gateway.port: expected a whole number from 0 to 65535"),
        ("GENIEHIVE_GATEWAY__PORT", "[1", "gateway.port: expected a whole number"),
        ("GENIEHIVE_SERVICES__7__ENDPOINT", "http://h", "there are only 1 items"),
        ("GENIEHIVE_CONTROL__LISTEN", "8801", "expected host:port"),
    ],
)
def test_a_wrong_variable_is_named(complaint, name, text, words):
    message = complaint(SERVICE, **{name: text})
    assert message.startswith(f"{name}: ")
    assert words in message


# --- what is refused, in one line that names file, line, key and fix


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gateway:\n  prot: 1", "geniehive.yaml:2: gateway.prot: unknown key; did you mean gateway.port?"),
        ("gatewy: {}", "geniehive.yaml:1: gatewy: unknown key; did you mean gateway?"),
        ("listen: 'x:1'", "geniehive.yaml:1: listen: unknown key; did you mean control.listen?"),
        ("node: {zzz: 1}", "geniehive.yaml:1: node.zzz: unknown key; known here: address, device_class"),
        (
            "services:\n  - service_id: a\n    endpont: x",
            "geniehive.yaml:3: services[0].endpont: unknown key; did you mean services[0].endpoint?",
        ),
        (
            "services:\n  - service_id: a\n    endpoint: http://h\n    assets:\n      - {asset_id: m, contextsize: 1}",
            "services[0].assets[0].contextsize: unknown key; did you mean services[0].assets[0].context_size?",
        ),
        ("gateway:\n  port: 99999", "yaml:2: gateway.port: expected a whole number from 0 to 65535, got 99999"),
        ("gateway: {port: yes}", "geniehive.yaml:1: gateway.port: expected a whole number from 0 to 65535, got true"),
        ("gateway: 5", "geniehive.yaml:1: gateway: expected keys and values, got 5"),
        ("- a", "geniehive.yaml:1: expected keys and values, got a list"),
        ("services: {}", "geniehive.yaml:1: services: expected a list, got keys and values"),
        ("gateway: {host: 5}", "geniehive.yaml:1: gateway.host: expected a string, got 5 (put it in quotes)"),
        ("gateway: {connect_timeout_s: 0}", "expected a number greater than 0, got 0"),
        ("gateway: {connect_timeout_s: .inf}", "expected a number greater than 0, and a finite one"),
        ("services: [{service_id: a, kind: chet}]", "services[0].kind: expected one of chat, completion"),
        ("services: [{kind: chat}]", "geniehive.yaml:1: services[0]: service_id is missing"),
        ("gateway: {port: 1}\ngateway: {port: 2}", "geniehive.yaml:2: gateway: given twice (first in line 1)"),
        ("a: [b", "geniehive.yaml:1:6: not valid YAML: expected ',' or ']'"),
        ("a: 1\n\tb: 2", "geniehive.yaml:2:1: not valid YAML: found character '\\t'"),
        ("a: b: c", "geniehive.yaml:1:5: not valid YAML: mapping values are not allowed here"),
        ("a: !!python/object:os.system x", "geniehive.yaml:1:4: not valid YAML"),
        ("a: *b", "not valid YAML: found undefined alias"),
        ("a: &a [*a]", "nested deeper than 64 levels"),
        ("[" * 5000, "nested too deeply"),
        ("{{a}: b}: c", "a key must be a word"),
        ("a: 1\n---\nb: 2", "not valid YAML"),
    ],
)  # fmt: skip
def test_a_bad_file_gets_one_line(complaint, text, message):
    assert message in complaint(text)


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: no such file"):
        load_config(tmp_path / "none.yaml", {})
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_config(tmp_path, {})
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not a text file in UTF-8"):
        load_config(tmp_path / "bytes.yaml", {})


def test_messages_never_show_a_secret(complaint):
    assert "hunter2" not in complaint("auth: {client_api_keys: hunter2}")
    assert "hunter2" not in complaint("auth: {client_api_keys: ['hunter2 x']}")
    assert "hunter2" not in complaint("services: [{service_id: a, endpoint: 'http://u:hunter2@h'}]")
    assert "hunter2" not in complaint("", GENIEHIVE_GATEWAY__PORT="hunter2")


@pytest.mark.parametrize("path", sorted(Path("examples").glob("*.yaml")), ids=lambda path: path.name)
def test_the_examples_fit_the_schema(path):
    from geniehive.roles_file import load_roles

    if path.name.startswith("roles"):
        assert len(load_roles(path)) >= 6
    else:
        config = load_config(path, {}).config
        assert not config.roles_path or Path(config.roles_path).exists()


def test_there_are_examples_for_each_daemon():
    names = {path.stem for path in Path("examples").glob("*.yaml")}
    assert names >= {"single", "control", "gateway", "node-ollama", "node-vllm", "node-whisper", "roles"}
