"""The body of a submission: every field's good and bad values, and bodies of any kind."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.api.fields import MAX_FAULTS_SHOWN
from orchd.api.task_body import MAX_NAME_CHARS, MAX_STOPS, MAX_TURNS, read_task
from orchd.engines.adapter import ChatTurn, Generation
from orchd.errors import ClientError, Code
from orchd.serving.pool_choice import TaskRequest
from orchd.serving.task import Priority

TASK_ID = "123e4567-e89b-12d3-a456-426614174000"
MAX_MESSAGE_CHARS = 4096
TURN = {"role": "user", "content": "a"}
WRONG_TYPES: list[Any] = [None, True, False, {}, {"a": 1}]


def read(**fields: Any) -> TaskRequest:
    """A body with a prompt, unless the fields have one of the two."""
    if "messages" not in fields:
        fields = {"prompt": "a"} | fields
    return read_task(json.dumps(fields).encode())


def refuse(body: bytes) -> str:
    """The message that the body is refused with."""
    with pytest.raises(ClientError) as caught:
        read_task(body)
    assert caught.value.code is Code.INVALID_PARAMS
    message = str(caught.value)
    assert len(message) < MAX_MESSAGE_CHARS
    return message


def refuse_fields(**fields: Any) -> str:
    with_prompt = fields if "messages" in fields else {"prompt": "a"} | fields
    return refuse(json.dumps(with_prompt).encode())


# -- good ---------------------------------------------------------------------------------------


def test_the_least_body() -> None:
    assert read_task(b'{"prompt": "a"}') == TaskRequest(Generation(prompt="a"), size_bytes=15)


def test_every_field() -> None:
    fields = {
        "messages": [{"role": "system", "content": ""}, TURN],
        "task_id": TASK_ID.upper(),
        "session_id": TASK_ID,
        "pool_id": "chat",
        "model_ref": "a.gguf",
        "engine": "llamacpp",
        "workload": "completion",
        "priority": "batch",
        "max_tokens": 1,
        "ctx": 2,
        "seed": 3,
        "temperature": 4,
        "top_p": 0.5,
        "top_k": 6,
        "min_p": 1,
        "stop": ["b", "c"],
    }
    sampling = {"seed": 3, "temperature": 4.0, "top_p": 0.5, "top_k": 6, "min_p": 1.0}
    assert read(**fields) == TaskRequest(
        Generation(
            messages=(ChatTurn("system", ""), ChatTurn("user", "a")),
            max_tokens=1,
            sampling=sampling,
            stop=("b", "c"),
        ),
        priority=Priority.BATCH,
        task_id=TASK_ID,
        session_id=TASK_ID,
        pool_id="chat",
        model_ref="a.gguf",
        engine="llamacpp",
        ctx=2,
        size_bytes=len(json.dumps(fields)),
    )


GOOD: list[tuple[str, Any, Any]] = [
    ("max_tokens", 1, 1),
    ("max_tokens", 1_000_000, 1_000_000),
    ("seed", 0, 0),
    ("seed", 2**32 - 1, 2**32 - 1),
    ("temperature", 0, 0.0),
    ("temperature", 100, 100.0),
    ("temperature", 1e-320, 1e-320),
    ("top_p", 0, 0.0),
    ("top_p", 1, 1.0),
    ("top_k", 0, 0),
    ("min_p", 0.05, 0.05),
    ("stop", "x", ("x",)),
    ("stop", [], ()),
    ("stop", ["x"] * MAX_STOPS, ("x",) * MAX_STOPS),
    ("prompt", "", ""),
    ("prompt", "\u0000\u2028\U0001f600", "\u0000\u2028\U0001f600"),
]


@pytest.mark.parametrize(("name", "value", "expected"), GOOD)
def test_a_good_value(name: str, value: Any, expected: Any) -> None:
    generation = read(**{name: value}).generation
    found = generation.sampling.get(name, getattr(generation, name, None))
    assert found == expected and type(found) is type(expected)


def test_as_many_turns_as_there_may_be() -> None:
    messages = read(messages=[TURN] * MAX_TURNS).generation.messages
    assert messages == (ChatTurn("user", "a"),) * MAX_TURNS


def test_of_a_key_that_is_there_twice_the_last_counts() -> None:
    assert read_task(b'{"prompt": 1, "prompt": "b"}').generation.prompt == "b"


# -- bad ----------------------------------------------------------------------------------------

BAD: dict[str, tuple[str, list[Any]]] = {
    "prompt": ("a string", [*WRONG_TYPES, 1, ["a"]]),
    "messages": (
        f"a list of 1 to {MAX_TURNS} turns",
        [
            *WRONG_TYPES,
            *("a", 1, []),
            [TURN] * (MAX_TURNS + 1),
        ],
    ),
    **dict.fromkeys(
        ("task_id", "session_id"),
        (
            "a UUID",
            [
                *WRONG_TYPES,
                *("", 1, TASK_ID[:-1], TASK_ID + "0", TASK_ID + "\n", " " + TASK_ID),
                *("{" + TASK_ID + "}", TASK_ID.replace("-", ""), TASK_ID.replace("1", "١")),
                TASK_ID.replace("e", "g"),
            ],
        ),
    ),
    **dict.fromkeys(
        ("pool_id", "model_ref", "engine"),
        (
            f"a string of 1 to {MAX_NAME_CHARS} characters",
            [*WRONG_TYPES, "", 1, ["chat"], "x" * (MAX_NAME_CHARS + 1)],
        ),
    ),
    "workload": ('"completion"', [*WRONG_TYPES, "", 1, "embedding", ["completion"]]),
    "priority": ('"interactive" or "batch"', [*WRONG_TYPES, "", 0, "Batch", "realtime"]),
    "max_tokens": (
        "an integer from 1 to 1000000",
        [*WRONG_TYPES, "1", 0, -1, 1_000_001, 1.0, 1.5, 2**63, 2**64, 10**300, [1]],
    ),
    "ctx": ("an integer from 1 to", [*WRONG_TYPES, "1", 0, 10_000_001, 1.0, 2**64]),
    "seed": ("an integer from 0 to 4294967295", [*WRONG_TYPES, "1", -1, 2**32, 2**64, 0.0]),
    "top_k": ("an integer from 0 to", [*WRONG_TYPES, "1", -1, 1_000_001, 0.5, -(2**64)]),
    "temperature": ("a number from 0 to 100", [*WRONG_TYPES, "1", -0.1, 100.1, 2**64, [1]]),
    "top_p": ("a number from 0 to 1", [*WRONG_TYPES, "1", -0.1, 1.1, 2**64]),
    "min_p": ("a number from 0 to 1", [*WRONG_TYPES, "1", -0.1, 1.1, 1e300]),
    "stop": (
        "string",
        [*WRONG_TYPES, 1, "", ["x"] * (MAX_STOPS + 1)],
    ),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in BAD.items() for value in values]
)
def test_a_bad_value_is_refused_with_what_would_be_right(name: str, value: Any) -> None:
    if name == "messages":
        message = refuse_fields(messages=value)
    else:
        message = refuse_fields(**{name: value})
    assert message.startswith(f"{name} must be ")
    assert BAD[name][0] in message
    assert ";" not in message


A_TURN = 'must be a turn {"role": "...", "content": "..."}'
A_ROLE = "role must be a string that is not empty"
A_CONTENT = "content must be a string"
A_STOP = "must be a string that is not empty"


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"messages": [None]}, f"messages[0] {A_TURN}"),
        ({"messages": [TURN, "a"]}, f"messages[1] {A_TURN}"),
        ({"messages": [[]]}, f"messages[0] {A_TURN}"),
        ({"messages": [{}]}, f"messages[0].{A_ROLE}; messages[0].{A_CONTENT}"),
        ({"messages": [TURN, TURN, {"role": "user"}]}, f"messages[2].{A_CONTENT}"),
        ({"messages": [{"content": "a"}]}, f"messages[0].{A_ROLE}"),
        ({"messages": [{"role": "", "content": "a"}]}, f"messages[0].{A_ROLE}"),
        ({"messages": [{"role": 1, "content": "a"}]}, f"messages[0].{A_ROLE}"),
        ({"messages": [TURN | {"content": None}]}, f"messages[0].{A_CONTENT}"),
        ({"messages": [TURN | {"content": [{"text": "a"}]}]}, f"messages[0].{A_CONTENT}"),
        (
            {"messages": [TURN | {"rôle": "x"}, 1]},
            f"messages[0]: unknown field 'rôle' (did you mean 'role'?); messages[1] {A_TURN}",
        ),
        ({"stop": [""]}, f"stop[0] {A_STOP}"),
        ({"stop": ["a", ""]}, f"stop[1] {A_STOP}"),
        ({"stop": ["a", 1]}, f"stop[1] {A_STOP}"),
        ({"stop": [["a"]]}, f"stop[0] {A_STOP}"),
    ],
)
def test_a_fault_inside_a_value_is_told_with_its_path(fields: dict[str, Any], told: str) -> None:
    assert refuse_fields(**fields) == told


def test_of_many_faulty_turns_some_are_named() -> None:
    message = refuse_fields(messages=[{"x" * 1000: 1} for _ in range(MAX_TURNS)])
    assert MAX_FAULTS_SHOWN <= len(message.split("; ")) <= 2 * MAX_FAULTS_SHOWN
    message = refuse_fields(messages=[{f"x{n}": 1 for n in range(50_000)}])
    assert message.count("unknown field") == MAX_FAULTS_SHOWN


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"prompt": "a"',
        b'{"prompt": "a"} x',
        b"{'prompt': 'a'}",
        b'{"prompt": "a",}',
        b'{"prompt": NaN}',
        b'{"prompt": "a", "temperature": NaN}',
        b'{"prompt": "a", "temperature": Infinity}',
        b'{"prompt": "a", "temperature": 1e400}',
        b'{"prompt": "a", "seed": 01}',
        b'{"prompt": "\xff"}',
        b'{"prompt": "\\ud800"}',
        b'{"prompt": "\\udc00\\ud800"}',
        b'{"\\ud800": 1}',
        b'{"prompt": "\xed\xa0\x80"}',
        b'{"prompt": "a\nb"}',
        b'\xef\xbb\xbf{"prompt": "a"}',
        '{"prompt": "a"}'.encode("utf-16"),
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b'{"prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
        b"\x00",
    ],
)
def test_what_is_not_json(body: bytes) -> None:
    assert refuse(body).startswith("the body is not JSON: ")


@pytest.mark.parametrize("body", [b"null", b"[]", b'"prompt"', b"1", b"true", b'[{"prompt": "a"}]'])
def test_what_is_no_object(body: bytes) -> None:
    assert refuse(body) == "the body must be a JSON object"


def test_exactly_one_of_prompt_and_messages() -> None:
    needed = "exactly one of prompt and messages is needed"
    assert refuse(b"{}") == needed
    assert refuse_fields(prompt="a", messages=[TURN]) == needed


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("max_token", "unknown field 'max_token' (did you mean 'max_tokens'?)"),
        ("Prompt", "unknown field 'Prompt' (did you mean 'prompt'?)"),
        ("top-k", "unknown field 'top-k' (did you mean 'top_k'?)"),
        ("deadline_ms", "unknown field 'deadline_ms'"),
        ("tenant", "unknown field 'tenant'"),
        ("n\n", "unknown field 'n\\n'"),
        ("", "unknown field ''"),
    ],
)
def test_an_unknown_field_is_named_with_the_nearest(name: str, told: str) -> None:
    assert refuse_fields(**{name: 1}) == told


def test_a_long_name_is_cut() -> None:
    assert refuse_fields(**{"x" * 100_000: 1}) == f"unknown field {'x' * 64!r}"


def test_every_fault_is_named_at_once() -> None:
    message = refuse_fields(prompt=1, messages=2, seed=-1, ctx="x", deadline_ms=1, temprature=1)
    assert message.split("; ") == [
        "prompt must be a string",
        'messages must be a list of 1 to 4096 turns {"role": "...", "content": "..."}',
        "seed must be an integer from 0 to 4294967295",
        "ctx must be an integer from 1 to 10000000",
        "unknown field 'deadline_ms'",
        "unknown field 'temprature' (did you mean 'temperature'?)",
        "exactly one of prompt and messages is needed",
    ]


def test_of_many_unknown_fields_some_are_named() -> None:
    # Were each compared with every known name, this would take a quarter of a minute.
    message = refuse_fields(**{f"max_token{number}": 1 for number in range(50_000)})
    assert message.count("unknown field '") == MAX_FAULTS_SHOWN
    assert message.endswith(f"; {50_000 - MAX_FAULTS_SHOWN} more unknown fields")


@pytest.mark.parametrize("value", ["[]", "[[[]]]", "{}", "0", '""', '{"":""}', r'"\\"', r'"\""'])
def test_a_body_of_countless_values_is_refused_before_it_is_read(value: str) -> None:
    # Were it read, it would hold up the event loop for a second.
    body = '{"stop": [' + ",".join([value] * 70_000) + "]"  # not JSON, which nobody finds out
    with pytest.raises(ClientError, match="more values than any task has"):
        read_task(body.encode())


@pytest.mark.parametrize("piece", ["[{,", '{"a": [1, 2]},', "\\[,", '\\",[', '\\\\",['])
def test_a_prompt_may_hold_whatever_it_likes(piece: str) -> None:
    prompt = piece * 70_000
    assert read_task(json.dumps({"prompt": prompt}).encode()).generation.prompt == prompt


def test_the_longest_conversation_is_read() -> None:
    turns = [{"role": "user", "content": '"[,'}] * MAX_TURNS
    assert read_task(json.dumps({"messages": turns, "stop": ["a"] * MAX_STOPS}).encode())


# -- any ----------------------------------------------------------------------------------------

scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters(), max_size=20)
    | st.sampled_from([TASK_ID, "completion", "batch", "user"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
names = st.sampled_from([*BAD, "role", "content", "deadline_ms"]) | st.text(max_size=12)
bodies = st.dictionaries(names, values, max_size=8).map(lambda v: json.dumps(v).encode())


@settings(max_examples=300, deadline=None)
@given(bodies | values.map(lambda v: json.dumps(v).encode()) | st.binary(max_size=50))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    try:
        request = read_task(body)
    except ClientError as error:
        assert error.code is Code.INVALID_PARAMS
        str(error).encode()
    else:
        generation = request.generation
        assert (generation.prompt is None) != (generation.messages is None)
