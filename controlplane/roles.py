"""Reads the role file into the event that tells the cluster: these are all the roles.

The file is the truth. A stored role that it no longer names goes, and all of them go where no file is
configured any more; otherwise nobody could get rid of one.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

from controlplane.events import RolesLoaded
from geniehive.roles_file import load_roles


async def read_roles(path: str) -> RolesLoaded:
    """What the file at `roles_path` says; an empty path is no roles.

    Raises:
        ConfigError: No such file, or roles that make no sense.
    """
    if not path:
        return RolesLoaded(roles=())
    return RolesLoaded(roles=await asyncio.to_thread(load_roles, Path(path)))
