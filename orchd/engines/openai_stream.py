"""Understands the streams of ``/v1/completions`` and ``/v1/chat/completions``.

An answer is over at ``[DONE]``, once a choice has given its reason: servers send the usage between
the two, before them or with each piece, so the last one counts. A ``[DONE]`` without a reason is a
cut (llama-cpp-python ends a stream so when another request interrupts it). A body that ends after
the reason and without ``[DONE]`` is whole (ik_llama.cpp, older TGI and textgen never send one),
where the dialect does not say otherwise. One that ends well before any event is a refusal:
llama-cpp-python's to a prompt beyond its context (measured on 0.3.36); who dies ends no body well.
One that is something else instead of events is an error in its own JSON, or the server's fault.

Sources: OpenAI's API reference; what vLLM, SGLang, TGI, llama.cpp, llama-cpp-python, mistral.rs
and Ollama were read to send, named where one is the reason for a line.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from orchd.engines.adapter import Done, PromptProgress, Refused, StreamEvent, Text, Unsaid
from orchd.engines.answers import (
    ServerError,
    count,
    judge_in_stream,
    parse_event,
    parse_json_or_none,
)
from orchd.engines.event_stream import EventStreamReader
from orchd.engines.openai_errors import find_error
from orchd.errors import EngineError

_UNSAID = Unsaid()
_SILENT = "the server ended its answer without a word, as some do for a prompt beyond their context"
_NO_EVENTS = "answered with something else than an event stream: it may not know how to stream"
_BEGINNING_BYTES = 64 * 1024
"""So much is looked at of a body that is no event stream."""
_FIELDS = (b"", b"data", b"event", b"id", b"retry")
"""What a line of an event stream begins with before its colon; comments have nothing there."""
_LENGTH_REASONS = frozenset({"length", "max_tokens", "max_length", "model_length"})
_FAILED_REASONS = frozenset(
    {
        *("abort", "aborted", "cancel", "canceled", "cancelled", "error", "failed"),
        *("network_error", "insufficient_system_resource"),
    }
)
"""vLLM's and SGLang's abort, mistral.rs's canceled: the text breaks off, and the task is not to
blame. Every other word is a stop: ``stop``, ``eos_token``, ``stop_sequence``, ``tool_calls``,
``content_filter`` and whatever comes to mean that the model has ended."""


_TEXTS = ("delta", "text", "message")
"""Where a choice has its text, in each of OpenAI's kinds of answers. What stands in another's place
would be lost, and an answer without it taken for whole."""


@dataclass(frozen=True, slots=True)
class Dialect:
    """What one family of servers means by its words."""

    find_error: Callable[[Mapping[str, Any]], ServerError | None]
    """The error that an event is, None where it is none."""
    is_done_needed: bool = False
    """True where a body without ``[DONE]`` was always cut."""


ANY_SERVER = Dialect(find_error)


class _OpenAiParser(ABC):
    """One answer; only its first choice is ours, no request asks for a second."""

    def __init__(self, dialect: Dialect = ANY_SERVER) -> None:
        self._dialect = dialect
        self._reader = EventStreamReader()
        self._mender = _TextMender()
        self._reason: str | None = None
        self._has_begun = False
        self._beginning = bytearray()
        """What came before any event."""
        self._usage: object = None
        self._timings: object = None

    def feed(self, chunk: bytes) -> Iterator[StreamEvent]:
        if not self._has_begun and len(self._beginning) < _BEGINNING_BYTES:
            self._beginning += chunk[:_BEGINNING_BYTES]
        for data in self._reader.feed(chunk):
            yield from self._read_data(data)

    def end(self) -> Iterator[StreamEvent]:
        data = self._reader.end()
        is_whole = data.strip() == b"[DONE]" or parse_json_or_none(data) is not None
        # Behind others, one that is not whole was cut, and says nothing.
        if is_whole or (data and not self._has_begun):
            yield from self._read_data(data)
        if not self._has_begun and _is_no_stream(self._beginning):
            yield self._read_no_stream()
        elif self._dialect.is_done_needed:
            return
        elif self._reason is not None:
            yield self._finish()
        elif not self._has_begun:
            yield Refused(_SILENT)

    @abstractmethod
    def _read_text(self, choice: Mapping[str, Any]) -> str | None:
        """Its piece of the answer, maybe empty; None where the choice has no place for one."""

    def _read_data(self, data: bytes) -> Iterator[StreamEvent]:
        self._has_begun = True
        if data.strip() == b"[DONE]":
            yield self._finish()
        elif data:  # an empty event is a ping
            yield from self._read_event(parse_event(data))

    def _read_no_stream(self) -> Refused:
        """An error with the status of a success. Raises EngineError on all else."""
        said = parse_json_or_none(bytes(self._beginning))
        error = self._dialect.find_error(said) if isinstance(said, dict) else None
        if error is None:
            raise EngineError(_NO_EVENTS)
        return judge_in_stream(error)

    def _read_event(self, said: Any) -> Iterator[StreamEvent]:
        if not isinstance(said, dict):
            raise EngineError("sent an event that is no completion")
        if (error := self._dialect.find_error(said)) is not None:
            yield judge_in_stream(error)
            return
        if isinstance(usage := said.get("usage"), dict):
            self._usage = usage
        if isinstance(timings := said.get("timings"), dict):  # llama.cpp's
            self._timings = timings
        if (choice := _find_choice(said)) is None:
            return
        # Go's servers have "" where others have null (Ollama, and TGI for completions).
        reason = choice.get("finish_reason") or None
        text = self._read_text(choice)
        if text is None and (reason is None or any(choice.get(key) for key in _TEXTS)):
            raise EngineError("sent an event that is no completion")
        if text and (whole := self._mender.take(text)):
            yield Text(whole)
        elif reason is None:
            yield _read_progress(said) or _UNSAID
        if reason is not None:
            if rest := self._mender.end():
                yield Text(rest)
            self._hear_reason(reason)

    def _hear_reason(self, reason: object) -> None:
        match reason:
            # SGLang's own way to say it, beside that of OpenAI's API.
            case str(word) | {"type": str(word)}:
                pass
            case _:
                word = "stop"
        if word.lower() in _FAILED_REASONS:
            raise EngineError(f"broke off its answer ({word})")
        self._reason = word.lower()

    def _finish(self) -> Done:
        if self._reason is None:
            raise EngineError("ended its answer without a reason")
        return Done(
            finish_reason="length" if self._reason in _LENGTH_REASONS else "stop",
            tokens_in=count(self._usage, "prompt_tokens"),
            tokens_out=count(self._usage, "completion_tokens"),
            decode_ms=count(self._timings, "predicted_ms"),
        )


class CompletionParser(_OpenAiParser):
    """``/v1/completions``."""

    def _read_text(self, choice: Mapping[str, Any]) -> str | None:
        match choice:
            case {"text": str(text)}:
                return text
            case {"text": None}:
                return ""
            case {"text": _}:
                raise EngineError("sent an answer that is no text")
            case _:
                return None


class ChatParser(_OpenAiParser):
    """``/v1/chat/completions``: thoughts, tool calls and refusals are no text."""

    def _read_text(self, choice: Mapping[str, Any]) -> str | None:
        match choice:
            case {"delta": {"content": str(text)}}:
                return text
            case {"delta": {"content": None}}:
                return ""
            case {"delta": {"content": [*parts]}}:
                return "".join(map(_read_part, parts))
            case {"delta": {"content": _}}:
                raise EngineError("sent an answer that is no text")
            case {"delta": {}}:
                return ""
            case _:
                return None


class _TextMender:
    """Joins what was cut inside a surrogate pair; a half that has no other is U+FFFD."""

    def __init__(self) -> None:
        self._half = ""

    def take(self, piece: str) -> str:
        """As much as is whole of what has come."""
        text, self._half = self._half + piece, ""
        if text.isascii():
            return text
        if "\ud800" <= text[-1] <= "\udbff":
            text, self._half = text[:-1], text[-1]
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")

    def end(self) -> str:
        """What is left at the end."""
        left, self._half = self._half, ""
        return "\ufffd" if left else ""


def _is_no_stream(body: bytearray) -> bool:
    """Whether it has a line that no event stream has."""
    lines = (bytes(line).strip() for line in body.splitlines())
    return any(line and line.partition(b":")[0] not in _FIELDS for line in lines)


def _find_choice(said: Mapping[str, Any]) -> dict[str, Any] | None:
    """The first choice; None where the event is about something else."""
    match said:
        case {"choices": [*choices]}:
            for choice in choices:
                if not isinstance(choice, dict):
                    raise EngineError("sent an event that is no completion")
                if choice.get("index") in (0, None):
                    return choice
            return None
        case {"choices": None} | {"usage": {}}:
            return None
        case _:
            raise EngineError("sent an event that is no completion")


def _read_part(part: object) -> str:
    """Mistral's models think in parts of another type."""
    match part:
        case {"type": "text", "text": str(text)}:
            return text
        case {"type": str()}:
            return ""
        case _:
            raise EngineError("sent an answer that is no text")


def _read_progress(said: Mapping[str, Any]) -> PromptProgress | None:
    """llama.cpp's, to ``return_progress``."""
    match said:
        case {"prompt_progress": {"processed": int(read), "total": int(total)}}:
            return PromptProgress(read, total)
        case _:
            return None
