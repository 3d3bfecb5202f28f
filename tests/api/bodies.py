"""Bodies of a submission for property tests: good ones, bent ones, and what is hardly a body."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from tests.fakes.house import TASK_ID

texts = st.text(max_size=50)
"""Without lone surrogates, which are no text."""


def integers(low: int, high: int) -> st.SearchStrategy[int]:
    """The ends are taken more often than chance would."""
    return st.sampled_from([low, high]) | st.integers(low, high)


names = st.sampled_from(["chat", "a.gguf", "llamacpp", "/models/a.gguf"])
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "task_id": st.uuids().map(str) | st.just(TASK_ID.upper()),
    "session_id": st.uuids().map(str),
    "pool_id": names,
    "model_ref": names,
    "engine": names,
    "workload": st.just("completion"),
    "priority": st.sampled_from(["interactive", "batch"]),
    "max_tokens": integers(1, 1_000_000),
    "ctx": integers(1, 10_000_000),
    "seed": integers(0, 2**32 - 1),
    "temperature": st.floats(0, 100) | integers(0, 100),
    "top_p": st.floats(0, 1) | integers(0, 1),
    "top_k": integers(0, 1_000_000),
    "min_p": st.floats(0, 1) | integers(0, 1),
    "stop": st.text(min_size=1, max_size=9)
    | st.lists(st.text(min_size=1, max_size=9), max_size=16),
}
turns = st.fixed_dictionaries({"role": st.text(min_size=1, max_size=9), "content": texts})
good_tasks = st.fixed_dictionaries({"prompt": texts}, optional=VALUES) | st.fixed_dictionaries(
    {"messages": st.lists(turns, min_size=1, max_size=4)}, optional=VALUES
)

wild_text = st.text(st.characters(exclude_categories=()), max_size=20)
"""Lone surrogates and all."""
wild_numbers = (
    st.integers(-(2**70), 2**70)
    | st.sampled_from([2**63, 2**64, -(2**63) - 1, 10**400])
    | st.floats()
    | st.sampled_from([1e308, 5e-324, -0.0])
)
wild_values = st.recursive(
    st.none() | st.booleans() | wild_numbers | wild_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(wild_text, inner, max_size=4),
    max_leaves=12,
)
keys = st.sampled_from(["prompt", "messages", "promt", "deadline_ms", *VALUES]) | wild_text


def dump(value: Any, is_ascii: bool = True) -> bytes:
    """JSON as the standard library writes it: NaN, Infinity and lone surrogates as well."""
    return json.dumps(value, ensure_ascii=is_ascii).encode("utf-8", "surrogatepass")


@st.composite
def bent_tasks(draw: st.DrawFn) -> bytes:
    """A good task with a few members that are wrong, too many, doubled or gone."""
    members = list(draw(good_tasks).items())
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(members)))
        members[at : at + draw(st.integers(0, 1))] = draw(
            st.lists(st.tuples(keys, wild_values), max_size=1)
        )
    is_ascii = draw(st.booleans())
    pairs = (dump(key, is_ascii) + b":" + dump(value, is_ascii) for key, value in members)
    return b"{" + b",".join(pairs) + b"}"


@st.composite
def torn(draw: st.DrawFn, whole: st.SearchStrategy[bytes]) -> bytes:
    """A few bytes exchanged, or the end cut off."""
    data = bytearray(draw(whole))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
    return bytes(data[: draw(st.integers(0, len(data)))]) if draw(st.booleans()) else bytes(data)


@st.composite
def monsters(draw: st.DrawFn) -> bytes:
    """Large or deep."""
    size = draw(st.sampled_from([127, 128, 1023, 1024, 1025, 20_000, 70_000]))
    piece = draw(st.sampled_from([b"[", b"{", b'{"a":', b"[]", b",", b'"', b"\\", b"9", b"\xff"]))
    before = draw(st.sampled_from([b"", b'{"prompt":', b'{"prompt":"a","stop":[', b'{"prompt":"']))
    after = draw(st.sampled_from([b"", b'"}', b"]}", b"}"]))
    return before + piece * size + after


bodies = (
    bent_tasks()
    | wild_values.map(dump)
    | torn(bent_tasks())
    | monsters()
    | st.binary(max_size=60)
    | bent_tasks().map(lambda data: b"\xef\xbb\xbf" + data)
    | good_tasks.map(lambda task: json.dumps(task).encode("utf-16"))
)
