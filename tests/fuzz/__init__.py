"""Hostile input for the gateway: what to send (`bodies`, `framing`), an engine that watches what arrives (`engine`),
and the judge of what comes back (`judge`). Seconds of it run in the tests, minutes in bench/bench_fuzz.py.
"""
