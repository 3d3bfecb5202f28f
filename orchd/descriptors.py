"""Sees to this process's open files: the first three taken, and room for all that it can need.

Many systems allow 1024, as many as select(2) can count; beyond that a client's connection could
take the descriptor that an admitted task needs for its engine.
"""

from __future__ import annotations

import logging
import os
import resource

from orchd.config.model import Config, PoolConfig

log = logging.getLogger(__name__)

_OWN = 128
"""The process's own: libraries, the log, the loop, a model that is looked into."""
_REFUSALS = 64
"""Clients that are told that there are too many, see ``http1.limits``."""
_OF_A_REPLICA = 9
"""Its pipe, its pidfd, its port's lock, and what asks whether it is well."""
_DEVICES_MOST = 16
"""What a replica per device is counted as."""


def fill_standard_descriptors() -> None:
    """Put /dev/null where stdin, stdout or stderr are closed.

    Else a socket gets that number, and what is written there; and libuv ends the process when it
    closes one.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free


def ensure_descriptors(config: Config) -> None:
    """Raise the limit where it is too low; where that is not allowed, say so."""
    wanted = count_needed(config)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        log.warning(
            "may open %d files, and this configuration can need %d: raise the limit (ulimit -n, or"
            " LimitNOFILE= in the unit), or lower max_connections in [server]",
            *(allowed, wanted),
        )


def count_needed(config: Config) -> int:
    """How many files the daemon can have open at once."""
    clients = config.server.max_connections + _REFUSALS
    return _OWN + clients + sum(_count_of_pool(pool) for pool in config.pools)


def _count_of_pool(pool: PoolConfig) -> int:
    replicas = _DEVICES_MOST if pool.replicas == "per-device" else pool.replicas
    # A slot's stream, and the watch that sees it come free; in a reload the old model's finish
    # theirs beside the new one's.
    return 2 * replicas * (2 * pool.slots + _OF_A_REPLICA)
