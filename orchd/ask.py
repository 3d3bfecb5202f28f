"""A client of the daemon: submits one task and writes its text as it comes.

Invariant: whoever leaves before the task's end, by Ctrl-C or since nobody takes the text any more,
has it cancelled; at any moment, for its id is known before it is submitted.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from orchd.client import Daemon, RefusedError, describe_envelope
from orchd.errors import ClientError, Code, HostError, OrchdError
from orchd.logs.line import escape

_CANCEL_TIMEOUT_S = 5.0


def ask(daemon: Daemon, task: Mapping[str, object], out: TextIO) -> None:
    """Submit, stream to ``out`` and end its line; returns at the task's end.

    Raises RefusedError with the daemon's words, HostError where it does not answer, and what
    ``out`` raises.
    """
    task_id = str(task.get("task_id") or uuid.uuid4())
    path = f"/v1/tasks/{task_id}"
    try:
        with daemon.request("POST", "/v1/tasks", {**task, "task_id": task_id}) as response:
            daemon.read_json(response, http.client.ACCEPTED)
        _stream(daemon, path, out)
    # What goes wrong with the daemon is translated before it comes here: an OSError is of ``out``.
    except (KeyboardInterrupt, OSError):
        with (
            contextlib.suppress(OrchdError),
            daemon.request("POST", f"{path}/cancel", timeout_s=_CANCEL_TIMEOUT_S),
        ):
            pass
        raise


def _stream(daemon: Daemon, path: str, out: TextIO) -> None:
    # A terminal obeys what a model writes; a file or a pipe gets it as it is.
    is_terminal = out.isatty()
    has_text = False
    try:
        with daemon.request("GET", f"{path}/stream") as response:
            if response.status != http.client.OK:
                daemon.read_json(response)
            for event, data in _read_events(daemon, response):
                match event:
                    case "token":
                        text = str(data.get("t"))
                        has_text = True
                        out.write(escape(text, kept="\n\t") if is_terminal else text)
                        out.flush()
                    case "error":
                        raise RefusedError(describe_envelope(data))
                    case "end":
                        has_text = True
                        return
        raise _lost("the stream ended")
    finally:
        if has_text:
            # An error or the shell's prompt begins a line of its own. Not out of the way of an
            # exception that is under way: where ``out`` is broken it says the same once more.
            with contextlib.suppress(OSError):
                out.write("\n")


def _read_events(
    daemon: Daemon, response: http.client.HTTPResponse
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The named events of our own daemon's streams: one line of data each."""
    event = ""
    try:
        for line in response:
            field_name, _, value = line.decode("utf-8").rstrip("\n").partition(": ")
            if field_name == "event":
                event = value
            elif field_name == "data":
                data = json.loads(value)
                if not isinstance(data, dict):
                    raise daemon.strange("its events are of another kind")
                yield event, data
    except (OSError, http.client.HTTPException) as error:
        raise _lost(str(error)) from error
    except ValueError as error:
        raise daemon.strange("its events are of another kind") from error


def _lost(why: str) -> HostError:
    mend = "orchd status shows whether one runs, and its log why"
    return HostError(f"lost the daemon before the task's end ({escape(why)}); {mend}")


def read_prompt(prompt: str | None) -> str:
    """The prompt as given; with ``-`` or none, all of stdin.

    Raises ClientError for what is no text, HostError where stdin cannot be read.
    """
    if prompt is not None and prompt != "-":
        content, where = prompt.encode("utf-8", "surrogateescape"), ""
    else:
        content, where = _read_stdin(), " on stdin"
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        problem = f"the prompt{where} is not UTF-8 ({error.reason} at byte {error.start})"
        raise ClientError(Code.INVALID_PARAMS, problem) from error
    if not text:
        problem = f"the prompt{where} is empty; write one, or - to have it read from stdin"
        raise ClientError(Code.INVALID_PARAMS, problem)
    return text


def _read_stdin() -> bytes:
    if sys.stdin is None:
        raise HostError("there is no stdin to read the prompt from; write it as an argument")
    if sys.stdin.isatty() and sys.stderr is not None:
        print("Type the prompt; Ctrl-D on a line of its own ends it.", file=sys.stderr, flush=True)
    try:
        return sys.stdin.buffer.read()
    except OSError as error:
        raise HostError(f"cannot read the prompt from stdin: {error.strerror}") from error
