"""The gateway's HTTP/1.1 server: one protocol object a connection, one task a connection, llhttp for the bytes.

`server` is what asyncio's listener calls for each client; `connection` reads requests off the wire and has them
answered one after the other; `request` is what a handler sees, `body` the bytes that may still be coming, and
`limits` what is refused for its size. It knows nothing of models or errors' shapes: whoever makes a `Server` says how
a request is served and how a refusal is worded.
"""
