"""The engines that a node agent can recognise, look at and give orders to: one file for each.

`base` says what an engine is, `registry` lists them, `fingerprint` finds out which one answers at an endpoint.
"""

from nodeagent.engines.base import Engine, EngineState
from nodeagent.engines.fingerprint import fingerprint, identify
from nodeagent.engines.http import Http, engine_session
from nodeagent.engines.registry import ENGINES, by_protocol

__all__ = ["ENGINES", "Engine", "EngineState", "Http", "by_protocol", "engine_session", "fingerprint", "identify"]
