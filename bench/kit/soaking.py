"""The clients of the soak: they ask, some leave early, and judge each answer: whole and right, or an honest error."""

from __future__ import annotations

import asyncio
import json
import random
from collections import Counter
from collections.abc import Callable

import aiohttp

_LEAVES = 0.2
"""Share of requests whose client leaves before the end."""


class Clients:
    """Asks a gateway for a model; `right` is the answer to a prompt. Counts what came of it by kind."""

    def __init__(
        self, url: str, headers: dict[str, str], model: str, right: Callable[[str], str], dice: random.Random
    ) -> None:
        self._url = url
        self._headers = headers
        self._model = model
        self._right = right
        self._dice = dice
        self.counts: Counter[str] = Counter()
        self.lies: list[str] = []
        """Answers that looked whole and were not, or had no shape."""

    async def run(self, number: int, rate: float, until: Callable[[], bool]) -> None:
        """So many clients, who together ask so often a second, until it is time to stop."""
        async with (
            aiohttp.ClientSession(
                headers=self._headers,
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=60),
            ) as session,
            asyncio.TaskGroup() as tasks,
        ):
            for each in range(number):
                tasks.create_task(self._client(session, each, number / rate, until))

    async def _client(
        self, session: aiohttp.ClientSession, number: int, every_s: float, until: Callable[[], bool]
    ) -> None:
        asked = 0
        while not until():
            asked += 1
            leaves = self._dice.random() < _LEAVES
            streamed = self._dice.random() < 0.7
            name = f"{'stream' if streamed else 'plain'}"
            try:
                async with asyncio.timeout(self._dice.uniform(0.001, 0.5) if leaves else 60):
                    kind = await self._ask(session, f"q{number}.{asked}", streamed=streamed)
            except TimeoutError:
                kind = "left" if leaves else "hung"
            except aiohttp.ClientError as error:
                kind = f"broke off ({type(error).__name__})"
            self.counts[f"{name}: {kind}"] += 1
            if kind in {"hung", "lie"}:
                self.lies.append(f"{name} {number}.{asked}: {kind}")
            await asyncio.sleep(self._dice.uniform(0, 2 * every_s))

    async def _ask(self, session: aiohttp.ClientSession, prompt: str, *, streamed: bool) -> str:
        body = {"model": self._model, "messages": [{"role": "user", "content": prompt}], "stream": streamed}
        async with session.post(f"{self._url}/v1/chat/completions", json=body) as found:
            data = await found.read()
        if found.status != 200:
            honest = json.loads(data)["error"].keys() == {"message", "type", "param", "code"}
            return str(found.status) if honest else "lie"
        said, end = (_streamed if streamed else _plain)(data)
        if end == "whole":
            return self._whole(said, prompt, resumed=b": geniehive resumed" in data)
        return end if self._right(prompt).startswith(said) or _odd(said) else "lie"

    def _whole(self, said: str, prompt: str, *, resumed: bool) -> str:
        if said == self._right(prompt):
            return "whole, resumed" if resumed else "whole"
        return "whole, the engine's own odd answer" if _odd(said) else "lie"


def _odd(said: str) -> bool:
    """Whether these are the words of a misbehaviour that is a proper answer all the same."""
    return said in {"", "go", "good", "goodmore", "x"}


def _plain(data: bytes) -> tuple[str, str]:
    found = json.loads(data)
    if "choices" not in found:
        return "", "whole"
    return found["choices"][0]["message"]["content"], "whole"


def _streamed(data: bytes) -> tuple[str, str]:
    """The text, and how it ended: whole, an error event, or a lie."""
    said, finished, done, error = "", 0, 0, 0
    for line in data.decode().replace("\r\n", "\n").split("\n"):
        if line == "data: [DONE]":
            done += 1
        elif line.startswith("data: "):
            event = json.loads(line[6:])
            error += "error" in event
            for choice in event.get("choices", ()):
                said += choice["delta"].get("content") or ""
                finished += bool(choice["finish_reason"])
    if error:
        return said, "error event" if error == 1 and not done else "lie"
    return said, "whole" if done == 1 and finished <= 1 else "lie"
