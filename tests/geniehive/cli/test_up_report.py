"""What `geniehive up` says of a cluster that has tokens; control plane and gateway are real, no engine is asked."""

from geniehive.cli import up_report
from geniehive.cli.up_plan import Plan
from geniehive.config import AuthConfig
from tests.gateway.hive import hive, service
from tests.gateway.test_tokens import created, until_status


async def said(made, tmp_path, capsys):
    plan = Plan(config=made.config, state_dir=tmp_path, url=made.url)
    await up_report.report(plan, expect=True, model=None, tiny=False, log_dir=None)
    return capsys.readouterr().out


async def test_a_cluster_that_got_tokens_is_reported_at_once(tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("GENIEHIVE_API_KEY", raising=False)
    async with hive(tmp_path, service("one", "http://127.0.0.1:1"), auth=AuthConfig(), key="") as made:
        text = await said(made, tmp_path, capsys)
        assert "atlas/one" in text
        assert "Authorization" not in text
        root = await created(made.http, "root", "admin")
        await until_status(made, "", 401)
        text = await said(made, tmp_path, capsys)
        assert "atlas/one" not in text
        assert "This cluster has tokens" in text
        assert "curl -s" in text
        assert "$GENIEHIVE_KEY" in text
        monkeypatch.setenv("GENIEHIVE_API_KEY", root)
        text = await said(made, tmp_path, capsys)
        assert "atlas/one" in text
        assert "GENIEHIVE_KEY: a token of this cluster" in text
        assert root not in text
