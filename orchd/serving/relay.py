"""One task on one slot: the engine's stream, from the request to its last word."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import assert_never

from orchd.config.model import PoolConfig
from orchd.engines.adapter import (
    Adapter,
    Done,
    Endpoint,
    Generation,
    PromptProgress,
    Refused,
    StreamEvent,
    Text,
    Unsaid,
    max_events,
)
from orchd.engines.client import Receiver, exchange
from orchd.engines.event_stream import MAX_EVENT_BYTES
from orchd.errors import EngineError
from orchd.serving.task import Broken

_UNSAID_PER_EVENT, _UNSAID_MORE = 4, 64
"""How much may come without a text: several pieces for a token (a tool call's name and arguments),
and some around the answer."""
_CHARS_PER_TOKEN, _CHARS_MORE = 1024, MAX_EVENT_BYTES
"""How long a text may be, all of it together: one event of the largest kind, and for each token
several times the longest of any vocabulary known (some hundred blanks). The number of its pieces
alone would bound no memory."""


@dataclass(frozen=True, slots=True)
class Listener:
    """Hears the stream as it comes, within the loop turn that brought it."""

    on_started: Callable[[], None]
    on_prompt: Callable[[PromptProgress], None]
    on_text: Callable[[str], None]
    on_unsaid: Callable[[], None]


async def relay(
    adapter: Adapter,
    pool: PoolConfig,
    endpoint: Endpoint,
    generation: Generation,
    listener: Listener,
) -> Done | Refused | Broken:
    """Run one generation to its end. Cancel it to stop the engine's work on it."""
    parser = adapter.new_parser(generation)
    events_left = max_events(pool, generation)
    unsaid_left = _UNSAID_PER_EVENT * events_left + _UNSAID_MORE
    chars_left = _CHARS_PER_TOKEN * events_left + _CHARS_MORE
    last: Done | Refused | None = None

    def hear(events: Iterable[StreamEvent]) -> bool:
        nonlocal events_left, unsaid_left, chars_left, last
        for event in events:
            match event:
                case Text():
                    events_left -= 1
                    chars_left -= len(event.text)
                    if events_left < 0 or chars_left < 0:
                        raise EngineError("goes on beyond the tokens that it was asked for")
                    listener.on_text(event.text)
                case Unsaid():
                    unsaid_left -= 1
                    if unsaid_left < 0:
                        raise EngineError(
                            "goes on without a word, beyond all that it was asked for"
                        )
                    listener.on_unsaid()
                case PromptProgress():
                    listener.on_prompt(event)
                case Done() | Refused():
                    # Its last word counts, however the connection ends after it.
                    last = event
                    return True
                case _:
                    assert_never(event)
        return False

    request = adapter.generation_request(pool, generation)
    try:
        receiver = Receiver(listener.on_started, lambda chunk: hear(parser.feed(chunk)))
        answer = await exchange(endpoint, request, receiver)
        if answer.status != 200:
            return adapter.read_refusal(answer.status, answer.body)
        if last is None:
            hear(parser.end())
    except EngineError as error:
        return Broken(str(error))
    return last or Broken("ended its stream without its last event")
