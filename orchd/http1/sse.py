"""Frames server-sent events (WHATWG HTML, section 9.2).

Data is one line by contract (JSON never holds a raw line break), so one ``data:`` field does.
"""

from __future__ import annotations


def encode_event(seq: int, event: bytes, data: bytes) -> bytes:
    """One event with its id, name and one line of data."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, event, data)


def encode_comment(text: str) -> bytes:
    """One comment line, which readers ignore and which keeps a silent connection alive."""
    return b": %s\n\n" % " ".join(text.split()).encode()
