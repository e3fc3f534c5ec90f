"""`geniehive doctor`: what it says of certificates, and of a control plane that does not answer."""

import json

import pytest

from geniehive.cli.doctor import judged
from geniehive.tls import Leaf
from tests.geniehive.cli.harness import geniehive

DAY = 86400.0
LEAF = Leaf(identity=None, not_before=0, not_after=100 * DAY, sha256="")


@pytest.mark.parametrize(
    ("now", "state", "words"),
    [(50 * DAY, "ok", "until 1970-04-11"), (76 * DAY, "warning", "should have been renewed"),
     (101 * DAY, "wrong", "has ended on 1970-04-11"), (-DAY, "wrong", "is the clock right?")],
)  # fmt: skip
def test_a_certificate_is_judged_by_what_is_left_of_its_life(now, state, words):
    found = judged("a certificate", LEAF, now)
    assert (found.state, words in found.words) == (state, True), found


def test_a_ca_is_warned_about_half_a_year_before():
    ca = Leaf(identity=None, not_before=0, not_after=3650 * DAY, sha256="")
    assert judged("the CA", ca, 3600 * DAY, ca=True).state == "warning"
    assert judged("the CA", ca, 3400 * DAY, ca=True).state == "ok"


def test_what_is_wrong_is_in_the_exit_code_and_says_its_fix(tmp_path):
    environ = {"GENIEHIVE_NODE__STATE_DIR": str(tmp_path), "GENIEHIVE_CONTROL__STATE_DIR": str(tmp_path)}
    identity = tmp_path / "node-identity"
    identity.mkdir()
    (identity / "identity.pem").write_text("nothing")
    done = geniehive("doctor", "--control", "127.0.0.1:9", "--no-gateway", "-o", "json", **environ)
    assert done.returncode == 1
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert found["config"]["state"] == "ok"
    assert found["this host's certificate"]["state"] == "wrong"
    assert "start it (geniehive up" in found["control plane"]["words"]
