"""Ollama's own API as a façade: clients that only find Ollama find the cluster.

`ask` turns requests into OpenAI's, `tell` answers back, `listing` describes models in Ollama's words, and
`facade` has the handlers. What an Ollama does to itself (pull, create, delete) is a 404.
"""
