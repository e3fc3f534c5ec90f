"""Why TLS to a control plane fails: gRPC says "Socket closed", so Python's own TLS asks once more and says what it is.

Blocking; call it in a thread, and only once something has failed.
"""

from __future__ import annotations

import os
import re
import socket
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from geniehive.config_check import parse_address
from geniehive.errors import ConfigError
from geniehive.identity import CONTROL_NAME

if TYPE_CHECKING:
    from geniehive.tls import Credentials  # loads cryptography, which asking a plain control plane needs not

TIMEOUT_S: Final = 3.0
_EXPIRED: Final = 10  # X509_V_ERR_CERT_HAS_EXPIRED
_NOT_YET: Final = 9  # X509_V_ERR_CERT_NOT_YET_VALID
_NAMES: Final = frozenset({62, 64})  # X509_V_ERR_HOSTNAME_MISMATCH, X509_V_ERR_IP_ADDRESS_MISMATCH


def client_context(credentials: Credentials | None) -> ssl.SSLContext:
    """A context that shows and checks as the credentials say; None checks nothing."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"])
    if credentials is None:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        return context
    if credentials.ca_pem:
        context.load_verify_locations(cadata=credentials.ca_pem.decode("ascii"))
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # an intermediate CA may be all that is trusted, as in gRPC
    with _as_file(credentials.key_pem + credentials.chain_pem) as path:
        context.load_cert_chain(path)
    return context


@contextmanager
def _as_file(data: bytes) -> Iterator[str]:
    """A file with a key in it, for the ssl module loads keys from files alone: in memory where the system can."""
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("geniehive"), "wb") as memory:
            memory.write(data)
            memory.flush()
            yield f"/proc/self/fd/{memory.fileno()}"
        return
    with tempfile.NamedTemporaryFile(suffix=".pem") as file:  # mode 0600, and gone at once
        file.write(data)
        file.flush()
        yield file.name


def peer_certificate(address: str, credentials: Credentials) -> bytes:
    """The certificate that a control plane shows, DER; nothing of it is checked.

    Raises:
        OSError: Nobody answers there.
        ConfigError: What answers does not speak TLS.
    """
    context = client_context(credentials)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    host, port = parse_address(address)
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as sock,
            context.wrap_socket(sock, server_hostname=credentials.server_name) as tls,
        ):
            return tls.getpeercert(binary_form=True) or b""
    except (ssl.SSLError, ConnectionResetError, TimeoutError) as error:
        what = f"what listens at {address} does not speak TLS as a control plane does"
        raise ConfigError(f"{what} ({_said(error)}): is the address right, and control.tls on there?") from None


def why(address: str, credentials: Credentials, *, now: float | None = None) -> str | None:
    """What is wrong, with the fix, in one line; None where TLS is not it."""
    at = time.time() if now is None else now
    if own := own_trouble(credentials, at):
        return own
    host, port = parse_address(address)
    try:
        with socket.create_connection((host, port), TIMEOUT_S) as sock:
            return _handshake(sock, address, credentials)
    except (OSError, ValueError):  # nobody there: gRPC's own words are right
        return None


def wants_tls(address: str) -> str | None:
    """What to do where plain gRPC meets TLS; None where that is not it."""
    host, port = parse_address(address)
    try:
        with (
            socket.create_connection((host, port), TIMEOUT_S) as sock,
            client_context(None).wrap_socket(sock, server_hostname=CONTROL_NAME),
        ):
            pass
    except (OSError, ValueError):
        return None
    return (
        f"the control plane at {address} speaks TLS, and there is no certificate to show to it: use geniehive login "
        "(token: geniehive token create --join --kind operator), or on its own machine give its config (--config)"
    )


def own_trouble(credentials: Credentials, now: float) -> str | None:
    """What is wrong with our own certificate; None if nothing is."""
    leaf = credentials.leaf
    who = leaf.identity or "this program"
    if now > leaf.not_after:
        return f"the certificate of {who} expired on {day(leaf.not_after)}: join again (geniehive token create --join)"
    if now < leaf.not_before - 1:
        return f"the certificate of {who} is not valid before {day(leaf.not_before)}: set this machine's clock right"
    return None


def _handshake(sock: socket.socket, address: str, credentials: Credentials) -> str | None:
    context = client_context(credentials)
    context.check_hostname = bool(credentials.server_name)
    try:
        with context.wrap_socket(sock, server_hostname=credentials.server_name or None) as tls:
            tls.settimeout(TIMEOUT_S)
            if tls.recv(1):  # HTTP/2 begins: it took our certificate
                return None
            return _refused(address)
    except ssl.SSLCertVerificationError as error:
        return _unverified(address, credentials, error)
    except ssl.SSLError as error:
        if "alert" in str(error).lower():
            return _refused(address)
        return f"what listens at {address} does not speak TLS ({_said(error)}): is control.tls off there?"
    except TimeoutError:
        return None
    except ConnectionResetError:
        return f"what listens at {address} does not speak TLS, or refuses our certificate: is control.tls off there?"


def _refused(address: str) -> str:
    return (
        f"the control plane at {address} does not take our certificate: it is of another CA; if its CA was replaced, "
        "join again (geniehive token create --join)"
    )


def _unverified(address: str, credentials: Credentials, error: ssl.SSLCertVerificationError) -> str:
    """What is wrong with the certificate of the other side."""
    theirs = f"the certificate of the control plane at {address}"
    if error.verify_code in {_EXPIRED, _NOT_YET}:
        what = "has expired" if error.verify_code == _EXPIRED else "is not valid yet"
        return f"{theirs} {what}: look at control.tls_cert_file there, and at the clocks of both machines"
    if error.verify_code in _NAMES:
        return (
            f"{theirs} is not for the name {credentials.server_name} (its SAN): if it is the right one, "
            "set control_plane.server_name to a name that it has"
        )
    return (
        f"{theirs} is of another CA than the one that this program trusts: somebody else answers there, or its CA was "
        "replaced; then join again"
    )


def _said(error: Exception) -> str:
    return re.sub(r"\s*\(_ssl\.c:\d+\)|\[[A-Z0-9_: ]+\]\s*", "", str(error)).strip() or "the connection was closed"


def day(unix_s: float) -> str:
    """A time as people write it, in UTC."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix_s))
