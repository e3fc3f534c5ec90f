"""Roles of real daemons: a file that changes, a signal, a bad file, and a role that answers through the gateway."""

from __future__ import annotations

import signal
from pathlib import Path

from tests.engine_fixture import LlamaServer
from tests.integration.cluster import running_cluster, service

TERSE = """
roles:
  - role_id: terse
    description: as few words as there are
    prompt_policy: {request_policy: {body_overrides: {max_tokens: 1}}}
"""
WORDY = TERSE.replace("max_tokens: 1", "max_tokens: 3")


def test_roles_follow_their_file_while_clients_use_them(tmp_path: Path, llama_server: LlamaServer) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text(TERSE)
    with running_cluster(tmp_path, roles_path=str(path)) as cluster:  # type: ignore[arg-type]
        control = cluster.start_control()
        cluster.start_gateway()
        cluster.start_node("alpha", [service("alpha/llama", llama_server.base_url)])
        cluster.wait_for_model(llama_server.model)

        def tokens() -> int:
            answer = cluster.chat("terse", max_tokens=50)
            assert answer.status_code == 200, answer.text
            return int(answer.json()["usage"]["completion_tokens"])

        cluster.wait_for(lambda: tokens() == 1)
        path.write_text("roles: [{role_id: terse, routing_policy: {fallback_roles: [terse]}}]")
        cluster.wait_for(lambda: "terse → terse" in control.log())
        assert tokens() == 1  # the old ones stay
        path.write_text(WORDY)
        control.process.send_signal(signal.SIGHUP)
        cluster.wait_for(lambda: tokens() == 3)
        path.write_text("roles: []")
        cluster.wait_for(lambda: cluster.chat("terse").status_code == 404)
        assert control.log().count("roles.refused") == 1
