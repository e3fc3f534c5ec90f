"""An engine that is well for a while, misbehaves for a while in all ways of tests/gateway/misbehaviour.py, and is gone
for a while; over and over, by a seed.

    python bench/upstream/flapping.py --port P --seed N [--well S --ill S --gone S]

Well, it answers what `words` makes of the prompt, so that a client can tell whether an answer is whole and right.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.gateway.misbehaving import (
    CLOSE,
    DONE,
    HANG,
    KEEP,
    LAST_CHUNK,
    RESET,
    STREAM_HEAD,
    Seen,
    Upstream,
    answer,
    chunk,
    completion,
    delta,
    event,
)
from tests.gateway.misbehaviour import ANSWERS, STREAMS

MODEL = "soak-chat"
_PAUSE_S = 0.01
_BOOM = {"error": {"message": "boom", "code": 500}}
_CUTS = (
    (RESET,),
    (CLOSE,),
    (LAST_CHUNK, KEEP),
    (HANG,),
    (chunk(event(_BOOM)), LAST_CHUNK, KEEP),
    (chunk(b'data: {"cho'), RESET),
)
# What takes megabytes is left to the tests: its coming and going would hide a leak of little.
_ANSWERS, _STREAMS = (
    [case.script for name, case in cases.items() if not any(word in name for word in ("MB", "bomb", "huge"))]
    for cases in (ANSWERS, STREAMS)
)
_LISTED = answer(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "soak"}]})


def words(prompt: str) -> list[str]:
    """The right answer to a prompt: ten to sixty words that nobody can mistake for those of another one."""
    dice = random.Random(prompt)
    return [f"{prompt}-{number} " for number in range(dice.randint(10, 60))]


class Flapping(Upstream):
    """Plays a script for each request; `ill` is whether it misbehaves now."""

    def __init__(self, dice: random.Random) -> None:
        super().__init__(())
        self.dice = dice
        self.ill = False

    def next_script(self) -> tuple[object, ...]:
        """Which one is known only with the request's body: see `play`."""
        return ()

    async def play(
        self, script: tuple[object, ...], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer the request that was read last."""
        script = self._script(self.seen.pop())
        return bool(await super().play(script, reader, writer))

    def _script(self, seen: Seen) -> tuple[object, ...]:
        if seen.line.startswith("GET"):
            return (_LISTED, KEEP)
        body = seen.json
        said = words(body["messages"][-1]["content"])
        if not body.get("stream"):
            if self.ill and self.dice.random() < 0.7:
                return self.dice.choice(_ANSWERS)
            return (self.dice.uniform(0, 0.3), completion("".join(said)), KEEP)
        if self.ill and self.dice.random() < 0.4:
            return self.dice.choice(_STREAMS)
        steps = [STREAM_HEAD, chunk(delta("", role="assistant"))]
        cut = self.dice.randrange(len(said)) if self.ill and self.dice.random() < 0.6 else None
        for word in said[:cut]:
            steps += [chunk(delta(word)), _PAUSE_S]
        if cut is not None:
            return (*steps, *self.dice.choice(_CUTS))
        return (*steps, chunk(delta(finish="stop")), chunk(DONE), LAST_CHUNK, KEEP)


async def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--well", type=float, default=12, help="seconds, about")
    parser.add_argument("--ill", type=float, default=8, help="seconds, about")
    parser.add_argument("--gone", type=float, default=2, help="seconds, about")
    options = parser.parse_args()
    engine = Flapping(random.Random(options.seed))
    while True:
        server = await asyncio.start_server(engine.serve, "127.0.0.1", options.port, limit=2**20)
        for engine.ill, seconds in ((False, options.well), (True, options.ill)):
            await asyncio.sleep(seconds * engine.dice.uniform(0.5, 1.5))
        server.close()
        await asyncio.sleep(options.gone * engine.dice.uniform(0.5, 1.5))


if __name__ == "__main__":
    asyncio.run(main())
