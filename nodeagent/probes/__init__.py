"""What the host is and how it does: CPU and RAM, GPUs of NVIDIA, AMD and Apple.

Probes block (they read files and call drivers), so the loop runs them in a thread. A host without a GPU, a library
that is not there and a driver that refuses are all normal: they yield nothing, never an error. `python -m
nodeagent.probes` prints what they see.
"""
