"""What the benchmarks share: processes on chosen cores, C programs, the real stack, load generators, tables."""
