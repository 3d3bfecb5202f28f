"""Streams as servers of OpenAI's API send them, written after their sources and documentation.

Each is one answer, ``Hello 🦙`` unless its name says otherwise.
"""

from __future__ import annotations

import json
from typing import Any

DONE = b"data: [DONE]\n\n"
HELLO, LLAMA = "Hello", " \N{LLAMA}"


def event(said: Any) -> bytes:
    """Raw UTF-8, as servers in C++, Rust and Go and FastAPI's ``ensure_ascii=False`` write it."""
    return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\n\n"


def escaped(said: Any) -> bytes:
    """Escapes, as Python's plain ``json.dumps`` writes them."""
    return b"data: " + json.dumps(said).encode() + b"\n\n"


def usage(read: int | None, wrote: int | None, **more: Any) -> dict[str, Any]:
    return {"prompt_tokens": read, "completion_tokens": wrote, **more}


def chat(delta: Any, reason: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": reason}
    head = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    return {**head, "choices": [choice], **more}


def text(piece: Any, reason: Any = None, **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": piece, "logprobs": None, "finish_reason": reason}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "m"}
    return {**head, "choices": [choice], **more}


def last(**said: Any) -> dict[str, Any]:
    """The event that has the usage and no choice."""
    return {"id": "x", "object": "chat.completion.chunk", "choices": [], **said}


ROLE = {"role": "assistant", "content": ""}

VLLM_CHAT = (
    event(chat(ROLE, usage=usage(5, 0, total_tokens=5)))
    + event(chat({"content": HELLO}, usage=usage(5, 1, total_tokens=6)))
    + event(chat({"content": LLAMA}, usage=usage(5, 4, total_tokens=9)))
    + event(chat({"content": ""}, "stop", stop_reason=None, usage=usage(5, 5, total_tokens=10)))
    + event(last(usage=usage(5, 5, total_tokens=10)))
    + DONE
)
"""With ``continuous_usage_stats``."""
VLLM_COMPLETION = (
    event(text(HELLO))
    + event(text(LLAMA))
    + event(text("", "stop", stop_reason=None))
    + event({**last(usage=usage(5, 5)), "object": "text_completion"})
    + DONE
)
VLLM_REASONING = (
    event(chat({"role": "assistant", "content": "", "reasoning_content": None}))
    + event(chat({"reasoning_content": "A greeting"}))
    + event(chat({"reasoning": " is due."}))
    + event(chat({"content": HELLO}))
    + event(chat({"content": LLAMA, "reasoning": None}))
    + event(chat({}, "stop"))
    + event(last(usage=usage(5, 9)))
    + DONE
)
VLLM_TOOLS = (
    event(chat(ROLE))
    + event(chat({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": ""}}]}))
    + event(chat({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}))
    + event(chat({"content": ""}, "tool_calls"))
    + event(last(usage=usage(5, 9)))
    + DONE
)
SGLANG_CHAT = (
    event(chat({"role": "assistant", "content": "", "reasoning_content": None}, usage=None))
    + event(chat({"role": None, "content": HELLO, "tool_calls": None}, usage=None))
    + event(chat({"role": None, "content": LLAMA, "tool_calls": None}, usage=None))
    + event(chat({"role": None, "content": None}, "stop", matched_stop=2, usage=None))
    + event(last(usage=usage(5, 5, reasoning_tokens=0)))
    + DONE
)
SGLANG_COMPLETION = (
    event(text(HELLO, usage=None))
    + event(text(LLAMA, usage=None))
    + event({**text("", "length"), "matched_stop": None})
    + event({**last(usage=usage(5, 5)), "object": "text_completion"})
    + DONE
)
TGI_CHAT = (
    event(chat({"role": "assistant", "content": HELLO}, usage=None))
    + b":\n\n"
    + event(chat({"role": "assistant", "content": LLAMA}, usage=None))
    + event(chat({"role": "assistant", "content": ""}, "stop", usage=None))
    + event(last(usage=usage(5, 5, total_tokens=10)))
    + DONE
)
TGI_COMPLETION = event(text(HELLO, "")) + event(text(LLAMA, "eos_token", usage=usage(5, 5))) + DONE
"""Its completions have "" for no reason, and the last text with the reason."""
LLAMA_CPP_CHAT = (
    event(chat({"role": "assistant", "content": None}))
    + event(chat({"content": HELLO}))
    + event(chat({"content": LLAMA}))
    + event(chat({}, "stop"))
    + event(last(usage=usage(5, 5), timings={"predicted_n": 5, "predicted_ms": 101.6}))
    + DONE
)
LLAMA_CPP_COMPLETION = (
    event(text(HELLO))
    + event(text(LLAMA))
    + event(text("", "stop", usage=usage(5, 5), timings={"predicted_ms": 101.6}))
    + DONE
)
LLAMA_CPP_PYTHON_CHAT = (
    escaped(chat({"role": "assistant"}))
    + escaped(chat({"content": HELLO}))
    + b": ping - 2026-01-01 00:00:00.000000\n\n"
    + escaped(chat({"content": LLAMA}))
    + escaped(chat({}, "stop"))
    + DONE
).replace(b"\n", b"\r\n")
"""Counts nothing in a stream; sse-starlette ends lines with CRLF and pings."""
LLAMA_CPP_PYTHON_COMPLETION = (
    escaped(text(HELLO)) + escaped(text(LLAMA)) + escaped(text("", "stop")) + DONE
).replace(b"\n", b"\r\n")
MISTRAL_RS_CHAT = (
    event(chat({"content": HELLO, "role": "assistant"}, usage=None))
    + event(chat({"content": LLAMA, "role": "assistant"}, "stop", usage=usage(5, 5)))
    + DONE
)
OLLAMA_CHAT = (
    event(chat({"role": "assistant", "content": HELLO}, ""))
    + event(chat({"role": "assistant", "content": LLAMA}, ""))
    + event(chat({"role": "assistant", "content": ""}, "stop"))
    + DONE
)
"""Of the versions that had "" for no reason."""
IK_LLAMA_CHAT = (
    event(chat({"role": "assistant", "content": None}))
    + event(chat({"content": HELLO}))
    + event(chat({"content": LLAMA}))
    + event(chat({}, "stop", usage=usage(5, 5)))
)
"""Without ``[DONE]``."""
AZURE_CHAT = (
    event({"choices": [], "prompt_filter_results": [{"prompt_index": 0}], "usage": None})
    + event(chat({"role": "assistant", "content": "", "refusal": None}))
    + event(chat({"content": HELLO}, usage=None))
    + event(chat({"content": LLAMA}, usage=None))
    + event(chat({}, "stop", usage=None))
    + event(last(usage=usage(5, 5)))
    + DONE
)
MISTRAL_CHAT = (
    event(chat({"role": "assistant", "content": [{"type": "thinking", "thinking": []}]}))
    + event(chat({"content": [{"type": "text", "text": HELLO}]}))
    + event(chat({"content": [{"type": "text", "text": " "}, {"type": "text", "text": "🦙"}]}))
    + event(chat({"content": ""}, "stop", usage=usage(5, 5)))
    + DONE
)
GO_CHAT = (
    event({**chat({"role": "assistant"}), "error": None})
    + b"data:\n\n"
    + event({"choices": [{"delta": {"content": HELLO}}], "error": {}})
    + event({"choices": [{"delta": {"content": LLAMA}}]})
    + event({"choices": None, "usage": usage(5, 5)})
    + event({"choices": [{"index": 0, "finish_reason": "stop"}]})
    + event({"usage": usage(5, 6)})
    + b"data: [DONE] \n\n"
)
"""Fields left out, null where others have nothing, the usage before the reason and after it."""
