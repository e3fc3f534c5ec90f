"""Runs workloads against a gateway over HTTP, as a client would, and times what comes back.

Chat is streamed: the first token is the first event with text in it (reasoning counts, it is
generated all the same). Tokens are those of `usage`; where the engine tells none, events with text are
counted instead. A stream that ends without `finish_reason` and without `[DONE]` was cut, which is a failure.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any, Final, NamedTuple, cast

import httpx
import msgspec

from geniehive.benchmarks.judge import closer, heard
from geniehive.benchmarks.outcome import Answered, Outcome, WorkloadResult, sum_up
from geniehive.benchmarks.workloads import Case, Chat, Clip, Embed, Workload
from geniehive.errors import (
    GatewayUnreachable,
    GenieHiveError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    UpstreamUnavailable,
)
from geniehive.resources import Operation

_LONGEST_ERROR: Final = 200
_BY_STATUS: Final = {400: InvalidRequest, 401: Unauthenticated, 403: PermissionDenied, 404: NotFound}


class Plan(NamedTuple):
    """How a workload is run; `warmup` requests are not counted: a model may have to load."""

    requests: int = 0  # 0 is each case once
    concurrency: int = 1
    warmup: int = 1


class Failed(Exception):
    """One request failed; the words say how."""


class Target(NamedTuple):
    """What a name leads to: what can be asked of it, and who answers if there is nobody else."""

    operations: tuple[Operation, ...]
    alone: Answered | None


class Runner:
    """Asks one model, role or service by its name. `client` has the gateway as base URL, and the key."""

    def __init__(self, client: httpx.AsyncClient, model: str) -> None:
        self._client = client
        self._model = model

    async def look(self, operations: Iterable[Operation]) -> Target:
        """Which of the operations the name can be asked for. Raises NotFound, Unauthenticated, …"""
        able, who = [], set[Answered]()
        for operation in operations:
            query = {"model": self._model, "operation": operation.value}
            response = await self._get("/v1/cluster/routes/resolve", query)
            if response.status_code == 400:
                continue
            if response.status_code in {200, 503}:
                able.append(operation)
                who |= {_candidate(each) for each in _said(response).get("candidates", ())}
                continue
            raise _refusal(response)
        return Target(tuple(able), who.pop() if len(who) == 1 else None)

    async def run(self, workload: Workload, plan: Plan, done: Callable[[Outcome], None]) -> WorkloadResult:
        """One workload; `done` hears of each request that counts as it ends. Never raises for a failed request."""
        count = plan.requests or len(workload.cases)
        for _ in range(plan.warmup):
            await self._ask(workload, 0, workload.warmup)
        places = asyncio.Semaphore(plan.concurrency)

        async def one(turn: int) -> Outcome:
            async with places:
                outcome = await self._ask(workload, turn)
            done(outcome)
            return outcome

        began = time.perf_counter()
        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one(turn)) for turn in range(count)]
        seconds = time.perf_counter() - began
        return sum_up(workload, [task.result() for task in asked], seconds, plan.concurrency)

    async def _get(self, path: str, query: dict[str, str]) -> httpx.Response:
        try:
            return await self._client.get(path, params=query)
        except httpx.HTTPError as error:
            raise unreachable(self._client, error) from error

    async def _ask(self, workload: Workload, turn: int, case: Case | None = None) -> Outcome:
        number = turn % len(workload.cases)
        began = time.perf_counter()
        answered = Answered()

        def say(headers: httpx.Headers) -> None:
            nonlocal answered
            answered = _who(headers)

        try:
            outcome = await self._answer(workload, case or workload.cases[number], began, say)
        except Failed as error:
            return Outcome(case=number, answered=answered, error=str(error)[:_LONGEST_ERROR])
        except httpx.HTTPError as error:
            return Outcome(case=number, answered=answered, error=f"{type(error).__name__}: {error}"[:_LONGEST_ERROR])
        return msgspec.structs.replace(outcome, case=number, answered=answered)

    async def _answer(
        self, workload: Workload, case: Case, began: float, say: Callable[[httpx.Headers], None]
    ) -> Outcome:
        match case:
            case Chat():
                return await self._chat(workload, case, began, say)
            case Embed():
                texts = [case.anchor, case.near, case.far]
                body = await self._post("/v1/embeddings", say, json={"model": self._model, "input": texts})
                quality: float | None = closer(*_vectors(body, len(texts)))
            case Clip():
                form = {"model": self._model, "response_format": "json"}
                files = {"file": ("clip.wav", case.wav, "audio/wav")}
                body = await self._post("/v1/audio/transcriptions", say, data=form, files=files)
                if not isinstance(body.get("text"), str):
                    raise Failed("the answer has no text")
                quality = heard(body["text"], case.said) if case.said else None
        return Outcome(case=0, latency_seconds=time.perf_counter() - began, quality=quality)

    async def _post(self, path: str, say: Callable[[httpx.Headers], None], **content: Any) -> dict[str, Any]:
        response = await self._client.post(path, **content)
        say(response.headers)
        if response.status_code != 200:
            raise Failed(_complaint(response))
        return _json(response)

    async def _chat(
        self, workload: Workload, case: Chat, began: float, say: Callable[[httpx.Headers], None]
    ) -> Outcome:
        system = [{"role": "system", "content": case.system}] if case.system else []
        body = {
            "model": self._model,
            "messages": [*system, {"role": "user", "content": case.user}],
            "max_tokens": workload.max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        async with self._client.stream("POST", "/v1/chat/completions", json=body) as response:
            say(response.headers)
            if response.status_code != 200:
                await response.aread()
                raise Failed(_complaint(response))
            heard_of = _Stream(began)
            async for event in _events(response):
                heard_of.feed(event, time.perf_counter())
        return heard_of.outcome(case, time.perf_counter())


class _Stream:
    """One streamed chat as it comes in; times are of `perf_counter`."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._first: float | None = None
        self._last = began
        self._text: list[str] = []
        self._pieces = 0
        self._tokens: int | None = None
        self._ended = False

    def feed(self, event: str, now: float) -> None:
        """One `data:` line. Raises Failed for an error of the engine or the gateway."""
        if event == "[DONE]":
            self._ended = True
            return
        chunk = _object(event)
        if chunk.get("error"):
            raise Failed(f"the stream broke: {_message(chunk)}")
        if isinstance(usage := chunk.get("usage"), dict) and isinstance(usage.get("completion_tokens"), int):
            self._tokens = usage["completion_tokens"]
        for choice in chunk.get("choices") or ():
            if isinstance(choice, dict):
                self._ended = self._ended or bool(choice.get("finish_reason"))
                self._delta(choice.get("delta") or {}, now)

    def _delta(self, delta: dict[str, Any], now: float) -> None:
        content = delta.get("content") or ""
        if content or delta.get("reasoning_content") or delta.get("reasoning"):
            self._first = now if self._first is None else self._first
            self._last = now
            self._pieces += 1
            self._text.append(str(content))

    def outcome(self, case: Chat, now: float) -> Outcome:
        """What it came to at its end. Raises Failed where that was not its end."""
        if not self._ended:
            raise Failed("the stream was cut: it ended without finish_reason")
        tokens = self._pieces if self._tokens is None else self._tokens
        decoding = self._last - (self._first or self._last)
        return Outcome(
            case=0,
            latency_seconds=now - self._began,
            ttft_seconds=None if self._first is None else self._first - self._began,
            tpot_seconds=decoding / (tokens - 1) if tokens > 1 and decoding > 0 else None,
            tokens=tokens,
            quality=case.judge("".join(self._text)),
        )


async def post_report(client: httpx.AsyncClient, raw: bytes) -> tuple[str, ...]:
    """Post a report to the gateway; the ids of what is stored now. Raises what the gateway says of it."""
    try:
        response = await client.post(
            "/v1/cluster/benchmarks", content=raw, headers={"content-type": "application/json"}
        )
    except httpx.HTTPError as error:
        raise unreachable(client, error) from error
    if response.status_code != 200:
        raise _refusal(response)
    return tuple(_said(response).get("sample_ids", ()))


def unreachable(client: httpx.AsyncClient, error: httpx.HTTPError) -> GenieHiveError:
    """The error for a gateway that does not answer."""
    return GatewayUnreachable(
        f"cannot reach the gateway at {client.base_url} ({type(error).__name__}): start it (geniehive up, or geniehive "
        "gateway), or say where it is (--gateway URL)"
    )


def _refusal(response: httpx.Response) -> GenieHiveError:
    return _BY_STATUS.get(response.status_code, UpstreamUnavailable)(_complaint(response))


def _said(response: httpx.Response) -> dict[str, Any]:
    try:
        return _json(response)
    except Failed as error:
        raise UpstreamUnavailable(f"what answers at {response.url} is no GenieHive gateway: {error}") from None


def _complaint(response: httpx.Response) -> str:
    try:
        said = _message(_object(response.text))
    except Failed:
        said = ""
    return f"status {response.status_code}: {said}" if said else f"status {response.status_code}"


def _message(body: dict[str, Any]) -> str:
    error = body.get("error")
    return str(error.get("message", "")) if isinstance(error, dict) else str(error or "")


async def _events(response: httpx.Response) -> AsyncIterator[str]:
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            yield line[5:].strip()


def _json(response: httpx.Response) -> dict[str, Any]:
    return _object(response.text)


def _object(text: str) -> dict[str, Any]:
    try:
        found = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError):
        raise Failed("the answer is not JSON") from None
    if not isinstance(found, dict):
        raise Failed("the answer is not a JSON object")
    return cast("dict[str, Any]", found)


def _vectors(body: dict[str, Any], count: int) -> list[list[float]]:
    try:
        vectors = msgspec.convert([each["embedding"] for each in body["data"]], list[list[float]])
    except (KeyError, TypeError, msgspec.ValidationError):
        raise Failed("the answer has no vectors") from None
    if len(vectors) != count or len({len(each) for each in vectors}) != 1:
        raise Failed(f"the answer has not {count} vectors of one length")
    return vectors


def _who(headers: httpx.Headers) -> Answered:
    return Answered(
        service_id=headers.get("x-geniehive-service", ""),
        host_id=headers.get("x-geniehive-host", ""),
        asset_id=headers.get("x-geniehive-model", ""),
    )


def _candidate(each: dict[str, Any]) -> Answered:
    return Answered(service_id=each["service_id"], host_id=each["host_id"], asset_id=each["asset_id"])
