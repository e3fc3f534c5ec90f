"""Which control plane the command line asks where nobody said an address."""

from __future__ import annotations

import msgspec
import pytest

from geniehive.cli.client import target
from geniehive.cli.joins import _join
from geniehive.errors import ConfigError
from geniehive.identity import Kind
from geniehive.membership import Joined


@pytest.fixture
def logged_in(tmp_path, monkeypatch):
    """A user who is logged in to the cluster at hub:8801, in an empty folder."""
    folder = tmp_path / "xdg" / "geniehive" / "operator-identity"
    folder.mkdir(parents=True)
    joined = Joined(addresses=("hub:8801",), kind=Kind.OPERATOR, name="alice", server_name="")
    (folder / "joined.json").write_bytes(msgspec.json.encode(joined))
    (folder / "identity.pem").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "xdg"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def asked(folder, listen: str) -> tuple[str, ...]:
    config = folder / "control.yaml"
    config.write_text(f'control: {{listen: "{listen}", tls: "off"}}\nauth: {{admin_api_keys: [adm]}}\n')
    return target(config, "", "").addresses


@pytest.mark.parametrize(
    ("listen", "dialled"),
    [
        ("127.0.0.1:9801", "127.0.0.1:9801"),
        ("127.0.0.1:8801", "127.0.0.1:8801"),
        ("0.0.0.0:9801", "127.0.0.1:9801"),
        ("[::]:9801", "[::1]:9801"),
        ("[fd00::2]:9801", "[fd00::2]:9801"),
    ],
)
def test_a_config_that_says_where_it_listens_is_asked_not_the_cluster_of_the_login(logged_in, listen, dialled):
    assert asked(logged_in, listen) == (dialled,)


def test_the_login_counts_where_the_config_says_nothing_of_a_control_plane(logged_in, monkeypatch):
    monkeypatch.setattr("geniehive.cli.trust.credentials_for", lambda *_: None)
    assert target(None, "", "").addresses == ("hub:8801",)


def test_where_nothing_can_be_kept_the_join_token_is_not_used(monkeypatch):
    asked = []
    monkeypatch.setattr("geniehive.joining.join", lambda *_: asked.append(1))
    token = f"gh1-{'0' * 64}.abcd.{'s' * 32}"
    with pytest.raises(ConfigError, match="choose another state_dir"):
        _join(Kind.HOST, "/proc/nowhere", "hub:8801", token, ("", "h"), "")
    assert not asked
