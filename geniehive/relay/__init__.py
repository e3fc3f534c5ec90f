"""The relay: HTTP/1.1 requests to engines over pooled connections, their answers as bytes.

It knows nothing of clients, models or attempts, so whoever stands before an engine may use it. `upstream`
is the door; behind it `pool` keeps connections, `dialer` makes them, `connection` speaks on one of them and
`response` is what the caller holds. llhttp (through httptools) reads what engines send, strictly: where an
answer ends is never guessed. No task is made for an answer, and none for a piece of it: bytes go from the
socket's callback to whoever waits, or straight into a sink.
"""
