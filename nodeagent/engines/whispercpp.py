"""whisper.cpp's server: one model, no list of models, one request at a time.

It is recognised by its form page at /. POST /inference is the other half of the fingerprint in the books, but it waits
for the lock that a running transcription holds, so the form's target is read instead. Health goes by status alone:
its error handler rewrites bodies, and turns the 503 of a /health that is loading into a 404, which older versions
without /health answer as well; both still show the form.

The model has no name in this API: config names it, else it is `whisper.cpp`, also known as `whisper-1`, OpenAI's own
name. A POST /load with a file that is no model ends the server, so it is never sent.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final

from geniehive.errors import UpstreamUnavailable
from geniehive.resources import Asset, Observed
from nodeagent.engines.base import Engine, EngineState, Evidence, loading, refusal
from nodeagent.engines.http import Http, Reply
from nodeagent.engines.naming import SPEECH_TO_TEXT

_PAGE, _HEALTH = "/", "/health"
_TITLE: Final = re.compile(r"whisper\.cpp", re.IGNORECASE)
_FORM: Final = re.compile(r'<form[^>]*action="[^"]*/inference"', re.IGNORECASE)
_RESTART: Final = "start whisper-server with the model that you want (-m); it loads one for as long as it runs"


class WhisperCpp(Engine):
    """whisper.cpp's `whisper-server`."""

    name: ClassVar[str] = "whispercpp"
    runtime_name: ClassVar[str] = "whisper.cpp"
    probes: ClassVar[tuple[str, ...]] = (_PAGE,)
    listen_fix: ClassVar[str] = "start whisper-server with --host 0.0.0.0"

    def recognise(self, seen: Evidence) -> bool:
        """Its form page, whose form posts to /inference."""
        return _PAGE in seen and is_form_page(seen[_PAGE])

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look. Its one slot is a lock in the server; how many wait for it is not told."""
        del previous
        health = await http.get(_HEALTH)
        if health.status == 503:
            return self.state(health=loading("loading model"), operations=SPEECH_TO_TEXT, complete=False)
        if health.status != 404 and not health.ok:
            return self.state(health=refusal(health, _HEALTH), operations=SPEECH_TO_TEXT, complete=False)
        if health.status == 404 and not is_form_page(page := await http.get(_PAGE)):
            return self.state(health=refusal(page, _PAGE), operations=SPEECH_TO_TEXT, complete=False)
        asset = Asset(
            asset_id="whisper.cpp", aliases=("whisper-1",), loaded=True, family="whisper", operations=SPEECH_TO_TEXT
        )
        return self.state(
            assets=(asset,), operations=SPEECH_TO_TEXT, any_name=True, observed=Observed(slots=1, loaded_model_count=1)
        )

    async def load(self, http: Http, asset_id: str, context_size: int | None = None) -> None:
        """Refused: see above."""
        del http, context_size
        raise UpstreamUnavailable(f"whisper.cpp cannot load {asset_id} safely over HTTP: {_RESTART}")

    async def unload(self, http: Http, asset_id: str) -> None:
        """Refused: see above."""
        del http
        raise UpstreamUnavailable(f"whisper.cpp cannot unload {asset_id}: {_RESTART}")


def is_form_page(reply: Reply) -> bool:
    """Whether this is whisper.cpp's form page."""
    return reply.ok and bool(_TITLE.search(reply.text)) and bool(_FORM.search(reply.text))
