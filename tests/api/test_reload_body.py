"""The body of a reload: none, the one field that there is, and bodies of any kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.api.reload_body import MAX_PATH_BYTES, read_new_model_ref
from orchd.errors import ClientError, Code
from tests.api.bodies import dump, wild_text, wild_values

WANTED = f"new_model_ref must be an absolute path of at most {MAX_PATH_BYTES} bytes, without NUL"


def refuse(body: bytes, engine: str = "llamacpp") -> str:
    """The message that the body is refused with."""
    with pytest.raises(ClientError) as caught:
        read_new_model_ref(body, engine)
    assert caught.value.code is Code.INVALID_PARAMS
    assert len(str(caught.value)) < 1024
    return str(caught.value)


@pytest.mark.parametrize("body", [b"", b"{}", b" {\n} "])
def test_the_same_model_afresh(body: bytes) -> None:
    assert read_new_model_ref(body, "llamacpp") is None


GOOD = [
    "/models/other.gguf",
    "/",
    "/a b/\n\u2028/\U0001f600.gguf",
    "/" + "x" * (MAX_PATH_BYTES - 1),
    "/" + "ä" * ((MAX_PATH_BYTES - 2) // 2) + "x",
]


@pytest.mark.parametrize("path", GOOD, ids=range(len(GOOD)))
@pytest.mark.parametrize("engine", ["llamacpp", "vllm", "openai"])
def test_another_model(path: str, engine: str) -> None:
    assert read_new_model_ref(json.dumps({"new_model_ref": path}).encode(), engine) == path


BAD: list[Any] = [
    *(None, True, 1, 1.5, [], ["/a"], {}, {"path": "/a"}),
    *("", " /a", "a.gguf", "./a.gguf", "~/a.gguf", "file:///a.gguf"),
    *("/a\0", "/\0/b", "/" + "x" * MAX_PATH_BYTES, "/" + "ä" * (MAX_PATH_BYTES // 2)),
]


@pytest.mark.parametrize("value", BAD, ids=range(len(BAD)))
def test_what_is_no_path_is_refused(value: Any) -> None:
    assert refuse(json.dumps({"new_model_ref": value}).encode()) == WANTED


@pytest.mark.parametrize("engine", ["vllm", "openai"])
def test_some_engines_know_models_by_name(engine: str) -> None:
    for name in ("Qwen/Qwen3-8B", "default", "a b", "x" * MAX_PATH_BYTES):
        assert read_new_model_ref(json.dumps({"new_model_ref": name}).encode(), engine) == name
    wanted = WANTED.replace("an absolute", "a model's name or an absolute")
    for value in ("", "-x", "--host", ".", "./m", "../m", "~/m", "~x", "a\0", 1, "x" * 4097):
        assert refuse(json.dumps({"new_model_ref": value}).encode(), engine) == wanted


@pytest.mark.parametrize(
    "body",
    [
        *(b" ", b"{", b"/models/a.gguf", b'{"new_model_ref": "/a"} x', b'{"new_model_ref": NaN}'),
        *(b'{"new_model_ref": "/\\ud800"}', b'{"new_model_ref": "/\xed\xa0\x80"}', b"[" * 20_000),
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    assert refuse(body).startswith("the body is not JSON: ")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"/models/a.gguf"', b"1"])
def test_what_is_no_object(body: bytes) -> None:
    assert refuse(body) == "the body must be a JSON object"


def test_a_body_of_countless_values_is_refused_before_it_is_read() -> None:
    assert "more values than" in refuse(b'{"a": [' + b"[]," * 70_000)


def test_every_fault_is_named_at_once() -> None:
    body = b'{"model": "/a", "new_model_ref": 1, "new_model": "/a"}'
    assert refuse(body).split("; ") == [
        WANTED,
        "unknown field 'model'",
        "unknown field 'new_model' (did you mean 'new_model_ref'?)",
    ]


objects = st.dictionaries(st.just("new_model_ref") | wild_text, wild_values, max_size=2)
paths = st.builds(lambda text: {"new_model_ref": f"/{text}"}, wild_text)


@settings(max_examples=200)
@given((objects | paths | wild_values).map(dump) | st.binary(max_size=40))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        path = read_new_model_ref(body, "llamacpp")
    except ClientError as error:
        assert error.code is Code.INVALID_PARAMS
        str(error).encode()
    else:
        assert path is None or (path.startswith("/") and len(path.encode()) <= MAX_PATH_BYTES)
