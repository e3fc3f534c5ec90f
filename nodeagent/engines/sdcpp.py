"""stable-diffusion.cpp's `sd-server`: one model of images (or of videos, which OpenAI's API has no route for).

Its /v1/models always names `sd-cpp-local`, owned by `local`; which model that is tells /sdcpp/v1/capabilities, which
looks through the folders of LoRAs and upscalers, so it is asked once. Older servers have no such route. Images are made
one request at a time, behind a lock; how many wait is told nowhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Final

from geniehive.resources import Asset, Observed, Operation
from nodeagent.engines.base import Engine, EngineState, Evidence, json_of, refusal
from nodeagent.engines.http import Http
from nodeagent.engines.naming import family_of, quantization_of
from nodeagent.engines.reading import rows, table, text, words

_MODELS, _CAPABILITIES = "/v1/models", "/sdcpp/v1/capabilities"
_NAME: Final = "sd-cpp-local"
_IMAGES: Final = "img_gen"
_IMAGE: Final = (Operation.IMAGE,)


@dataclass(frozen=True, slots=True)
class SdMemory:
    """The model's file without its ending, and what the server makes; empty where it does not tell."""

    stem: str = ""
    modes: tuple[str, ...] = ()


class SdCpp(Engine):
    """stable-diffusion.cpp's server."""

    name: ClassVar[str] = "sdcpp"
    runtime_name: ClassVar[str] = "stable-diffusion.cpp"
    probes: ClassVar[tuple[str, ...]] = (_MODELS,)
    listen_fix: ClassVar[str] = "start sd-server with --listen-ip 0.0.0.0"

    def recognise(self, seen: Evidence) -> bool:
        """Its one name for every model."""
        models = rows(table(json_of(seen, _MODELS)).get("data"))
        return bool(models) and all(model.get("id") == _NAME for model in models)

    async def look(self, http: Http, previous: EngineState | None = None) -> EngineState:
        """See Engine.look. The asset is called as the model's file is, and `sd-cpp-local` as well."""
        listing = await http.get(_MODELS)
        if not listing.ok:
            return self.state(health=refusal(listing, _MODELS), operations=_IMAGE, complete=False)
        memory = previous.memory if previous and isinstance(previous.memory, SdMemory) else None
        memory = memory or await _ask(http)
        observed = Observed(slots=1, loaded_model_count=1)
        if memory.modes and _IMAGES not in memory.modes:
            notes = (f"it makes {', '.join(memory.modes)} alone, for which there is no route",)
            return self.state(observed=observed, memory=memory, notes=notes)
        asset = Asset(
            asset_id=memory.stem or _NAME,
            aliases=(_NAME,) if memory.stem else (),
            loaded=True,
            family=family_of(memory.stem),
            quantization=quantization_of(memory.stem),
            operations=_IMAGE,
        )
        return self.state(assets=(asset,), operations=_IMAGE, any_name=True, observed=observed, memory=memory)


async def _ask(http: Http) -> SdMemory:
    told: Any = table(json_of(await http.get_all(_CAPABILITIES), _CAPABILITIES))
    return SdMemory(text(table(told.get("model")).get("stem")), words(told.get("supported_modes")))
