"""HTTPS: the listening port's certificate, read again when its files change, without a stream noticing.

Python gives new handshakes what the context holds at that moment; connections that are open keep what they began with.
The files are looked at every second, and at once on SIGHUP. A pair that cannot be read (half replaced, wrong key) is
told of, and the last good one stays. TLS 1.2 at least, and of 1.2 only suites with forward secrecy and AEAD.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from geniehive.config import GatewayConfig
from geniehive.errors import ConfigError

LOOK_S: Final = 1.0
HANDSHAKE_S: Final = 10.0
WARN_S: Final = 30 * 86400.0
_SUITES: Final = "ECDHE+AESGCM:ECDHE+CHACHA20"
_log = logging.getLogger(__name__)


class Https:
    """The certificate of the port."""

    def __init__(self, config: GatewayConfig, now: Callable[[], float] = time.time) -> None:
        self._cert = Path(config.tls_cert_file).expanduser()
        self._key = Path(config.tls_key_file or config.tls_cert_file).expanduser()
        self._now = now
        self.context = _context()
        self._seen = self._stamps()
        self._load(self.context)
        self.expires_at = self._end()
        """End of the certificate in Unix seconds."""

    async def follow(self, reload: asyncio.Event) -> None:
        """Read the files again when they change, or when `reload` is set; until cancelled."""
        self._warn()
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await reload.wait()
                reload.clear()
            except TimeoutError:
                if self._stamps() == self._seen:
                    continue
            self.read_again()

    def read_again(self) -> None:
        """Take what the files hold now, if it is good."""
        seen = self._stamps()
        if seen == self._seen and seen:
            return
        self._seen = seen
        try:
            self._load(_context())  # on a context of its own first: half a pair must not replace the good one
            self._load(self.context)
        except ConfigError as error:
            _log.warning("the certificate is not changed: %s", error.message)
            return
        self.expires_at = self._end()
        _log.info("new connections get the certificate that is in %s now", self._cert)
        self._warn()

    def _load(self, context: ssl.SSLContext) -> None:
        try:
            context.load_cert_chain(self._cert, self._key, password=_no_password)
        except ssl.SSLError as error:
            why = "the key is not the certificate's" if error.reason == "KEY_VALUES_MISMATCH" else "no PEM, or damaged"
            raise ConfigError(f"gateway.tls_cert_file {self._cert} with key {self._key}: {why}") from None
        except OSError as error:
            raise ConfigError(f"gateway.tls_cert_file: {error.filename or self._cert}: {error.strerror}") from None

    def _stamps(self) -> tuple[int, ...]:
        try:
            return tuple(path.stat().st_mtime_ns for path in (self._cert, self._key))
        except OSError:
            return ()

    def _end(self) -> float:
        from geniehive.tls import leaf_of  # noqa: PLC0415 - loads cryptography, for HTTPS alone

        return leaf_of(self._cert.read_bytes()).not_after

    def _warn(self) -> None:
        left = self.expires_at - self._now()
        if left < WARN_S:
            words = "has ended" if left < 0 else f"ends in {left / 86400:.1f} days"
            _log.warning("the certificate in %s %s: put a new one there", self._cert, words)


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_SUITES)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    context.set_alpn_protocols(["http/1.1"])
    return context


def _no_password() -> str:
    raise ConfigError("gateway.tls_key_file is encrypted: a daemon cannot ask for a password; store it without one")
