"""Questions to a gateway over HTTP, with every failure as one of our errors."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import msgspec

from geniehive.errors import (
    ConfigError,
    GatewayUnreachable,
    GenieHiveError,
    InternalError,
    InvalidRequest,
    NotFound,
    PermissionDenied,
    Unauthenticated,
)

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

    import httpx

_TIMEOUT_S = 10.0
_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}  # noqa: S104 - not listened on, but dialled
_KEY_FIX = "give a config that has one (auth.admin_api_keys or auth.client_api_keys), or set GENIEHIVE_API_KEY"
_BY_STATUS: dict[int, type[GenieHiveError]] = {400: InvalidRequest, 403: PermissionDenied, 404: NotFound}


@dataclass(frozen=True, kw_only=True)
class GatewayTarget:
    """Where the gateway is, and the key that it is shown."""

    url: str
    key: str = ""
    certificate: str = ""
    """PEM file of its certificate, for a gateway of this very config: the name in it need not be the address."""


def gateway_target(config: Path | None, gateway: str, api_key: str) -> GatewayTarget:
    """Where to ask, from options and config. Raises ConfigError."""
    from geniehive.config_load import load_config

    loaded = load_config(config, os.environ).config
    host = _EVERYWHERE.get(loaded.gateway.host, loaded.gateway.host)
    certificate = "" if gateway else loaded.gateway.tls_cert_file
    scheme = "https" if certificate else "http"
    url = gateway or f"{scheme}://{f'[{host}]' if ':' in host else host}:{loaded.gateway.port}"
    if not url.startswith(("http://", "https://")):
        url = f"http://{url}"
    auth = loaded.auth
    key = api_key or next(iter((*auth.admin_api_keys, *auth.client_api_keys)), "")
    return GatewayTarget(url=url.rstrip("/").removesuffix("/v1"), key=key, certificate=certificate)


def trusting(certificate: str) -> ssl.SSLContext:
    """A context that takes this certificate, its CA being unknown here, and no other. Raises ConfigError."""
    import ssl

    context = ssl.create_default_context()
    if certificate:
        context.check_hostname = False
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        try:
            context.load_verify_locations(cafile=Path(certificate).expanduser())
        except OSError as error:
            raise ConfigError(f"gateway.tls_cert_file {certificate}: {error.strerror or error}") from None
    return context


class GatewayClient:
    """Asks one gateway; a context manager."""

    def __init__(self, where: GatewayTarget) -> None:
        import httpx

        self._where = where
        headers = {"authorization": f"Bearer {where.key}"} if where.key else {}
        try:
            self._http = httpx.Client(
                base_url=where.url,
                headers=headers,
                timeout=_TIMEOUT_S,
                trust_env=False,
                verify=trusting(where.certificate) if where.url.startswith("https:") else True,
            )
        except (httpx.InvalidURL, UnicodeEncodeError):
            raise ConfigError(f"--gateway {where.url!r} is no URL, or the key is not plain ASCII") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None) -> Any:
        """The JSON at a path. Raises GenieHiveError."""
        import httpx

        try:
            answer = self._http.get(path, params=params or {})
        except (httpx.HTTPError, httpx.InvalidURL):
            raise GatewayUnreachable(
                f"cannot reach the gateway at {self._where.url}: start it (geniehive up, or geniehive gateway), "
                "or say where it is (--gateway URL)"
            ) from None
        try:
            body = msgspec.json.decode(answer.content)
        except (msgspec.DecodeError, UnicodeDecodeError):
            body = None
        if answer.is_success and body is not None:
            return body
        raise translate(answer, body, self._where)


def translate(answer: httpx.Response, body: Any, where: GatewayTarget) -> GenieHiveError:
    """The error of ours for an answer: its words, and what to do."""
    error = body.get("error") if isinstance(body, dict) else None
    said = error.get("message") if isinstance(error, dict) else None
    if not isinstance(said, str):
        return InternalError(f"what answers at {where.url} is no GenieHive gateway as new as this")
    if answer.status_code == 401:
        return Unauthenticated(f"the gateway at {where.url} wants a key: {_KEY_FIX}")
    return _BY_STATUS.get(answer.status_code, InternalError)(said)
