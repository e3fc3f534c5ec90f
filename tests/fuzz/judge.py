"""Sends hostile bytes to a gateway and judges what comes back: an answer not of the server's fault, or a closed door.

What fails: a status of 500 or more, bytes that are no HTTP, silence once the client has closed its half, an error body
that is not JSON of the promised shape, and a gateway that answers no proper request afterwards.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, field

PATIENCE_S = 40.0
"""After which silence is a hang; slow headers are closed after 10 s."""
_SOON_S = 0.05
_QUIET_S = 0.3
"""After which nothing more is expected of a connection that is kept alive: its client hangs up."""
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3}) ")
_ERROR = re.compile(rb'\{"(?:error|type)"')


@dataclass
class Judge:
    """Remembers which statuses came, so that a run can tell that it reached behind the front door."""

    port: int
    key: str
    statuses: dict[int, int] = field(default_factory=dict)
    sent: int = 0

    def converse(self, pieces: list[bytes]) -> None:
        """Write the pieces to a new connection, close its half, read what comes. Raises AssertionError."""
        answer = self._exchange(pieces)
        self.sent += 1
        found = [int(one) for one in _STATUS.findall(answer)]
        assert not answer or answer.startswith(b"HTTP/1."), f"no HTTP: {answer[:200]!r}"
        for status in found:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            assert status < 500, answer[:2000]
        self._check_error(answer, found)

    def healthy(self) -> None:
        """A proper request gets a proper answer, now."""
        line = f"GET /v1/models HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {self.key}\r\nconnection: close\r\n\r\n"
        answer = self._exchange([line.encode()])
        assert answer.startswith(b"HTTP/1.1 200 "), answer[:500]

    def _check_error(self, answer: bytes, statuses: list[int]) -> None:
        """The one error of a connection with one answer is JSON, and shows nothing of the inside."""
        if len(statuses) != 1 or statuses[0] < 400:
            return
        assert b"Traceback" not in answer
        assert b'File "' not in answer
        body = answer.partition(b"\r\n\r\n")[2]
        if body:
            error = json.loads(body)
            assert "error" in error, body[:300]

    def _exchange(self, pieces: list[bytes]) -> bytes:
        answer = bytearray()
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S) as client:
            try:
                for piece in pieces:
                    client.sendall(piece)
                    self._read_soon(client, answer)
                while not _over(answer) and self._read_soon(client, answer, _QUIET_S):
                    pass
                client.shutdown(socket.SHUT_WR)
                while not _over(answer) and (piece := client.recv(65536)):
                    answer += piece
            except TimeoutError:
                raise AssertionError(
                    f"no answer and no close within {PATIENCE_S:g} s; so far {bytes(answer[:300])!r}"
                ) from None
            except OSError:
                pass  # refused in the middle of our bytes: a closed door
        return bytes(answer)

    def _read_soon(self, client: socket.socket, answer: bytearray, seconds: float = _SOON_S) -> bool:
        """Whether something came within so many seconds."""
        client.settimeout(seconds)
        try:
            piece = client.recv(65536)
        except TimeoutError:
            return False
        finally:
            client.settimeout(PATIENCE_S)
        answer += piece
        return bool(piece)


def _over(answer: bytearray) -> bool:
    """Whether a whole answer is there, so that nobody need wait for a connection that is kept alive."""
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    if length is not None:
        return len(body) >= int(length[1])
    return body.endswith(b"0\r\n\r\n") or head.startswith((b"HTTP/1.1 204", b"HTTP/1.1 304"))
