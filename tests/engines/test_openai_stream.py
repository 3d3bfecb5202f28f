"""Streams of OpenAI's API in every server's shape, whole and torn anywhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.engines.adapter import Done, Refused, StreamEvent, Text, Unsaid
from orchd.engines.event_stream import MAX_EVENT_BYTES
from orchd.engines.openai_errors import find_error
from orchd.engines.openai_stream import ANY_SERVER, ChatParser, CompletionParser, Dialect
from orchd.errors import EngineError
from tests.engines import openai_shapes as shapes
from tests.engines.openai_shapes import DONE, chat, escaped, event, last, text, usage

Kind = type[ChatParser] | type[CompletionParser]
CHAT, COMPLETION = ChatParser, CompletionParser
BOTH = pytest.mark.parametrize("kind", [CHAT, COMPLETION])
Said = Sequence[StreamEvent]
ANSWER = [Text(shapes.HELLO), Text(shapes.LLAMA)]
COUNTED: Said = [*ANSWER, Done("stop", 5, 5, None)]
UNCOUNTED: Said = [*ANSWER, Done("stop", None, None, None)]
TIMED: Said = [*ANSWER, Done("stop", 5, 5, 102)]

STREAMS: dict[str, tuple[Kind, bytes, Said]] = {
    "vllm-chat": (CHAT, shapes.VLLM_CHAT, COUNTED),
    "vllm-completion": (COMPLETION, shapes.VLLM_COMPLETION, COUNTED),
    "vllm-reasoning": (CHAT, shapes.VLLM_REASONING, [*ANSWER, Done("stop", 5, 9, None)]),
    "vllm-tools": (CHAT, shapes.VLLM_TOOLS, [Done("stop", 5, 9, None)]),
    "sglang-chat": (CHAT, shapes.SGLANG_CHAT, COUNTED),
    "sglang-completion": (
        COMPLETION,
        shapes.SGLANG_COMPLETION,
        [*ANSWER, Done("length", 5, 5, None)],
    ),
    "tgi-chat": (CHAT, shapes.TGI_CHAT, COUNTED),
    "tgi-completion": (COMPLETION, shapes.TGI_COMPLETION, COUNTED),
    "llama.cpp-chat": (CHAT, shapes.LLAMA_CPP_CHAT, TIMED),
    "llama.cpp-completion": (COMPLETION, shapes.LLAMA_CPP_COMPLETION, TIMED),
    "llama-cpp-python-chat": (CHAT, shapes.LLAMA_CPP_PYTHON_CHAT, UNCOUNTED),
    "llama-cpp-python-completion": (COMPLETION, shapes.LLAMA_CPP_PYTHON_COMPLETION, UNCOUNTED),
    "mistral.rs-chat": (CHAT, shapes.MISTRAL_RS_CHAT, COUNTED),
    "ollama-chat": (CHAT, shapes.OLLAMA_CHAT, UNCOUNTED),
    "ik_llama-chat": (CHAT, shapes.IK_LLAMA_CHAT, COUNTED),
    "azure-chat": (CHAT, shapes.AZURE_CHAT, COUNTED),
    "mistral-chat": (CHAT, shapes.MISTRAL_CHAT, COUNTED),
    "go-chat": (CHAT, shapes.GO_CHAT, [*ANSWER, Done("stop", 5, 6, None)]),
}


def read_all(kind: Kind, chunks: Iterable[bytes]) -> tuple[list[StreamEvent], str | None]:
    """All events of a body that ends well, and what the parser had against it."""
    parser, events = kind(), []
    try:
        for chunk in chunks:
            for said in parser.feed(chunk):
                events.append(said)
        events.extend(parser.end())
    except EngineError as error:
        return events, str(error)
    return events, None


def read(kind: Kind, *chunks: bytes) -> tuple[list[StreamEvent], str | None]:
    """Up to the last word, as its reader hears it: tokens without text left out."""
    events, fault = read_all(kind, chunks)
    said: list[StreamEvent] = [told for told in events if not isinstance(told, Unsaid)]
    ends = [n for n, event in enumerate(said) if isinstance(event, Done | Refused)]
    return said[: ends[0] + 1] if ends else said, fault


# -- answers ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STREAMS)
def test_a_stream_torn_at_every_byte_gives_the_same_events(name: str) -> None:
    kind, stream, expected = STREAMS[name]
    assert read(kind, stream) == (expected, None)
    assert read(kind, *(bytes([byte]) for byte in stream)) == (expected, None)
    for cut in range(len(stream)):
        assert read(kind, stream[:cut], stream[cut:]) == (expected, None)


@given(st.sampled_from(sorted(STREAMS)), st.lists(st.integers(0, 900), max_size=6))
def test_a_stream_torn_anywhere_gives_the_same_events(name: str, cuts: list[int]) -> None:
    kind, stream, expected = STREAMS[name]
    ends = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(ends)]
    assert read(kind, *pieces) == (expected, None)


@pytest.mark.parametrize("name", sorted(set(STREAMS) - {"ik_llama-chat"}))
def test_a_whole_answer_is_over_at_its_last_event(name: str) -> None:
    """Also where the connection stays open."""
    kind, stream, expected = STREAMS[name]
    events = [said for said in kind().feed(stream) if not isinstance(said, Unsaid)]
    assert events == expected


@pytest.mark.parametrize("name", STREAMS)
def test_a_body_that_ends_before_the_reason_has_no_end(name: str) -> None:
    kind, stream, expected = STREAMS[name]
    reason = max(stream.rfind(b'"finish_reason": "%s"' % r) for r in (b"stop", b"length", b"eos"))
    reason = max(reason, stream.rfind(b'"tool_calls"'), stream.rfind(b'"eos_token"'))
    events, fault = read(kind, stream[:reason])
    assert fault is None and not any(isinstance(said, Done) for said in events)
    assert events == expected[: len(events)]


@BOTH
def test_a_body_without_any_event_is_a_refusal(kind: Kind) -> None:
    """llama-cpp-python's to a prompt beyond its context, with its words on stderr alone."""
    fields = b"event: message\r\nid: 1\r\nretry: 5\r\n\r\n"
    for chunks in ([], [b""], [b": ping\r\n\r\n"], [b"\n\n"], [fields]):
        (refused,), fault = read(kind, *chunks)
        assert isinstance(refused, Refused) and fault is None and not refused.is_busy
    role = event(chat({"role": "assistant"})) if kind is CHAT else event(text(""))
    assert read(kind, role) == ([], None)


NO_STREAM = "answered with something else than an event stream: it may not know how to stream"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"error":{"message":"too long","code":400}}', Refused("too long")),
        (b'{\n "error": {\n  "message": "too long", "code": 400}}\n', Refused("too long")),
        (b'{"object":"error","message":"later","code":429}', Refused("later", is_busy=True)),
        (b'{"error":"oh","error_type":"generation"}', "gave up: oh"),
        (b'{"choices":[{"index":0,"text":"Hi","finish_reason":"stop"}]}', NO_STREAM),
        (b'{"error": {"message": "' + b"x" * 100_000, NO_STREAM),
        (b"<html>\n\n<p>data: Hi</p>\n\n</html>", NO_STREAM),
        (b"\x1f\x8b\x08\0\n\n", NO_STREAM),
        (b"proxy error: Failed to read connection", NO_STREAM),
        (b"database is locked", NO_STREAM),
        (b'data: {"choices":[]}\ndata: [DONE]\n', "sent what is not JSON"),
        (b'data: {"choices":[]}\r\rdata: [DONE]\r\r', "sent what is not JSON"),
        (b'data: {"choi', "sent what is not JSON"),
    ],
)
@pytest.mark.parametrize("dialect", [ANY_SERVER, Dialect(find_error, is_done_needed=True)])
@BOTH
def test_a_body_that_is_no_event_stream_is_no_refusal(
    kind: Kind, dialect: Dialect, body: bytes, expected: Refused | str
) -> None:
    for chunks in ([body], [bytes([byte]) for byte in body]):
        parser, told = kind(dialect), []
        try:
            for chunk in chunks:
                assert list(parser.feed(chunk)) == []
            told = list(parser.end())
        except EngineError as error:
            assert str(error) == expected
        else:
            assert told == [expected]


@BOTH
def test_of_what_is_no_event_stream_so_much_is_kept(kind: Kind) -> None:
    error = {"error": {"message": "x" * 10_000, "code": 400}}
    assert read(kind, json.dumps(error).encode()) == ([Refused("x" * 1000)], None)
    parser = kind()
    for _ in range(1000):
        assert list(parser.feed(b": a ping, and again\n" * 10)) == []
    assert len(parser._beginning) < 70_000


@BOTH
def test_a_last_event_without_its_blank_line_counts(kind: Kind) -> None:
    said = chat({"content": "Hi"}, "stop") if kind is CHAT else text("Hi", "stop")
    answer = [Text("Hi"), Done("stop", None, None, None)]
    for end in (b"", b"\n", b"\r", b"\r\n"):
        assert read(kind, event(said)[:-2] + end) == (answer, None)
        needed = kind(Dialect(find_error, is_done_needed=True))
        assert list(needed.feed(event(said) + DONE[:-2] + end)) == answer[:1]
        assert list(needed.end()) == answer[1:]
    failed = event({"error": {"message": "oh", "code": 500}})[:-2]
    assert read(kind, event(said)[:20] + failed)[1] == "sent what is not JSON"
    half = event(chat({"content": "Hi"}) if kind is CHAT else text("Hi"))
    assert read(kind, half + failed) == ([Text("Hi")], "gave up: oh")
    assert read(kind, half + failed[:-4]) == ([Text("Hi")], None)


@BOTH
def test_an_answer_in_another_place_is_not_taken_for_an_empty_one(kind: Kind) -> None:
    others = {"message": {"content": "Hi"}, "text" if kind is CHAT else "delta": "Hi"}
    for key, value in others.items():
        said = {"choices": [{"index": 0, key: value, "finish_reason": "stop"}]}
        assert read(kind, event(said) + DONE) == ([], "sent an event that is no completion")
        said["choices"][0][key] = None
        assert read(kind, event(said) + DONE) == ([Done("stop", None, None, None)], None)


@BOTH
def test_an_answer_without_a_reason_was_cut(kind: Kind) -> None:
    """llama-cpp-python ends one so when the next request interrupts it."""
    said = event(chat({"content": "Hi"})) if kind is CHAT else event(text("Hi"))
    assert read(kind, said + DONE) == ([Text("Hi")], "ended its answer without a reason")
    assert read(kind, said) == ([Text("Hi")], None)
    assert read(kind, DONE) == ([], "ended its answer without a reason")


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("stop", "stop"),
        ("STOP", "stop"),
        ("eos", "stop"),
        ("eos_token", "stop"),
        ("stop_sequence", "stop"),
        ("tool_calls", "stop"),
        ("function_call", "stop"),
        ("content_filter", "stop"),
        ("what comes to be", "stop"),
        ({"type": "stop"}, "stop"),
        ({"type": "length"}, "length"),
        ({"odd": 1}, "stop"),
        ("length", "length"),
        ("LENGTH", "length"),
        ("max_tokens", "length"),
    ],
)
@BOTH
def test_the_reason_of_an_end(kind: Kind, word: Any, reason: str) -> None:
    said = chat({"content": "Hi"}, word) if kind is CHAT else text("Hi", word)
    expected = Done("length" if reason == "length" else "stop", None, None, None)
    assert read(kind, event(said) + DONE) == ([Text("Hi"), expected], None)


@pytest.mark.parametrize(
    "word",
    [
        *("abort", "ABORT", "aborted", "cancel", "canceled", "cancelled", "error", "failed"),
        *("network_error", "insufficient_system_resource", {"type": "abort"}),
    ],
)
@BOTH
def test_an_answer_that_the_engine_gave_up_is_no_success(kind: Kind, word: Any) -> None:
    said = chat({"content": "Hi"}, word) if kind is CHAT else text("Hi", word)
    told = "abort" if isinstance(word, dict) else word
    assert read(kind, event(said) + DONE) == ([Text("Hi")], f"broke off its answer ({told})")


@pytest.mark.parametrize("word", ["", None, False, 0])
@BOTH
def test_an_empty_reason_is_none(kind: Kind, word: Any) -> None:
    said = chat({"content": "Hi"}, word) if kind is CHAT else text("Hi", word)
    assert read(kind, event(said)) == ([Text("Hi")], None)


def test_only_the_first_choice_is_ours() -> None:
    other = {"index": 1, "delta": {"content": "no"}, "finish_reason": None}
    stream = (
        event({"choices": [other]})
        + event({"choices": [other, *chat({"content": "Hi"})["choices"]]})
        + event({"choices": [{**other, "finish_reason": "length"}]})
        + event(chat({}, "stop"))
        + DONE
    )
    assert read(CHAT, stream) == ([Text("Hi"), Done("stop", None, None, None)], None)


@pytest.mark.parametrize(
    ("kind", "said", "count"),
    [
        (CHAT, chat({"role": "assistant"}), 1),
        (CHAT, chat({"reasoning_content": "Hm"}), 1),
        (CHAT, chat({"content": None, "reasoning": "Hm"}), 1),
        (CHAT, chat({"tool_calls": [{"index": 0}]}), 1),
        (CHAT, chat({"function_call": {"name": "f"}}), 1),
        (CHAT, chat({"refusal": "I will not"}), 1),
        (CHAT, chat({"content": [{"type": "thinking", "thinking": []}]}), 1),
        (CHAT, chat({}, "stop"), 0),
        (CHAT, last(usage=usage(1, 1)), 0),
        (COMPLETION, text(""), 1),
        (COMPLETION, text(None), 1),
        (COMPLETION, text("", "stop"), 0),
        (COMPLETION, last(usage=usage(1, 1)), 0),
    ],
)
def test_a_token_without_text_is_told_as_one(kind: Kind, said: Any, count: int) -> None:
    parser = kind()
    assert list(parser.feed(event(said))) == [Unsaid()] * count
    assert list(parser.feed(b": ping\n\ndata:\n\n")) == []


@pytest.mark.parametrize(
    ("told", "counts"),
    [
        ({}, (None, None)),
        ({"usage": None}, (None, None)),
        ({"usage": {}}, (None, None)),
        ({"usage": usage(None, 3)}, (None, 3)),
        ({"usage": usage(-1, 2**60)}, (None, None)),
        ({"usage": {"prompt_tokens": True, "completion_tokens": "3"}}, (None, None)),
        ({"usage": usage(7, 0)}, (7, 0)),
        ({"usage": [7]}, (None, None)),
    ],
)
@BOTH
def test_counts_are_the_servers_own_or_none(
    kind: Kind, told: dict[str, Any], counts: tuple[int | None, int | None]
) -> None:
    end = chat({}, "stop", **told) if kind is CHAT else text("", "stop", **told)
    assert read(kind, event(end) + DONE) == ([Done("stop", *counts, None)], None)


def test_the_last_usage_counts_wherever_it_stands() -> None:
    before, after = event(last(usage=usage(1, 1))), event(last(usage=usage(5, 5)))
    end = event(chat({}, "stop"))
    for stream in (before + after + end, before + end + after, end + before + after):
        assert read(CHAT, stream + DONE) == ([Done("stop", 5, 5, None)], None)
    nulled = end + after + event(last(usage=None))
    assert read(CHAT, nulled + DONE) == ([Done("stop", 5, 5, None)], None)


# -- whole text ------------------------------------------------------------------------------------

HALVES = "\ud83e", "\udd99"


def written(pieces: Iterable[str], kind: Kind = CHAT) -> list[str]:
    """The pieces that a reader gets of these, each of which was one event."""
    end = chat({}, "stop") if kind is CHAT else text("", "stop")
    saids = [chat({"content": piece}) if kind is CHAT else text(piece) for piece in pieces]
    stream = b"".join(escaped(said) for said in (*saids, end)) + DONE
    events, fault = read(kind, stream)
    assert fault is None and isinstance(events[-1], Done)
    return [said.text for said in events if isinstance(said, Text)]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (("\N{LLAMA}",), ["\N{LLAMA}"]),
        (HALVES, ["\N{LLAMA}"]),
        (("a" + HALVES[0], HALVES[1] + "b"), ["a", "\N{LLAMA}b"]),
        ((HALVES[0], "", HALVES[1]), ["\N{LLAMA}"]),
        ((HALVES[0], HALVES[0], HALVES[1]), ["\ufffd", "\N{LLAMA}"]),
        ((HALVES[0], "a"), ["\ufffda"]),
        ((HALVES[1], "a"), ["\ufffd", "a"]),
        (("a", HALVES[0]), ["a", "\ufffd"]),
        (("a\ufffd", "b"), ["a\ufffd", "b"]),
        (("é\0", "\u2028"), ["é\0", "\u2028"]),
    ],
)
@BOTH
def test_text_is_whole_however_it_was_cut(
    kind: Kind, pieces: tuple[str, ...], expected: list[str]
) -> None:
    assert written(pieces, kind) == expected
    "".join(expected).encode()


@given(st.text(), st.lists(st.integers(0, 20), max_size=4))
def test_text_cut_between_any_two_utf_16_units_is_whole_again(said: str, cuts: list[int]) -> None:
    units = said.encode("utf-16-le")
    ends = [0, *sorted(min(2 * cut, len(units)) for cut in cuts), len(units)]
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in pairwise(ends)]
    assert "".join(written(pieces)) == said


@BOTH
def test_a_half_that_ends_the_last_text_is_told_before_the_end(kind: Kind) -> None:
    end = chat({"content": HALVES[0]}, "stop") if kind is CHAT else text(HALVES[0], "stop")
    expected = [Text("\ufffd"), Done("stop", None, None, None)]
    assert read(kind, escaped(end) + DONE) == (expected, None)


# -- errors ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        # vLLM and llama.cpp; SGLang's, which is nested in mid-stream too.
        ({"error": {"message": "too long", "type": "x", "code": 400}}, Refused("too long")),
        ({"error": {"object": "error", "message": "no", "code": 400}}, Refused("no")),
        ({"error": {"message": "later", "code": 429}}, Refused("later", is_busy=True)),
        ({"error": {"message": "oh", "type": "InternalServerError", "code": 500}}, "gave up: oh"),
        # Older vLLM and SGLang, flat.
        ({"object": "error", "message": "no", "type": "x", "code": 400}, Refused("no")),
        ({"object": "error", "message": "oh", "type": "x", "code": 503}, "gave up: oh"),
        ({"object": "error"}, "gave up: an error without a message"),
        # OpenAI, llama-cpp-python, mistral.rs: a word for a code, or none.
        (
            {"error": {"message": "no", "type": "x", "code": "context_length_exceeded"}},
            Refused("no"),
        ),
        (
            {"error": {"message": "no", "type": "invalid_request_error", "code": None}},
            Refused("no"),
        ),
        ({"error": {"message": "no", "type": "BadRequestError"}}, Refused("no")),
        ({"error": {"message": "oh", "type": "server_error", "code": None}}, "gave up: oh"),
        (
            {"error": {"message": "later", "type": "overloaded_error"}},
            Refused("later", is_busy=True),
        ),
        ({"error": {"message": "odd", "code": "400"}}, Refused("odd")),
        ({"error": {"message": "odd", "code": "502"}}, "gave up: odd"),
        ({"error": {"message": "odd", "code": "4000"}}, "gave up: odd"),
        ({"error": {"message": "odd", "code": "9" * 5000}}, "gave up: odd"),
        ({"error": {"message": "odd", "code": True}}, "gave up: odd"),
        ({"error": {"message": "odd", "code": True, "type": "validation"}}, Refused("odd")),
        ({"error": {"message": "odd", "code": 200}}, "gave up: odd"),
        ({"error": {"message": "odd", "code": 4.2}}, "gave up: odd"),
        ({"error": {"message": "odd"}, "status_code": 422}, Refused("odd")),
        ({"error": {"message": "odd", "code": 500}, "status_code": 422}, "gave up: odd"),
        # TGI.
        ({"error": "no room", "error_type": "validation"}, Refused("no room")),
        ({"error": "full", "error_type": "overloaded"}, Refused("full", is_busy=True)),
        ({"error": "oh", "error_type": "generation"}, "gave up: oh"),
        (
            {"error": {"message": "Input validation error: too long", "http_status_code": 422}},
            Refused("Input validation error: too long"),
        ),
        (
            {"error": {"message": "Model is overloaded", "http_status_code": 422}},
            Refused("Model is overloaded", is_busy=True),
        ),
        (
            {"error": {"message": "Incomplete generation", "http_status_code": 422}},
            "gave up: Incomplete generation",
        ),
        # FastAPI.
        ({"detail": "went away"}, "gave up: went away"),
        ({"detail": "went away", "code": 400}, Refused("went away")),
        # Whoever asks us for another key is another.
        (
            {"error": {"message": "who", "code": 401}},
            "does not take our key (HTTP 401): it is not the engine we started",
        ),
        (
            {"error": {"message": "who", "type": "authentication_error"}},
            "does not take our key (HTTP 401): it is not the engine we started",
        ),
        # Anything.
        ({"error": "just words"}, "gave up: just words"),
        ({"error": {"code": 499}}, Refused("an error without a message")),
        ({"error": ["x"]}, "gave up: an error without a message"),
        ({"error": True}, "gave up: an error without a message"),
        ({"message": "no", "code": 404}, Refused("no")),
        ({"error": {"message": "x" * 5000, "code": 400}}, Refused("x" * 1000)),
        ({"error": {"message": "x" * 5000}}, "gave up: " + "x" * 1000),
        ({"detail": "x" * 5000}, "gave up: " + "x" * 1000),
        # Beside a choice that tries to look like an end (OpenRouter).
        (
            {**chat({"content": ""}, "error"), "error": {"message": "oh", "code": 502}},
            "gave up: oh",
        ),
    ],
)
@BOTH
def test_an_error_in_mid_stream(kind: Kind, said: dict[str, Any], expected: Refused | str) -> None:
    begun = event(chat({"content": "Hi"})) if kind is CHAT else event(text("Hi"))
    for stream in (begun + event(said) + DONE, begun + b"event: error\n" + event(said)):
        for cut in range(0, len(stream), 7):
            events, fault = read(kind, stream[:cut], stream[cut:])
            if isinstance(expected, Refused):
                # What comes after a last word is not asked for.
                assert events == [Text("Hi"), expected]
            else:
                assert (events, fault) == ([Text("Hi")], expected)


def test_a_word_beside_a_choice_is_no_error() -> None:
    for more in ({"message": "m"}, {"detail": "d"}, {"object": "error"}):
        assert read(CHAT, event(chat({"content": "Hi"}) | more)) == ([Text("Hi")], None)
    assert read(CHAT, event({"choices": None})) == ([], None)


def test_an_error_that_is_empty_is_none() -> None:
    nothing: tuple[Any, ...] = (None, "", {}, [], False)
    for empty in nothing:
        said = {**chat({"content": "Hi"}), "error": empty}
        assert read(CHAT, event(said)) == ([Text("Hi")], None)
        assert read(CHAT, event({"error": empty}))[1] == "sent an event that is no completion"


@pytest.mark.parametrize(
    "said",
    [
        "{",
        "nope",
        "1",
        "[]",
        "null",
        '"text"',
        "{}",
        "[DONE",
        "[DONE]]",
        '{"choices":1}',
        '{"choices":{}}',
        '{"choices":[1]}',
        '{"choices":[{}]}',
        '{"choices":[{"delta":null,"text":1,"finish_reason":null}]}',
        '{"choices":[{"delta":{"content":7},"text":7}]}',
        '{"choices":[{"delta":{"content":[1]},"text":[1]}]}',
        '{"choices":[{"delta":{"content":[{"text":"x"}]},"text":{}}]}',
        '{"object":"list","data":[]}',
        r'{"choices":[{"delta":{"content":"\ud83d}}]}',
        r'{"choices":"\ud83d"}',
        "\\u" + "[" * 100_000,
        "[" * 100_000 + r'"\u0000"',
    ],
    ids=range(22),
)
@BOTH
def test_garbage_is_the_engines_fault(kind: Kind, said: str) -> None:
    events, fault = read(kind, b"data: " + said.encode() + b"\n\n")
    assert (events, fault is not None) == ([], True)


@BOTH
def test_bytes_that_are_no_utf_8_are_the_engines_fault(kind: Kind) -> None:
    said = event(chat({"content": "é"}) if kind is CHAT else text("é"))
    broken = said.replace("é".encode(), b"\xc3")
    assert read(kind, broken) == ([], "sent what is not JSON")
    assert read(kind, broken.replace(b"\xc3", b"\xc3\\u0041")) == ([], "sent what is not JSON")


def test_what_came_before_the_garbage_is_heard_even_in_one_chunk() -> None:
    stream = event(chat({"content": "Hi"})) + b"data: {\n\n"
    assert read(CHAT, stream) == ([Text("Hi")], "sent what is not JSON")


@BOTH
def test_an_oversized_event_is_the_engines_fault(kind: Kind) -> None:
    chunks = [b'data: {"content":"', *[b"x" * 2**20] * (MAX_EVENT_BYTES // 2**20)]
    events, fault = read(kind, *chunks)
    assert events == [] and fault is not None and "more than" in fault


keys = st.sampled_from(
    [
        *("choices", "delta", "content", "text", "finish_reason", "index", "usage", "error"),
        *("message", "code", "type", "detail", "loc", "msg", "object", "timings", "x"),
    ]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 600) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@BOTH
@given(st.lists(st.dictionaries(keys, json_values) | json_values, max_size=4))
def test_any_events_are_understood_or_refused(kind: Kind, saids: list[Any]) -> None:
    stream = b"".join(b"data: " + json.dumps(said).encode() + b"\n\n" for said in saids)
    events, fault = read_all(kind, [stream + DONE])
    for said in events:
        match said:
            case Text(words):
                assert words and words.encode()
            case Refused(message):
                assert len(message) <= 1000
            case Done(_, read, wrote, _):
                assert all(n is None or 0 <= n <= 2**53 for n in (read, wrote))
    assert fault is None or len(fault) < 1100
