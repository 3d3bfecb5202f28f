"""Header fields of a head."""

from __future__ import annotations

from orchd.http1.messages import Head

HEAD = Head("GET", "/", "", ((b"a", b"1"), (b"b", b"2"), (b"a", b"3")))


def test_values_come_in_order() -> None:
    assert HEAD.values(b"a") == [b"1", b"3"]
    assert HEAD.values(b"c") == []


def test_a_value_is_the_only_one() -> None:
    assert HEAD.value(b"b") == b"2"
    assert HEAD.value(b"a") is None
    assert HEAD.value(b"c") is None
