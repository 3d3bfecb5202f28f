"""A tiny asyncio server for the pulse: it does with each request what the next word says, over and
over. Its port is the first line that it writes, every request's word a further one.

``answer``; ``sleep`` and ``burn``: the loop is blocked for STALL_S first, by nothing or by work;
``pieces``: the answer comes in pieces; ``close``: it is closed after the answer; ``cut``: instead
of it; ``hang``: none comes; ``tear``: it ends in the middle; a number: that status.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import time
from collections.abc import Iterator

STALL_S = 0.3
TOKEN = "a-token-for-tests-only"
_BODY = b'{"status": "ok"}'


def block(word: str) -> None:
    """Of work it counts what this thread did, whoever else there is on the processor."""
    if word == "sleep":
        time.sleep(STALL_S)
    elif word == "burn":
        end_s = time.thread_time() + STALL_S
        while time.thread_time() < end_s:
            pass


async def serve(
    words: Iterator[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    """One connection."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            word = next(words)
            print(word, flush=True)
            block(word)
            if word == "hang":
                continue
            if word == "cut":
                return
            is_asked_well = head.startswith("GET /health ") and f"Bearer {TOKEN}\r\n" in head
            status = int(word) if word.isdigit() else 200 if is_asked_well else 401
            answer = (
                f"HTTP/1.1 {status} Any\r\nContent-Length: {len(_BODY)}\r\n\r\n".encode() + _BODY
            )
            if word == "pieces":
                for piece in answer:
                    writer.write(bytes([piece]))
                    await asyncio.sleep(0)
            else:
                writer.write(answer[:-3] if word == "tear" else answer)
            if word in ("close", "tear"):
                return
    except (asyncio.IncompleteReadError, ConnectionError):
        pass
    finally:
        writer.close()


async def main(words: list[str]) -> None:
    turns = itertools.cycle(words)
    server = await asyncio.start_server(lambda *both: serve(turns, *both), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
