"""Who carries the token."""

from __future__ import annotations

import pytest

from orchd.http1.auth import is_authorized
from orchd.http1.messages import Head

TOKEN = b"s3cret-\xc3\xa4"


def head(*values: bytes) -> Head:
    return Head("GET", "/", "", tuple((b"authorization", value) for value in values))


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER"])
def test_the_scheme_has_no_case(scheme: bytes) -> None:
    assert is_authorized(head(scheme + b" " + TOKEN), TOKEN)


def test_more_than_one_space_is_forgiven() -> None:
    assert is_authorized(head(b"Bearer   " + TOKEN), TOKEN)


@pytest.mark.parametrize(
    "values",
    [
        (),
        (b"",),
        (b"Bearer",),
        (b"Bearer ",),
        (b"Bearer " + TOKEN[:-1],),
        (b"Bearer " + TOKEN + b"x",),
        (b"Bearer " + TOKEN.upper(),),
        (b"Basic " + TOKEN,),
        (TOKEN,),
        (b"Bearer\t" + TOKEN,),
        (b"Bearer " + TOKEN + b", Bearer " + TOKEN,),
        (b"Bearer " + TOKEN, b"Bearer " + TOKEN),
        (b"Bearer wrong", b"Bearer " + TOKEN),
    ],
)
def test_anything_else_stays_out(values: tuple[bytes, ...]) -> None:
    assert not is_authorized(head(*values), TOKEN)
