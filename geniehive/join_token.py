"""[pure] What a join token says: which cluster, which token, and the secret. One word, to be pasted.

`gh1-<SHA-256 of the CA, hex>.<id>.<secret>`: with the hash a host that joins checks whom it talks to before it says
anything secret. The control plane keeps the id and the secret's hash.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from geniehive.errors import InvalidRequest

_FORM: Final = re.compile(r"gh1-([0-9a-f]{64})\.([a-z0-9]{4,32})\.([A-Za-z0-9_-]{16,128})")


class JoinToken(NamedTuple):
    """The parts of a join token."""

    ca_sha256: str
    token_id: str
    secret: str

    def __str__(self) -> str:
        return f"gh1-{self.ca_sha256}.{self.token_id}.{self.secret}"


def parse_join_token(text: str) -> JoinToken:
    """The parts. Raises InvalidRequest."""
    found = _FORM.fullmatch(text.strip())
    if found is None:
        raise InvalidRequest(
            "this is no join token: paste the whole line that `geniehive token create --join` printed", param="token"
        )
    return JoinToken(*found.groups())
