"""Says whether a request carries the token (RFC 6750, section 2.1)."""

from __future__ import annotations

import hmac

from orchd.http1.messages import Head


def is_authorized(head: Head, token: bytes) -> bool:
    """True if the one ``Authorization`` field is ``Bearer <token>``, compared in constant time."""
    scheme, _, credentials = (head.value(b"authorization") or b"").partition(b" ")
    matches = hmac.compare_digest(credentials.strip(), token)
    return matches and scheme.lower() == b"bearer"
