"""How keys and values are named in messages."""

from __future__ import annotations

import datetime
import math

import pytest

from orchd.config.wording import found, found_kind, kind_of, show, show_key


@pytest.mark.parametrize(
    ("value", "kind", "shown"),
    [
        (True, "boolean", "true"),
        (False, "boolean", "false"),
        (7, "integer", "7"),
        (1 << 20_000, "integer", "an integer of 20001 bits"),
        (1.5, "float", "1.5"),
        (math.nan, "float", "nan"),
        (-math.inf, "float", "-inf"),
        ("é x", "string", '"é x"'),
        ('"', "string", '"\\""'),
        ("\0\ud800", "string", '"\\u0000\\ud800"'),
        ("a" * 61, "string", '"' + "a" * 59 + '…"'),
        ([1], "array", "an array"),
        ({"a": 1}, "table", "a table"),
        (datetime.date(2024, 2, 3), "date", "2024-02-03"),
    ],
    ids=lambda value: str(type(value).__name__),
)
def test_value_is_named_in_toml_words(value: object, kind: str, shown: str) -> None:
    assert kind_of(value) == kind
    assert show(value) == shown


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("batch-1_X", "batch-1_X"),
        ("", '""'),
        ("a.b", '"a.b"'),
        ("ü", '"ü"'),
        ("k" * 61, '"' + "k" * 59 + '…"'),
    ],
)
def test_key_is_quoted_only_where_toml_needs_it(name: str, shown: str) -> None:
    assert show_key(name) == shown


def test_found_names_value_and_type() -> None:
    assert found(0, is_secret=False) == "found 0"
    assert found_kind("4", is_secret=False) == 'found the string "4"'
    assert found_kind([], is_secret=False) == "found an array"
    assert found_kind({}, is_secret=False) == "found a table"


def test_a_secret_is_named_by_its_type_at_most() -> None:
    assert "77" not in found(77, is_secret=True)
    assert found_kind(77, is_secret=True) == "found an integer"
