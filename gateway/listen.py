"""The port: taken before anything else starts, with one clear line where it cannot be had."""

from __future__ import annotations

import errno
import socket

from geniehive.config import Config
from geniehive.errors import ConfigError


def bind(config: Config, *, shared: bool) -> socket.socket:
    """A socket on the configured address; `shared` lets several processes have it. Raises ConfigError."""
    host, port = config.gateway.host, config.gateway.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        message = f"gateway.host {host!r} is not an address of this machine; use 127.0.0.1 or 0.0.0.0"
        raise ConfigError(message) from error
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind(address)
    except OSError as error:
        sock.close()
        raise ConfigError(_no_port(host, port, error)) from error
    sock.setblocking(False)
    return sock


def _no_port(host: str, port: int, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"port {port} on {host} is in use; stop what listens there, or set gateway.port (0 takes a free one)"
    if error.errno == errno.EACCES:
        return f"port {port} needs privileges that this process lacks; set gateway.port to 1024 or more"
    return f"the gateway cannot listen on {host}:{port}: {error.strerror}; set gateway.host and gateway.port"


def url_of(sock: socket.socket, *, tls: bool = False) -> str:
    """Where a bound socket is reached."""
    host, port = sock.getsockname()[:2]
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"
