"""[pure] Values as people read them in a table. Unknown is "-", never 0."""

from __future__ import annotations

from collections.abc import Iterable

from geniehive.resources import Asset, Availability, Host, LeaseState, Service

UNKNOWN = "-"
_KIB = 1024


def text(value: str | None) -> str:
    """A word, or "-"."""
    return value or UNKNOWN


def joined(values: Iterable[str]) -> str:
    """Words separated by commas, or "-"."""
    return ",".join(values) or UNKNOWN


def count(value: float | None, digits: int = 0) -> str:
    """A number, or "-"."""
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """A share of 0 to 1 as "42%", or "-"."""
    return UNKNOWN if share is None else f"{share * 100:.0f}%"


def size(value: float | None) -> str:
    """Bytes as "7.4Gi", or "-"."""
    if value is None:
        return UNKNOWN
    amount = float(value)
    for unit in ("", "Ki", "Mi", "Gi"):
        if amount < _KIB:
            return f"{amount:.0f}{unit}" if amount >= 10 or not unit else f"{amount:.1f}{unit}"
        amount /= _KIB
    return f"{amount:.1f}Ti"


def tokens(value: int | None) -> str:
    """A context size as "32k" where it is a round one, or "-"."""
    if value is None:
        return UNKNOWN
    return f"{value // _KIB}k" if value >= _KIB and value % _KIB == 0 else str(value)


def seconds(value: float | None) -> str:
    """A short time as "340ms" or "2.1s", or "-"."""
    if value is None:
        return UNKNOWN
    return f"{value * 1000:.0f}ms" if value < 1 else f"{value:.1f}s"


def age(value: float | None) -> str:
    """A long time as "45s", "12m", "3h", "9d", or "-"."""
    if value is None:
        return UNKNOWN
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if value >= 2 * length:
            return f"{value / length:.0f}{unit}"
    return f"{value:.0f}s"


def pair(used: float | None, total: float | None) -> str:
    """Bytes used of bytes there, or "-" where nothing is known."""
    return UNKNOWN if used is None and total is None else f"{size(used)}/{size(total)}"


def host_status(host: Host) -> str:
    """The lease, and the availability where it is not the usual one."""
    if host.availability is Availability.AVAILABLE or host.lease is LeaseState.OFFLINE:
        return str(host.lease.value)
    return f"{host.lease.value},{host.availability.value}"


def loaded(asset: Asset) -> str:
    """Whether the model is in memory."""
    return UNKNOWN if asset.loaded is None else "yes" if asset.loaded else "no"


def loaded_count(assets: Iterable[Asset]) -> str:
    """How many are in memory of how many there are: "1/3"; "-/3" where no engine tells."""
    known = [asset.loaded for asset in assets]
    if known and all(value is None for value in known):
        return f"{UNKNOWN}/{len(known)}"
    return f"{sum(1 for value in known if value)}/{len(known)}"


def operations(service: Service) -> str:
    """What the service can be asked."""
    return joined(operation.value for operation in service.operations)


def total(values: Iterable[float | None]) -> float | None:
    """The sum of what is known; None where nothing is."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
