"""A fake llama.cpp in the test's own loop: HTTP on 127.0.0.1, answers as a script says.

Shapes are those of llama.cpp's server: ``/completion`` ends with ``"stop": true`` and the
connection's end, chat with finish, usage and ``[DONE]``. Each request gets the next script, the
last script all further ones.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from orchd.engines.adapter import Endpoint

KEY = "key-of-the-replica"


class Call:
    """One request to the engine, and what a script can do with it."""

    def __init__(self, head: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        request_line, *lines = head.split("\r\n")
        self.method, self.path, _ = request_line.split(" ")
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines)
        }
        self.body: Any = json.loads(body or b"null")
        self.is_left = asyncio.Event()
        """The client has closed the connection before the answer was over."""
        self.tokens = 0
        self._writer = writer

    @property
    def is_chat(self) -> bool:
        return self.path == "/v1/chat/completions"

    def send(self, data: bytes) -> None:
        """Raw bytes."""
        self._writer.write(data)

    async def drain(self) -> None:
        """Wait while orchd takes less than was said."""
        await self._writer.drain()

    def accept(self) -> None:
        """The head of a stream, which comes before the prompt is read."""
        self.send(
            b"HTTP/1.1 200 OK\r\nServer: llama.cpp\r\nContent-Type: text/event-stream\r\n"
            b"Transfer-Encoding: chunked\r\nKeep-Alive: timeout=5, max=100\r\n\r\n"
        )

    def stream(self, data: bytes) -> None:
        """One chunk of the body."""
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def say(self, *texts: str) -> None:
        """One event in one chunk for each text."""
        for text in texts:
            self.stream(self.token(text))

    def read(self, tokens: int, total: int) -> None:
        """Tell how much of the prompt is read."""
        told: dict[str, Any] = {
            "prompt_progress": {"total": total, "cache": 0, "processed": tokens, "time_ms": 1}
        }
        if self.is_chat:
            told["choices"] = [{"index": 0, "delta": {"role": "assistant", "content": None}}]
            self.stream(event(told, chat=True))
        else:
            self.stream(event({"content": "", "stop": False, **told}))

    def token(self, text: str) -> bytes:
        """The event that holds a text."""
        self.tokens += 1
        if self.is_chat:
            return event({"choices": [{"index": 0, "delta": {"content": text}}]}, chat=True)
        return event({"index": 0, "content": text, "tokens": [1], "stop": False})

    def last(self, tokens_in: int = 5, tokens_out: int | None = None, by: str = "eos") -> bytes:
        """The event or events that end an answer."""
        count = self.tokens if tokens_out is None else tokens_out
        timings = {"predicted_n": count, "predicted_ms": 23.4}
        if not self.is_chat:
            figures = {"tokens_predicted": count, "tokens_evaluated": tokens_in}
            return event(
                {"content": "", "stop": True, "stop_type": by, "timings": timings, **figures}
            )
        usage = {"completion_tokens": count, "prompt_tokens": tokens_in}
        reason = "length" if by == "limit" else "stop"
        finish = {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        return (
            event(finish) + event({"choices": [], "usage": usage, "timings": timings}) + DONE_EVENT
        )

    def finish(self, **figures: Any) -> None:
        """The last event and a clean end."""
        self.stream(self.last(**figures))
        self.send(b"0\r\n\r\n")

    def refuse(self, status: int, body: bytes | None = None, message: str = "no") -> None:
        """An answer that is no stream, in JSON unless a body is given."""
        if body is None:
            error = {"code": status, "message": message, "type": "invalid_request_error"}
            body = json.dumps({"error": error}).encode()
        self.send(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))

    def reset(self) -> None:
        """Die as a process does whose kernel buffers hold unread bytes: RST."""
        sock = self._writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._writer.transport.abort()


DONE_EVENT = b"data: [DONE]\n\n"
Script = Callable[[Call], Awaitable[None]]
"""Returning ends the connection (EOF), as llama.cpp does after every answer."""


def event(said: dict[str, Any], chat: bool = False) -> bytes:
    """One server-sent event."""
    if chat:
        said["choices"][0].setdefault("finish_reason", None)
    return b"data: " + json.dumps(said, ensure_ascii=False).encode() + b"\n\n"


def tells(*texts: str, **figures: Any) -> Script:
    """A script that says the texts and ends well."""

    async def script(call: Call) -> None:
        call.accept()
        call.say(*texts)
        call.finish(**figures)

    return script


def refuses(status: int, body: bytes | None = None, message: str = "no") -> Script:
    """A script that answers with a status."""

    async def script(call: Call) -> None:
        call.refuse(status, body, message)

    return script


def dies(*texts: str, accepts: bool = True, resets: bool = False) -> Script:
    """A script that breaks off after the texts."""

    async def script(call: Call) -> None:
        if accepts:
            call.accept()
            call.say(*texts)
        if resets:
            call.reset()

    return script


def hangs(*texts: str, accepts: bool = True) -> Script:
    """A script that says the texts, then nothing more for as long as the client stays."""

    async def script(call: Call) -> None:
        if accepts:
            call.accept()
            call.say(*texts)
        await call.is_left.wait()

    return script


def waits(gate: asyncio.Event, *texts: str) -> Script:
    """A script that accepts, waits for the gate, then tells the texts and ends well."""

    async def script(call: Call) -> None:
        call.accept()
        await gate.wait()
        call.say(*texts)
        call.finish()

    return script


class FakeEngine:
    """``async with`` starts and ends it; ``calls`` has every request in order of arrival.

    It tells of its slots by itself, without a script: as many are at work as calls are answered,
    and ``lingering`` more.
    """

    def __init__(self, *scripts: Script, replica_id: str = "r0") -> None:
        self._scripts = list(scripts)
        self._replica_id = replica_id
        self._talks: set[asyncio.Task[None]] = set()
        self.calls: list[Call] = []
        self.lingering = 0
        self.slots_asked = 0
        self.slots_answer: bytes | None = None
        """What it says instead of its slots."""
        self.is_silent_on_slots = False
        """Asked for them it says nothing, as a process that is stopped."""
        self._playing = 0
        self._arrivals = asyncio.Condition()

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint(self._replica_id, "127.0.0.1", self._port, KEY)

    async def wait_for_calls(self, count: int) -> Call:
        """The last of that many calls, once they are here."""
        async with self._arrivals:
            await self._arrivals.wait_for(lambda: len(self.calls) >= count)
        return self.calls[count - 1]

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self._port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        if self._talks:
            await asyncio.wait(self._talks)
        await self._server.wait_closed()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n")
            length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
            call = Call(head, await reader.readexactly(length), writer)
            if call.path == "/slots":
                self._tell_slots(call)
                if self.is_silent_on_slots:
                    await reader.read(1)
                return
            async with self._arrivals:
                self.calls.append(call)
                script = self._scripts[min(len(self.calls), len(self._scripts)) - 1]
                self._arrivals.notify_all()
            await self._play(script, call, reader)
        except (OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # a client that leaves early, or the end of the test
        finally:
            self._talks.discard(talk)
            writer.close()

    def _tell_slots(self, call: Call) -> None:
        self.slots_asked += 1
        if self.is_silent_on_slots:
            return
        if self.slots_answer is not None:
            call.send(self.slots_answer)
            return
        busy = self._playing + self.lingering
        slots = [{"id": n, "is_processing": n < busy} for n in range(max(busy, 4))]
        call.refuse(200, json.dumps(slots).encode())

    async def _play(self, script: Script, call: Call, reader: asyncio.StreamReader) -> None:
        playing = asyncio.ensure_future(script(call))
        leaving = asyncio.ensure_future(reader.read(1))
        self._playing += 1
        try:
            await asyncio.wait((playing, leaving), return_when=asyncio.FIRST_COMPLETED)
            # A script that still writes sees the client's leaving as an error of its own.
            if not playing.done() or playing.exception() is not None:
                call.is_left.set()
        finally:
            self._playing -= 1
            playing.cancel()
            leaving.cancel()
            await asyncio.wait((playing, leaving))
            if not leaving.cancelled():
                leaving.exception()
