"""`python -m nodeagent.probes`: what the probes see on this host, as JSON on standard output."""

from __future__ import annotations

import sys
import time

import msgspec

from nodeagent.probes.host_probe import HostProbe

_SAMPLE_S = 0.2
"""Between start and measurement: CPU use is a difference."""


def main() -> None:
    """Print facts and measurements."""
    probe = HostProbe.open()
    facts = probe.facts()
    time.sleep(_SAMPLE_S)
    data = {"facts": msgspec.to_builtins(facts), "observed": msgspec.to_builtins(probe.observe())}
    sys.stdout.write(msgspec.json.format(msgspec.json.encode(data), indent=2).decode() + "\n")


if __name__ == "__main__":
    main()
