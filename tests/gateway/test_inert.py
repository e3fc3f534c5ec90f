"""What strangers call their models stays text: browsers make nothing of an answer, whatever is in it."""

from __future__ import annotations

import httpx
import pytest

from tests.gateway.harness import gateway, raw

HOSTILE = "<img onerror=alert(1) src=x>{{7*7}}"


@pytest.mark.parametrize("path", ["/", "/v1/models", "/metrics", "/v1/nothing", f"/v1/models/{HOSTILE}"])
async def test_no_answer_is_a_page_or_may_run_anything(path: str) -> None:
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient(base_url=gw.url) as http:
        found = await http.get(path)
        assert found.headers["content-type"].partition(";")[0] in {"application/json", "text/plain"}
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["content-security-policy"] == "default-src 'none'; frame-ancestors 'none'"
        assert "access-control-allow-origin" not in found.headers


async def test_a_name_that_would_run_is_repeated_as_text() -> None:
    async with gateway("http://127.0.0.1:1") as gw, httpx.AsyncClient(base_url=gw.url) as http:
        body = {"model": HOSTILE, "messages": [{"role": "user", "content": "hi"}]}
        found = await http.post("/v1/chat/completions", json=body)
        assert (found.status_code, found.json()["error"]["code"]) == (404, "model_not_found")
        assert HOSTILE in found.json()["error"]["message"]


async def test_what_is_no_request_is_answered_so_too() -> None:
    async with gateway("http://127.0.0.1:1") as gw:
        assert b"x-content-type-options: nosniff\r\n" in await raw(gw.port, b"<img onerror=x>\r\n\r\n")
