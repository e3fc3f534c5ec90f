"""[pure] Which engines serve the routes of agents themselves: OpenAI's Responses and Anthropic's Messages.

Each adapter names the version that first had a route; a version that cannot be read counts as older. llama.cpp's
builds do not all tell a version, and are asked. What is not known to be there is translated by gateways, so being too
careful here costs nothing but the engine's own extras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

RESPONSES: Final = "/v1/responses"
MESSAGES: Final = "/v1/messages"
COUNT_TOKENS: Final = "/v1/messages/count_tokens"
AGENT_ROUTES: Final = (RESPONSES, MESSAGES, COUNT_TOKENS)

_NUMBERS = re.compile(r"\d+")
_LEADING = re.compile(r"v?(\d+(?:\.\d+)+)")


def since(routes: Mapping[str, str], version: str) -> tuple[str, ...]:
    """The routes that an engine of this version has."""
    given = _LEADING.match(version)
    if given is None:
        return ()
    return tuple(route for route, first in routes.items() if _parts(given[1]) >= _parts(first))


def _parts(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBERS.findall(version))
