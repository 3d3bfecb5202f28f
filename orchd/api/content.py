"""Judges what a request says of its body, before the body is read: a length, and JSON.

Nothing is asked of a request that announces no body, except on a route that needs one: an absent
body has no type that could be wrong. A chunked one is taken to be there until it proves empty.
"""

from __future__ import annotations

import re

from orchd.api import wire
from orchd.errors import Code
from orchd.http1.messages import Head, Response
from orchd.http1.router import Body

_TOKEN = r"[!#$%&'*+.^_`|~0-9a-z-]+"
_TYPE = re.compile(rf"({_TOKEN}/{_TOKEN})((?:[ \t]*;.*)?)", re.IGNORECASE | re.DOTALL)
_CHARSET = re.compile(rf';[ \t]*charset=("?)({_TOKEN})\1(?=[ \t]*(?:;|$))', re.IGNORECASE)
_ANY_CHARSET = re.compile(r";[ \t]*charset[ \t]*=", re.IGNORECASE)
# The others are what curl -d and a browser's fetch say of any text, if nobody tells them better.
_JSON_TYPES = ("application/json", "application/x-www-form-urlencoded", "text/plain")
_USUAL = tuple(name.encode() for name in _JSON_TYPES)


def find_fault(head: Head, body: Body) -> Response | None:
    """The refusal of a body that is missing or cannot be read, None where it may come."""
    has_length = head.is_chunked or head.length_bytes is not None
    if body is Body.NEEDED and not has_length:
        message = "this needs a body with a Content-Length, or chunked"
        return wire.error_response(Code.LENGTH_REQUIRED, message)
    is_announced = head.has_body
    if is_announced and not _is_plain(head):
        return wire.error_response(
            Code.UNSUPPORTED_MEDIA_TYPE,
            "no Content-Encoding is understood here; send the body as it is",
            headers=((b"accept-encoding", b"identity"),),
        )
    is_read = body is Body.NEEDED or (body is Body.OPTIONAL and is_announced)
    if is_read and not _is_json(head):
        return wire.error_response(
            Code.UNSUPPORTED_MEDIA_TYPE,
            "the body must be JSON in UTF-8; say Content-Type: application/json, or nothing",
            headers=((b"accept", b"application/json"),),
        )
    return None


def _is_plain(head: Head) -> bool:
    codings = head.values(b"content-encoding")
    return not codings or all(
        name.strip().lower() in (b"", b"identity") for name in b",".join(codings).split(b",")
    )


def _is_json(head: Head) -> bool:
    """As far as the head tells."""
    types = head.values(b"content-type")
    if not types or (len(types) == 1 and types[0] in _USUAL):
        return True
    match = _TYPE.fullmatch(types[0].decode("latin-1"))
    if match is None or len(types) > 1:
        return False
    media_type, parameters = match[1].lower(), match[2]
    is_json = media_type in _JSON_TYPES or media_type.endswith("+json")
    charsets = [found[2].lower() for found in _CHARSET.finditer(parameters)]
    has_odd_one = len(_ANY_CHARSET.findall(parameters)) != len(charsets)
    return is_json and not has_odd_one and set(charsets) <= {"utf-8", "utf8"}
