"""Built-in benchmarks: what is asked, how answers are judged, what a run comes to, and the report of it.

`workloads`, `judge`, `outcome` and `report` are pure. `runner` asks a gateway over HTTP, as any client does, so what is
measured is what clients get: routing, relay and engine together.
"""
