"""Simulated engines and fleets: for the demo, the scale tests and the routing benchmarks."""
