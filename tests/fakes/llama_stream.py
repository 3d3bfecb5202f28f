"""What the fake ``llama-server`` streams: tokens in llama.cpp's and OpenAI's shapes, or garbage.

Part of the script ``llama_server.py``: the standard library alone. A shape turns a token, or the
end, into the data of server-sent events.
"""

from __future__ import annotations

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.fakes.llama_faults import MIB, Faults, die, flood, say

SILENCE = b""
"""In place of bytes: nothing more comes, and the connection stays open."""


class Wishes:
    """What the words in brackets of a prompt ask for."""

    def __init__(self, prompt: str) -> None:
        self._found = dict(re.findall(r"\[(\w+) ?([\w.]*)\]", prompt))

    def has(self, name: str) -> bool:
        return name in self._found

    def number(self, name: str, default: float) -> float:
        return float(self._found.get(name) or default)

    def word(self, name: str) -> str:
        return str(self._found.get(name, ""))

    def without_faults(self) -> Wishes:
        kept = [f"[{name} {self.word(name)}]" for name in ("tokens", "every") if self.has(name)]
        return Wishes("".join(kept))


# -- shapes ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """How a route says things."""

    bound: str
    """The key of a request that bounds its tokens."""
    token: Callable[[int, str], str]
    end: Callable[[int, bool], list[str]]
    """Gets how many tokens there were, and whether the bound cut them off."""
    progress: Callable[[int, int], str]
    """Gets how many tokens of the prompt are read, of how many."""


def _completion_token(n: int, text: str) -> str:
    said = {"index": 0, "content": text, "tokens": [7], "stop": False, "id_slot": -1}
    return json.dumps(said | {"tokens_predicted": n + 1, "tokens_evaluated": 5})


def _completion_end(count: int, is_cut: bool) -> list[str]:
    end = {
        "content": "",
        "stop": True,
        "stop_type": "limit" if is_cut else "eos",
        "tokens_predicted": count,
        "tokens_evaluated": 5,
        "timings": {"predicted_ms": 1.5},
    }
    return [json.dumps(end)]


def _prompt_progress(read: int, total: int) -> dict[str, object]:
    told = {"total": total, "cache": 0, "processed": read, "time_ms": 1}
    return {"prompt_progress": told}


def _completion_progress(read: int, total: int) -> str:
    return json.dumps(json.loads(_completion_token(-1, "")) | _prompt_progress(read, total))


def _usage(count: int) -> dict[str, object]:
    return {"prompt_tokens": 5, "completion_tokens": count, "total_tokens": 5 + count}


def _choice(kind: str, choice: Mapping[str, object], **more: object) -> str:
    told = {"choices": [{"index": 0, **choice}], "created": 1, "model": "fake", "object": kind}
    return json.dumps(told | {"id": "chatcmpl-fake"} | more)


def _text_token(n: int, text: str) -> str:
    return _choice("text_completion", {"text": text, "logprobs": None, "finish_reason": None})


def _text_end(count: int, is_cut: bool) -> list[str]:
    # llama.cpp sends the usage with the reason here, whether or not it was asked to.
    last = {"text": "", "logprobs": None, "finish_reason": "length" if is_cut else "stop"}
    return [_choice("text_completion", last, usage=_usage(count)), "[DONE]"]


def _chat_token(n: int, text: str) -> str:
    role = {} if n else {"role": "assistant"}
    choice = {"delta": {**role, "content": text}, "finish_reason": None}
    return _choice("chat.completion.chunk", choice)


def _chat_end(count: int, is_cut: bool) -> list[str]:
    last: dict[str, object] = {"delta": {}, "finish_reason": "length" if is_cut else "stop"}
    usage = {"choices": [], "usage": _usage(count), "timings": {"predicted_ms": 1.5}}
    return [_choice("chat.completion.chunk", last), json.dumps(usage), "[DONE]"]


def _text_progress(read: int, total: int) -> str:
    choice = {"text": "", "logprobs": None, "finish_reason": None}
    return _choice("text_completion", choice, **_prompt_progress(read, total))


def _chat_progress(read: int, total: int) -> str:
    choice = {"delta": {"role": "assistant", "content": None}, "finish_reason": None}
    return _choice("chat.completion.chunk", choice, **_prompt_progress(read, total))


SHAPES = {
    "/completion": Shape("n_predict", _completion_token, _completion_end, _completion_progress),
    "/v1/completions": Shape("max_tokens", _text_token, _text_end, _text_progress),
    "/v1/chat/completions": Shape("max_tokens", _chat_token, _chat_end, _chat_progress),
}


def frame(event: bytes) -> bytes:
    """A chunk of HTTP."""
    return b"%x\r\n%s\r\n" % (len(event), event)


def sse(data: str) -> bytes:
    """A server-sent event."""
    return f"data: {data}\n\n".encode()


# -- tokens ------------------------------------------------------------------------------------


def generate(
    wishes: Wishes,
    count: int,
    is_wanted: Callable[[], bool],
    faults: Faults,
    deafened: threading.Event,
) -> Iterator[str]:
    """The tokens, and on the way whatever fault is wished for."""
    every_s = wishes.number("every", 0)
    if wishes.has("flood"):
        size_bytes = int(wishes.number("flood", 1)) * MIB
        threading.Thread(target=flood, args=(size_bytes, faults), daemon=True).start()
    while wishes.has("held") and not Path(faults.held_until).exists():
        if not is_wanted():
            raise ConnectionResetError
    for n in range(count + 1):
        if deafened.is_set():
            threading.Event().wait()
        if wishes.has("spoil") and n == wishes.number("after", 0):
            return
        if wishes.has("crash") and n == wishes.number("crash", 0):
            die(signal.SIGKILL)
        if wishes.has("exit") and n == wishes.number("exit", 0):
            say("error: asked to exit")
            os._exit(1)
        if wishes.has("hang") and n == wishes.number("hang", 0):
            while is_wanted():
                pass
            raise ConnectionResetError
        if wishes.has("deaf") and n == wishes.number("deaf", 0):
            threading.Event().wait()
        if n and wishes.has("gate"):
            with (Path(faults.gates) / wishes.word("gate")).open("rb", buffering=0) as gate:
                gate.read(1)
        if n < count:
            yield f"t{n} "
            time.sleep(every_s)


# -- garbage -----------------------------------------------------------------------------------


def _garbled(data: str) -> bytes:
    return frame(sse(data))


_LAST_CHUNK = b"0\r\n\r\n"

NO_HTTP = {
    "text": b"all good things must end\r\n\r\n",
    "binary": bytes(range(256)) * 4,
    "head": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Le",
    "nothing": b"",
}
"""What ``[garbage KIND]`` has instead of an answer; then the connection is closed."""

SPOILS: dict[str, tuple[bytes, ...]] = {
    "words": (_garbled("all good things must end"),),
    "cut": (_garbled('{"content": "half a wo'), _LAST_CHUNK),
    "number": (_garbled('{"content": 7, "stop": false}'),),
    "stop": (_garbled('{"content": "x", "stop": "yes"}'),),
    "list": (_garbled('["content", "stop"]'),),
    "null": (_garbled("null"),),
    "deep": (_garbled("[" * 100_000),),
    "unicode": (frame(b'data: {"content": "\xff\xfe", "stop": false}\n\n'),),
    "surrogate": (_garbled(r'{"content": "\ud800", "stop": false}'),),
    "infinite": (
        _garbled('{"content": "", "stop": true, "tokens_predicted": 1%s}' % ("0" * 400)),
        _LAST_CHUNK,
    ),
    "huge": (
        _garbled(
            '{"content": "", "stop": true, "stop_type": ["eos"], "tokens_predicted": 1e300,'
            ' "tokens_evaluated": -1, "timings": {"predicted_ms": 9223372036854775808}}'
        ),
        _LAST_CHUNK,
    ),
    "large": (
        _garbled(json.dumps({"content": "x" * (2 * MIB), "stop": False})),
        _garbled(_completion_end(1, False)[0]),
        _LAST_CHUNK,
    ),
    "endless": (*(frame(b"data: " + b"x" * MIB) for _ in range(16)), SILENCE),
    "error": (
        _garbled('{"error": {"code": 500, "message": "Context size has been exceeded."}}'),
        _LAST_CHUNK,
    ),
    "end": (_LAST_CHUNK,),
    "close": (),
    "size": (b"zz\r\nno size at all\r\n",),
    "chunk": (b"40\r\ndata: {", SILENCE),
    "event": (frame(b'data: {"content": "half an ev'), SILENCE),
}
"""What ``[spoil KIND]`` has after so many tokens; the connection is closed behind it."""
