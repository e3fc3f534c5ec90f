"""The gateway's door to engines: the relay of the shared floor, by the names that the gateway uses."""

from geniehive.relay.failures import Refused
from geniehive.relay.request import UpstreamRequest
from geniehive.relay.response import Sink, UpstreamResponse
from geniehive.relay.upstream import Upstream

__all__ = ["Refused", "Sink", "Upstream", "UpstreamRequest", "UpstreamResponse"]
