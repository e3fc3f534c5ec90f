"""Voices, in the shapes that speech servers have for them; asked for once for each list of models: they hardly change.

Kokoro-FastAPI (0.3) answers `{"voices": [{"id", "name"}]}`, before 0.3 a list of ids; speaches (0.8) adds `language`
and `gender`, and carries the same list in each speech model of /v1/models.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from geniehive.resources import Voice
from nodeagent.engines.base import EngineState, json_of
from nodeagent.engines.http import Http
from nodeagent.engines.reading import rows, text, words

VOICES: Final = "/v1/audio/voices"
MOST: Final = 500
"""Of one model: a server that clones voices may have thousands, and every gateway holds them."""


@dataclass(frozen=True, slots=True)
class VoiceMemory:
    """The voices of a server, for as long as its models are these."""

    models: tuple[str, ...] = ()
    voices: tuple[Voice, ...] = ()


def voices_of(listed: Any) -> tuple[Voice, ...]:
    """The voices in a list of ids or objects, each once."""
    found = {name: Voice(voice_id=name) for name in words(listed)}
    for item in rows(listed):
        name = text(item.get("id")) or text(item.get("voice_id")) or text(item.get("name"))
        if name:
            found.setdefault(
                name,
                Voice(
                    voice_id=name,
                    name=text(item.get("name")) if text(item.get("name")) != name else "",
                    language=text(item.get("language")),
                    gender=text(item.get("gender")),
                ),
            )
    return tuple(found.values())[:MOST]


async def ask_voices(http: Http, models: tuple[str, ...], previous: EngineState | None) -> VoiceMemory:
    """The voices of a server with these models; remembered ones where the models did not change."""
    known = previous.memory if previous and isinstance(previous.memory, VoiceMemory) else VoiceMemory()
    if known.models == models and known.voices:
        return known
    answer = json_of(await http.get_all(VOICES), VOICES)
    return VoiceMemory(
        models, voices_of(answer.get("voices", answer.get("data")) if isinstance(answer, dict) else answer)
    )
