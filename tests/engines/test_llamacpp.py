"""llama.cpp's command line, requests and answers, in the shapes that build 11434 showed."""

from __future__ import annotations

import json
from collections.abc import Iterable

import orjson
import pytest

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    Binary,
    ChatTurn,
    Done,
    Generation,
    Identity,
    Launch,
    PromptProgress,
    PythonModule,
    Refused,
    StreamEvent,
    StreamParser,
    Text,
    Unsaid,
)
from orchd.engines.event_stream import MAX_EVENT_BYTES
from orchd.engines.llamacpp import LlamaCpp
from orchd.errors import EngineError

POOL = PoolConfig(id="chat", engine="llamacpp", model="/m.gguf", slots=4, ctx=512)
PROMPT = Generation(prompt="Once")
CHAT = Generation(messages=(ChatTurn("user", "Hello"),))
GPU = Launch("/m.gguf", "GPU-1", "127.0.0.1", 4711, key="the-key")
CPU = Launch("/m.gguf", "cpu", "127.0.0.1", 4711, key="the-key", is_cpu_shared=True)

COMPLETION = (
    b":\n\n"
    b'data: {"index":0,"content":" Paris","tokens":[7042],"stop":false,"id_slot":-1,'
    b'"tokens_predicted":1,"tokens_evaluated":5}\n\n'
    b'data: {"index":0,"content":"","tokens":[28],"stop":false,"id_slot":-1,'
    b'"tokens_predicted":2,"tokens_evaluated":5}\n\n'
    b":\n\n"
    b'data: {"index":0,"content":", \xf0\x9f\xa6\x99","tokens":[5],"stop":false,"id_slot":-1,'
    b'"tokens_predicted":7,"tokens_evaluated":5}\n\n'
    b'data: {"content":"","stop":true,"stop_type":"limit","tokens_predicted":8,'
    b'"tokens_evaluated":5,"timings":{"cache_n":4,"prompt_n":1,"prompt_ms":9.5,'
    b'"predicted_n":8,"predicted_ms":101.6}}\n\n'
)
FIRST = COMPLETION[: COMPLETION.index(b"data:", 10)]
COMPLETION_EVENTS = [Text(" Paris"), Text(", 🦙"), Done("length", 5, 8, 102)]


def chat_chunk(delta: str, finish: str = "null", more: str = "") -> bytes:
    return (
        b'data: {"choices":[{"finish_reason":%s,"index":0,"delta":%s}],"created":1,"id":"chatcmpl-'
        b'x","model":"m","system_fingerprint":"b11434-sdist","object":"chat.completion.chunk"%s}\n\n'
    ) % (finish.encode(), delta.encode(), more.encode())


USAGE = (
    b'data: {"choices":[],"created":1,"id":"chatcmpl-x","model":"m","usage":{"completion_tokens":8,'
    b'"prompt_tokens":33,"total_tokens":41,"prompt_tokens_details":{"cached_tokens":32}},'
    b'"timings":{"prompt_n":1,"predicted_n":8,"predicted_ms":101.4}}\n\n'
)
CHAT_STREAM = (
    chat_chunk('{"role":"assistant","content":null}')
    + chat_chunk('{"content":"Hel"}')
    + chat_chunk('{"content":"lo"}')
    + chat_chunk("{}", '"stop"')
    + USAGE
    + b"data: [DONE]\n\n"
)
CHAT_EVENTS = [Text("Hel"), Text("lo"), Done("stop", 33, 8, 101)]
FULL = (
    b'data: {"error":{"code":500,"message":"Context size has been exceeded.",'
    b'"type":"server_error"}}\n\n'
)


def parser_for(generation: Generation) -> StreamParser:
    return LlamaCpp().new_parser(generation)


def read(generation: Generation, *chunks: bytes) -> tuple[list[StreamEvent], str | None]:
    """The events, tokens without text left out, and what the parser had against the stream."""
    events, fault = read_all(generation, *chunks)
    return [event for event in events if not isinstance(event, Unsaid)], fault


def read_all(generation: Generation, *chunks: bytes) -> tuple[list[StreamEvent], str | None]:
    parser, events = parser_for(generation), []
    try:
        for chunk in chunks:
            for event in parser.feed(chunk):
                events.append(event)
    except EngineError as error:
        return events, str(error)
    return events, None


# -- streams ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generation", "stream", "events", "fault"),
    [
        (PROMPT, COMPLETION, COMPLETION_EVENTS, None),
        (CHAT, CHAT_STREAM, CHAT_EVENTS, None),
        (PROMPT, COMPLETION[:120], [], None),
        (PROMPT, FIRST + FULL, [Text(" Paris")], "gave up: Context size"),
        (CHAT, CHAT_STREAM[:450] + b"\n\n" + FULL, [], "sent what is not JSON"),
        (CHAT, chat_chunk('{"content":"a"}') + FULL, [Text("a")], "gave up: Context size"),
        (PROMPT, COMPLETION.replace(b"\n", b"\r\n"), COMPLETION_EVENTS, None),
        (CHAT, CHAT_STREAM.replace(b"\n", b"\r\n"), CHAT_EVENTS, None),
    ],
)
def test_a_stream_torn_at_every_byte_gives_the_same_events(
    generation: Generation, stream: bytes, events: list[StreamEvent], fault: str | None
) -> None:
    for chunks in (
        [stream],
        [bytes([byte]) for byte in stream],
        *([stream[:cut], stream[cut:]] for cut in range(len(stream))),
    ):
        got, said = read(generation, *chunks)
        assert got[: len(events)] == events
        assert (said is None) == (fault is None) and (fault or "") in (said or ""), said


def test_a_stream_without_its_last_event_says_nothing_of_its_end() -> None:
    """That it is missing is for the one to tell who sees the connection's end."""
    assert read(PROMPT, COMPLETION[: COMPLETION.index(b'data: {"content"')]) == (
        COMPLETION_EVENTS[:2],
        None,
    )
    assert read(CHAT, CHAT_STREAM.removesuffix(b"data: [DONE]\n\n")) == (CHAT_EVENTS[:2], None)


def test_a_body_that_ends_without_the_last_event_was_cut() -> None:
    """Its router ends a stream so whose engine is gone (measured)."""
    for generation, stream in (
        (PROMPT, COMPLETION[: COMPLETION.index(b'data: {"content"')]),
        (CHAT, CHAT_STREAM.removesuffix(b"data: [DONE]\n\n")),
    ):
        parser = parser_for(generation)
        assert [event for event in parser.feed(stream) if isinstance(event, Text)]
        assert list(parser.end()) == []


@pytest.mark.parametrize("generation", [PROMPT, CHAT])
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
        '{"content":1,"stop":false}',
        '{"content":"a"}',
        '{"content":"a","stop":"no"}',
        '{"choices":[{}]}',
        '{"choices":1}',
        '{"choices":[{"delta":{"content":[1]},"finish_reason":null}]}',
        "[DONE]",
    ],
)
def test_garbage_is_the_engines_fault(generation: Generation, said: str) -> None:
    events, fault = read(generation, b"data: " + said.encode() + b"\n\n")
    assert (events, fault is not None) == ([], True)


def test_what_came_before_the_garbage_is_heard_even_in_one_chunk() -> None:
    events, fault = read(PROMPT, FIRST + b"data: {\n\n")
    assert (events, fault) == ([Text(" Paris")], "sent what is not JSON")


def test_an_oversized_event_is_the_engines_fault() -> None:
    head = b'data: {"content":"'
    events, fault = read(PROMPT, head, *[b"x" * 2**20] * (MAX_EVENT_BYTES // 2**20))
    assert events == [] and fault is not None and "more than" in fault


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ('{"code":400,"message":"too long","type":"x"}', Refused("too long")),
        ('{"code":499}', Refused("an error without a message")),
        ('{"code":429,"message":"later"}', Refused("later", is_busy=True)),
        (
            '{"code":401,"message":"who"}',
            "does not take our key (HTTP 401): it is not the engine we started",
        ),
        ('{"code":500,"message":"no"}', "gave up: no"),
        ('{"code":200,"message":"odd"}', "gave up: odd"),
        ('{"code":true,"message":"odd"}', "gave up: odd"),
        ('{"code":"400","message":"odd"}', "gave up: odd"),
        ('"just words"', "gave up: an error without a message"),
        ("null", "gave up: an error without a message"),
    ],
)
@pytest.mark.parametrize("generation", [PROMPT, CHAT])
def test_an_error_in_mid_stream(
    generation: Generation, error: str, expected: Refused | str
) -> None:
    events, fault = read(generation, b'data: {"error":%s}\n\n' % error.encode())
    assert (events, fault) == (
        ([expected], None) if isinstance(expected, Refused) else ([], expected)
    )


@pytest.mark.parametrize(
    ("stop_type", "reason"), [("eos", "stop"), ("word", "stop"), ("limit", "length")]
)
def test_the_reason_of_an_end(stop_type: str, reason: str) -> None:
    said = {"content": "", "stop": True, "stop_type": stop_type}
    (done,), _ = read(PROMPT, b"data: " + json.dumps(said).encode() + b"\n\n")
    assert done == Done("stop" if reason == "stop" else "length", None, None, None)


@pytest.mark.parametrize(
    "timings",
    [
        "null",
        "7",
        "[]",
        "{}",
        '{"predicted_ms":null}',
        '{"predicted_ms":true}',
        '{"predicted_ms":"9"}',
        '{"predicted_ms":1e999}',
        '{"predicted_ms":1e300}',
        '{"predicted_ms":-1}',
        '{"predicted_ms":9007199254740993}',
    ],
)
def test_figures_that_are_none_are_none(timings: str) -> None:
    said = '{"content":"","stop":true,"tokens_evaluated":{},"timings":' + timings + "}"
    events, fault = read(PROMPT, b"data: " + said.encode() + b"\n\n")
    assert fault == "sent what is not JSON" or events == [Done("stop", None, None, None)]
    usage = f'data: {{"choices":[],"usage":null,"timings":{timings}}}\n\n'.encode()
    events, fault = read(CHAT, chat_chunk("{}", '"stop"') + usage + b"data: [DONE]\n\n")
    assert fault == "sent what is not JSON" or events == [Done("stop", None, None, None)]


def test_text_in_the_last_event_comes_before_the_end() -> None:
    last = b'data: {"content":"end","stop":true,"stop_type":"eos"}\n\n'
    assert read(PROMPT, last)[0] == [Text("end"), Done("stop", None, None, None)]


def test_a_chat_without_usage_ends_with_the_figures_it_has() -> None:
    last = chat_chunk("{}", '"length"', ',"timings":{"predicted_ms":7}')
    assert read(CHAT, last + b"data: [DONE]\n\n")[0] == [Done("length", None, None, 7)]


def test_a_reasoning_models_thoughts_and_tool_calls_are_no_text() -> None:
    stream = (
        chat_chunk('{"role":"assistant","content":null}')
        + chat_chunk('{"reasoning_content":"Let me think"}')
        + chat_chunk('{"reasoning_content":" of it.","content":null}')
        + chat_chunk('{"content":""}')
        + chat_chunk('{"tool_calls":[{"index":0,"function":{"arguments":"{"}}]}')
        + chat_chunk('{"content":"42"}')
        + chat_chunk("{}", '"stop"')
        + USAGE
        + b"data: [DONE]\n\n"
    )
    assert read(CHAT, stream) == ([Text("42"), Done("stop", 33, 8, 101)], None)


@pytest.mark.parametrize(
    ("generation", "token", "count"),
    [
        (PROMPT, b'data: {"content":"","tokens":[28],"stop":false}\n\n', 1),
        (CHAT, chat_chunk('{"reasoning_content":"Let me think"}'), 1),
        (CHAT, chat_chunk('{"tool_calls":[{"index":0}]}'), 1),
        (CHAT, chat_chunk("{}", '"stop"'), 0),
        (PROMPT, b":\n\n", 0),
        (CHAT, b":\n\n", 0),
    ],
)
def test_a_token_without_text_is_told_as_one_and_a_ping_is_none(
    generation: Generation, token: bytes, count: int
) -> None:
    assert read_all(generation, token) == ([Unsaid()] * count, None)


# As build 11434 and the embedded engine sent them, to a request with ``response_fields``.
PROGRESS = '"prompt_progress":{"total":2501,"cache":0,"processed":%s,"time_ms":848}'


def completion_progress(processed: str, content: str = "", stop: str = "false") -> bytes:
    said = (
        f'{{"index":0,"content":"{content}","tokens":[0],"stop":{stop},"id_slot":-1,'
        f'"tokens_predicted":0,"tokens_evaluated":2501,{PROGRESS % processed}}}'
    )
    return f"data: {said}\n\n".encode()


@pytest.mark.parametrize(
    ("generation", "told"),
    [
        (PROMPT, completion_progress("256")),
        (CHAT, chat_chunk('{"role":"assistant","content":null}', more="," + PROGRESS % 256)),
    ],
)
def test_a_prompts_progress_is_told(generation: Generation, told: bytes) -> None:
    assert read_all(generation, told) == ([PromptProgress(256, 2501)], None)


def test_text_and_ends_count_whatever_stands_beside_them() -> None:
    assert read_all(PROMPT, completion_progress("256", "Hi"))[0] == [Text("Hi")]
    (done,), _ = read_all(PROMPT, completion_progress("256", stop="true"))
    assert isinstance(done, Done)
    chat = chat_chunk('{"content":"Hi"}', more="," + PROGRESS % 256)
    assert read_all(CHAT, chat)[0] == [Text("Hi")]


def test_progress_in_another_shape_spoils_no_answer() -> None:
    assert read_all(PROMPT, completion_progress('"half"')) == ([Unsaid()], None)


# -- requests --------------------------------------------------------------------------------------


def test_a_prompt_goes_to_completion_with_all_that_was_asked() -> None:
    generation = Generation(
        prompt="Once", max_tokens=7, sampling={"seed": 1, "temperature": 0.5}, stop=("\n", "END")
    )
    request = LlamaCpp().generation_request(POOL, generation)
    body = orjson.loads(request.body)
    fields = body.pop("response_fields")
    assert (request.method, request.path) == ("POST", "/completion")
    assert body == {
        "prompt": "Once",
        "stream": True,
        "return_progress": True,
        "n_predict": 7,
        "seed": 1,
        "temperature": 0.5,
        "stop": ["\n", "END"],
    }
    # What the parser reads has to be among what is asked for.
    read_by_the_parser = orjson.loads(COMPLETION.rstrip().rpartition(b"data: ")[2])
    assert set(fields) == set(read_by_the_parser)


def test_turns_go_to_chat_with_usage() -> None:
    request = LlamaCpp().generation_request(POOL, CHAT)
    assert (request.method, request.path) == ("POST", "/v1/chat/completions")
    assert orjson.loads(request.body) == {
        "messages": [{"role": "user", "content": "Hello"}],
        "stream": True,
        "return_progress": True,
        "max_tokens": 512,
        "stream_options": {"include_usage": True},
    }


def test_an_unbounded_generation_is_bounded_by_the_context() -> None:
    """llama.cpp with a shifting context would go on for ever."""
    body = orjson.loads(LlamaCpp().generation_request(POOL, PROMPT).body)
    assert body["n_predict"] == POOL.ctx


def test_no_prompt_and_no_key_shows_in_a_repr() -> None:
    request = LlamaCpp().generation_request(POOL, PROMPT)
    assert "Once" not in f"{PROMPT}{request}"
    assert "the-key" not in f"{GPU}"


def test_probes() -> None:
    adapter = LlamaCpp()
    assert adapter.health_request().path == "/health"
    assert adapter.identity_request().path == "/props"
    assert adapter.read_identity(POOL, b'{"model_path":"/m","build_info":"b1"}') == Identity(
        "/m", "b1"
    )
    assert adapter.read_identity(POOL, b'{"model_path":"/m"}') == Identity("/m", None)
    for body in (b"{}", b"[]", b"", b"<html>"):
        with pytest.raises(EngineError):
            adapter.read_identity(POOL, body)


def test_of_what_an_engine_says_of_itself_only_so_much_is_told() -> None:
    words = b"x" * 1_000_000
    adapter = LlamaCpp()
    refused = adapter.read_refusal(400, b'{"error":{"message":"%s"}}' % words)
    assert refused == Refused("x" * 1000)
    with pytest.raises(EngineError) as caught:
        adapter.read_refusal(500, b'{"error":{"message":"%s"}}' % words)
    assert len(str(caught.value)) < 1100
    told = adapter.read_identity(POOL, b'{"model_path":"/m","build_info":"%s"}' % words)
    assert told == Identity("/m", "x" * 100)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (400, b'{"error":{"code":400,"message":"too long","n_ctx":512}}', Refused("too long")),
        (404, b"<html>nothing here", Refused("HTTP 404")),
        (401, b"", "does not take our key .HTTP 401.: it is not the engine we started"),
        (403, b"{}", "does not take our key .HTTP 403."),
        (408, b"", Refused("HTTP 408", is_busy=True)),
        (425, b"", Refused("HTTP 425", is_busy=True)),
        (429, b'{"error":{"message":"slow down"}}', Refused("slow down", is_busy=True)),
        (422, b'{"error":"words"}', Refused("HTTP 422")),
        (499, b'{"error":{"message":7}}', Refused("HTTP 499")),
        (500, b'{"error":{"message":"broke"}}', "answered HTTP 500: broke"),
        (503, b'{"error":{"message":"Loading model","code":503}}', "HTTP 503: Loading model"),
        (501, b"\xff\xfe", "^answered HTTP 501$"),
        (302, b"", "answered HTTP 302"),
        (204, b"", "answered HTTP 204"),
    ],
)
def test_an_answer_other_than_200(status: int, body: bytes, expected: Refused | str) -> None:
    if isinstance(expected, Refused):
        assert LlamaCpp().read_refusal(status, body) == expected
    else:
        with pytest.raises(EngineError, match=expected):
            LlamaCpp().read_refusal(status, body)


@pytest.mark.parametrize(
    ("status", "body", "busy"),
    [
        (200, b'[{"id":0,"is_processing":true},{"id":1,"is_processing":false},{"id":2}]', 1),
        (200, b"[]", 0),
        (404, b"", 0),
        (501, b"{}", 0),
    ],
)
def test_slots_at_work_are_counted(status: int, body: bytes, busy: int) -> None:
    assert LlamaCpp().read_busy_slots(status, body) == busy


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"[]"), (200, b"{}"), (200, b"[7]"), (200, b"[null]")]
)
def test_what_is_no_list_of_slots_is_the_engines_fault(status: int, body: bytes) -> None:
    with pytest.raises(EngineError, match=f"HTTP {status} when asked for its slots"):
        LlamaCpp().read_busy_slots(status, body)


# -- the command line ------------------------------------------------------------------------------


def value_of(arguments: list[str], flag: str) -> str:
    assert arguments.count(flag) == 1
    return arguments[arguments.index(flag) + 1]


def test_arguments_give_each_slot_its_context_and_hold_no_key() -> None:
    arguments = LlamaCpp().arguments(POOL, GPU)
    assert "the-key" not in " ".join(arguments)
    assert value_of(arguments, "--ctx-size") == "2048"
    assert value_of(arguments, "--parallel") == "4"
    assert value_of(arguments, "--host") == "127.0.0.1"
    assert value_of(arguments, "--port") == "4711"
    assert value_of(arguments, "--model") == "/m.gguf"
    assert value_of(arguments, "--n-gpu-layers") == "999"
    assert "--no-kv-unified" in arguments
    assert value_of(LlamaCpp().arguments(POOL, CPU), "--n-gpu-layers") == "0"


def test_the_users_arguments_come_last() -> None:
    pool = PoolConfig(id="c", engine="llamacpp", model="/m", args=("--flash-attn", "on"))
    assert LlamaCpp().arguments(pool, GPU)[-2:] == ["--flash-attn", "on"]


def test_the_key_travels_in_the_environment() -> None:
    assert LlamaCpp().environment(GPU) == {"LLAMA_API_KEY": "the-key"}
    assert LlamaCpp().environment(CPU)["OMP_WAIT_POLICY"] == "passive"


def test_what_could_run_it() -> None:
    first, second = LlamaCpp().executables(POOL)
    assert first == Binary("llama-server")
    assert isinstance(second, PythonModule) and second.requires == "xllamacpp"
    pool = PoolConfig(id="c", engine="llamacpp", model="/m", binary="/opt/llama")
    assert LlamaCpp().executables(pool) == (Binary("/opt/llama"),)


def test_a_flag_and_its_value_are_two_words() -> None:
    (fault,) = faults(["--flash-attn on"])
    assert fault == "args[0]"


def faults(args: Iterable[str] = (), **env: str) -> list[str]:
    pool = PoolConfig(id="c", engine="llamacpp", model="/m", args=tuple(args), env=env)
    return [fault.path for fault in LlamaCpp().find_faults(pool)]


def test_flags_that_are_the_daemons_are_faults_however_they_are_written() -> None:
    assert faults(["--flash-attn", "on", "-c", "99"]) == ["args[2]"]
    assert faults(["--port=1", "--api-key", "x", "--api_key", "x"]) == [
        "args[0]",
        "args[1]",
        "args[3]",
    ]
    assert faults(["--ctx_size", "1"]) == ["args[0]"]
    assert faults(["--temp", "0.5", "--top-k", "5"]) == []


def test_llama_cpps_own_variables_are_faults() -> None:
    assert faults(LLAMA_API_KEY="x", LLAMA_ARG_PORT="1", OMP_NUM_THREADS="2") == [
        "env.LLAMA_API_KEY",
        "env.LLAMA_ARG_PORT",
    ]
