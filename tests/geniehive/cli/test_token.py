"""`geniehive token` and `geniehive audit`, against a real control plane."""

import json
import re
import time

import pytest
import yaml

from geniehive.cli.token import parse_expiry
from geniehive.errors import InvalidRequest
from tests.geniehive.cli.harness import daemon, geniehive


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cluster")
    config = folder / "control.yaml"
    config.write_text(
        f"control: {{listen: '127.0.0.1:0'}}\n"
        f"storage: {{url: 'sqlite+aiosqlite:///{folder}/db.sqlite3'}}\n"
        f"auth: {{node_api_keys: [node-key], admin_api_keys: [admin-key], client_api_keys: [client-key]}}\n"
    )
    with daemon("control", "--config", config) as control:
        yield {"GENIEHIVE_CONFIG": str(config), "GENIEHIVE_CONTROL_PLANE__ADDRESS": control.where}


def test_the_secret_is_alone_on_standard_output_and_works(cluster):
    made = geniehive("token", "create", "ops", "--scope", "operator", "--expires", "30d", **cluster)
    assert made.returncode == 0, made.stderr
    secret = made.stdout.strip()
    assert re.fullmatch(r"gh_[0-9a-f]{48}", secret)
    assert "token ops (operator, until " in made.stderr
    assert "it is not shown again" in made.stderr
    listed = geniehive("token", "list", **cluster)
    assert secret not in listed.stdout
    assert re.search(r"^ops +ok +operator ", listed.stdout, re.MULTILINE)
    assert geniehive("nodes", **cluster, GENIEHIVE_API_KEY=secret).returncode == 0
    refused = geniehive("token", "list", **cluster, GENIEHIVE_API_KEY=secret)
    assert refused.returncode == 4
    assert "scope admin" in refused.stderr
    assert geniehive("token", "revoke", "ops", **cluster).stdout == "ops: revoked\n"
    gone = geniehive("audit", **cluster, GENIEHIVE_API_KEY=secret)
    assert gone.returncode == 4
    assert len(gone.stderr.splitlines()) == 1
    assert re.search(r"^ops +revoked ", geniehive("token", "list", "--all", **cluster).stdout, re.MULTILINE)


def test_limits_are_given_one_by_one_and_documents_have_every_field(cluster):
    made = geniehive(
        *("token", "create", "limited", "--model", "a", "--model", "b", "--role", "r", "--operation", "chat"),
        *("--priority", "batch", "--max-concurrency", "3", "-o", "json"),
        **cluster,
    )
    document = json.loads(made.stdout)
    key = document["key"]
    assert document["secret"].startswith("gh_")
    assert (key["scopes"], key["models"], key["operations"]) == (["inference"], ["a", "b", "r"], ["chat"])
    assert (key["priority"], key["max_concurrency"], key["expires_at"]) == ("batch", 3, None)
    assert key["created_by"] == "admin-1"
    assert "secret_sha256" not in key
    listed = yaml.safe_load(geniehive("token", "list", "-o", "yaml", **cluster).stdout)
    assert [one["name"] for one in listed] == ["limited"]
    assert "CONCURRENCY" in geniehive("token", "list", "-o", "wide", **cluster).stdout


@pytest.mark.parametrize(
    ("arguments", "words", "code"),
    [
        (("create", "x", "--scope", "root"), "'root' is no scope", 1),
        (("create", "client-1"), "what a key of the config is called", 1),
        (("create", "x", "--expires", "soon"), 'write a span such as "12h"', 1),
        (("create", "x", "--expires", "2001-01-01"), "is over already", 1),
        (("create", "x", "--priority", "urgent"), "interactive, batch", 1),
        (("revoke", "nobody"), "no token 'nobody'", 5),
    ],
)
def test_what_makes_no_sense_is_one_line_with_the_fix(cluster, arguments, words, code):
    ended = geniehive("token", *arguments, **cluster)
    assert (ended.returncode, ended.stdout) == (code, "")
    assert words in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_a_clients_key_gives_no_tokens(cluster):
    refused = geniehive("token", "create", "x", **cluster, GENIEHIVE_API_KEY="client-key")
    assert refused.returncode == 4
    assert "this key is for something else" in refused.stderr


def test_the_audit_log_tells_who_did_what(cluster):
    geniehive("token", "create", "seen", **cluster)
    geniehive("token", "revoke", "no-such", **cluster)
    shown = geniehive("audit", "--limit", "2", **cluster).stdout
    assert re.search(r"admin-1 +token\.revoke +no-such +not_found: ", shown)
    assert re.search(r"admin-1 +token\.create +seen +ok", shown)
    documents = json.loads(geniehive("audit", "--action", "token.create", "-n", "1", "-o", "json", **cluster).stdout)
    assert [(one["subject"], one["actor"]) for one in documents] == [("seen", "admin-1")]
    older = json.loads(geniehive("audit", "--before", documents[0]["entry_id"], "-o", "json", **cluster).stdout)
    assert all(one["entry_id"] < documents[0]["entry_id"] for one in older)
    assert geniehive("audit", "--actor", "nobody", **cluster).stderr.startswith("nobody did anything")


@pytest.mark.parametrize(
    ("text", "ends"),
    [
        ("", None),
        ("90s", 1090),
        ("12h", 1000 + 12 * 3600),
        ("30d", 1000 + 30 * 86400),
        ("2w", 1000 + 14 * 86400),
        ("2027-01-31", 1801353600),
        ("2027-01-31T01:00:00+01:00", 1801353600),
    ],
)
def test_when_a_token_ends(text, ends):
    assert parse_expiry(text, 1000.9) == ends


@pytest.mark.parametrize("text", ["soon", "12", "-1h", "1.5h", "99999999999h", "2027-13-01"])
def test_when_it_cannot_end(text):
    with pytest.raises(InvalidRequest):
        parse_expiry(text, time.time())
