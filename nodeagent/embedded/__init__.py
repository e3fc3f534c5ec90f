"""The embedded engine: a real llama.cpp, run as a process of its own by `python -m nodeagent.embedded`.

In the agent: `launch` makes it a managed process, `options` builds its command line. In its own process: `server`
runs it, `gguf` reads and writes the little of that format that is needed, `tiny_model` generates the model for a
machine that has none, `cores` counts. llama.cpp never shares a process with the agent.
"""
