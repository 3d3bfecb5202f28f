"""The ``Date`` of replies (RFC 9110, section 5.6.7), formatted once a second at most."""

from __future__ import annotations

from email.utils import formatdate
from functools import lru_cache


@lru_cache(maxsize=1)
def format_date(second: int) -> bytes:
    """A second of Unix time as the field's value."""
    return formatdate(second, usegmt=True).encode()
