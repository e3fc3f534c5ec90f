"""What a daemon got by joining a cluster, put into its config."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geniehive.errors import ConfigError

if TYPE_CHECKING:
    from geniehive.config import Config
    from geniehive.config_load import LoadedConfig


def as_joined(loaded: LoadedConfig, command: str) -> Config:
    """The config of a node agent or gateway with what it got by joining: addresses and its name.

    Raises:
        ConfigError: It was given another name than the one in its certificate.
    """
    config = loaded.config
    state_dir = config.node.state_dir if command == "node" else config.gateway.state_dir
    if config.control_plane.ca_file or not os.access(Path(state_dir) / f"{command}-identity/joined.json", os.R_OK):
        return config
    import msgspec

    from geniehive.membership import Membership

    membership = Membership(Path(state_dir) / f"{command}-identity")
    joined = membership.joined()
    if joined is None:
        return config
    given: dict[str, Any] = {}
    if all(loaded.origin(f"control_plane.{key}") == "default" for key in ("address", "addresses")):
        given["control_plane"] = msgspec.structs.replace(config.control_plane, addresses=joined.addresses)
    elif not set(joined.addresses) & set(config.control_plane.targets):
        return config  # another control plane than the one that it joined
    section, key = ("node", "host_id") if command == "node" else ("gateway", "gateway_id")
    name = getattr(getattr(config, section), key)
    if name and name != joined.name:
        raise ConfigError(
            f"{section}.{key} is {name}, but the certificate in {membership.folder} is for {joined.name}: set it so, "
            "or remove that folder and join anew"
        )
    given[section] = msgspec.structs.replace(getattr(config, section), **{key: joined.name})
    return msgspec.structs.replace(config, **given)
