"""How each documented error is brought about: by a daemon whose bounds are narrow, and by a bug."""

from __future__ import annotations

import contextlib
import json
import shutil
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from orchd.http1 import messages
from tests.contracts import wire
from tests.contracts.documents import CONTRACTS, OUTSIDE, Operation
from tests.contracts.seen import SeenDoor
from tests.contracts.wire import Answer, Request, ask, list_examples
from tests.fakes.daemon import TIMEOUT_S, TOKEN, RunningDaemon, run_daemon, write_config
from tests.fakes.gate import gate_in
from tests.fakes.house import FakeReplica, FakeService, build_context

MODEL, OTHER_MODEL = "llama-3-8b-instruct.Q4_K_M.gguf", "other.gguf"
"""Of the contracts' examples, which have them in /models."""
MOST_CONNECTIONS = 30
MOST_BYTES = 1024
BOUNDS = f"""
max_head_bytes = {MOST_BYTES}
max_body_bytes = {MOST_BYTES}
max_connections = {MOST_CONNECTIONS}
head_timeout_s = 3
body_timeout_s = 1
"""
POOL = "queue = { interactive = 1, batch = 1 }"


@dataclass
class Narrow:
    """A daemon whose bounds are soon reached, and what it said before its pool was ready."""

    daemon: RunningDaemon
    folder: Path
    """Of its models."""
    gates: Path
    hold: Path
    """Keeps an engine at its load while it is there."""
    early: dict[str, Answer]
    """By operation."""
    slow: dict[str, socket.socket]
    """By operation: a request of it that never becomes whole."""

    @property
    def port(self) -> int:
        return self.daemon.port

    def at_home(self, request: Request) -> Request:
        """The same with the models of the examples where they are here."""
        return replace(request, body=request.body.replace(b"/models", bytes(self.folder)))


def first_example(operation: Operation | None) -> Request:
    """A sound request that harms nobody; without an operation, one for a path that is not there."""
    if operation is None:
        return Request("GET", "/nowhere")
    return next(
        request for _, request in list_examples(operation, **{wire.OF_A_POOL: wire.NO_POOL})
    )


@contextlib.contextmanager
def run_narrow(folder: Path, gates: Path) -> Iterator[Narrow]:
    """One with a pool of the examples' names."""
    hold = folder / "hold"
    hold.touch()
    config = write_config(folder, server=BOUNDS, pool=POOL, loads_while=hold, gates=gates)
    config.write_text(config.read_text().replace("model.gguf", MODEL))
    (folder / "model.gguf").rename(folder / MODEL)
    shutil.copy(folder / MODEL, folder / OTHER_MODEL)
    with run_daemon(config) as daemon, contextlib.ExitStack() as stack:
        daemon.hear_engine()
        early = {
            operation_id: ask(daemon.port, first_example(CONTRACTS.operation(operation_id)))
            for operation_id in ("submitTask", "getHealth")
        }
        hold.unlink()
        daemon.hear("became ready")
        slow = {
            operation.operation_id: stack.enter_context(
                wire.sending(
                    daemon.port,
                    replace(first_example(operation), body=b"")
                    .with_fields(Content_Length="5")
                    .encode(),
                )
            )
            for operation in CONTRACTS.operations
        }
        slow[OUTSIDE] = stack.enter_context(wire.sending(daemon.port, b"GET /"))
        yield Narrow(daemon, folder, gates, hold, early, slow)
        assert "Traceback" not in daemon.log


def submit(port: int, prompt: str, **task: object) -> Answer:
    body = json.dumps({"prompt": prompt, **task}).encode()
    return ask(port, Request("POST", "/v1/tasks", body=body))


def read_to_the_end(narrow: Narrow, admitted: Answer) -> None:
    """The queue has room for one, so nobody leaves a task behind."""
    assert admitted.status == 202, admitted.body
    assert b"event: end" in ask(narrow.port, Request("GET", admitted.headers["location"])).body


def be_malformed(narrow: Narrow, request: Request) -> Answer:
    twice = request.with_fields(Transfer_Encoding="chunked", Content_Length="5")
    return ask(narrow.port, replace(twice, body=b""))


def be_unauthorized(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, request.with_fields(Authorization=""))


def be_slow(narrow: Narrow, request: Request) -> Answer:
    operation = CONTRACTS.find(request.method, request.target)
    if operation is None:
        return wire.read_answer(narrow.slow[OUTSIDE], "", "")
    sock = narrow.slow[operation.operation_id]
    return wire.read_answer(sock, request.method, request.target)


def be_too_large(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, replace(request, body=b" " * (MOST_BYTES + 1)))


def be_too_long(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, replace(request, target=f"{request.target}?{'x' * MOST_BYTES}"))


def be_compressed(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, replace(request, body=b"x").with_fields(Content_Encoding="gzip"))


def have_too_large_a_head(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, request.with_fields(X="x" * MOST_BYTES))


def be_coded(narrow: Narrow, request: Request) -> Answer:
    coded = replace(request, body=b"").with_fields(Transfer_Encoding="gzip, chunked")
    return ask(narrow.port, coded)


def be_one_too_many(narrow: Narrow, request: Request) -> Answer:
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", narrow.port)
        for _ in range(MOST_CONNECTIONS):
            stack.enter_context(socket.create_connection(address, TIMEOUT_S))
        answer = ask(narrow.port, request)
    # Once the daemon has seen that they left.
    deadline_s = time.monotonic() + TIMEOUT_S
    while ask(narrow.port, Request("GET", "/nowhere")).status == 503:
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return answer


def be_of_the_future(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, replace(request, version="HTTP/2.0"))


class BrokenService(FakeService):
    """A bug, whatever is asked."""

    def submit(self, request: Any) -> Any:
        raise RuntimeError("a bug")

    def find(self, task_id: str) -> Any:
        raise RuntimeError("a bug")

    def queue_depths(self, pool_id: str) -> Any:
        raise RuntimeError("a bug")


def fail_to_reload(pool_id: str, new_model_ref: str | None) -> Any:
    raise RuntimeError("a bug")


def meet_a_bug(narrow: Narrow, request: Request) -> Answer:
    """In this process: a daemon has none that could be called up."""
    context = build_context(BrokenService(), FakeReplica(), reload=fail_to_reload)
    door = SeenDoor(context, TOKEN)
    fields = {"Authorization": f"Bearer {TOKEN}", **request.fields}
    fields["Content-Length"] = str(len(request.body))
    headers = tuple((name.lower().encode(), value.encode()) for name, value in fields.items())
    head = messages.Head(request.method, request.target, "", headers)
    accepted = door.open(head)
    assert isinstance(accepted, messages.Accepted)
    reply = accepted.handler(messages.Request(head, accepted.params, request.body))
    assert isinstance(reply, messages.Response)
    return Answer(reply.status, {n.decode(): v.decode() for n, v in reply.headers}, reply.body)


def name_what_is_not_there(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, request)


Provoke = Callable[[Narrow, Request], Answer]

GENERAL: dict[str, Provoke] = {
    "400": be_malformed,
    "401": be_unauthorized,
    "404": name_what_is_not_there,
    "408": be_slow,
    "413": be_too_large,
    "414": be_too_long,
    "415": be_compressed,
    "431": have_too_large_a_head,
    "500": meet_a_bug,
    "501": be_coded,
    "503": be_one_too_many,
    "505": be_of_the_future,
}
"""By status: what any operation can be answered with."""


def misspell_a_field(narrow: Narrow, request: Request) -> Answer:
    return submit(narrow.port, "a", max_token=1)


def be_known_already(narrow: Narrow, request: Request) -> Answer:
    task_id = str(uuid.uuid4())
    read_to_the_end(narrow, submit(narrow.port, "[tokens 1]", task_id=task_id))
    return submit(narrow.port, "[tokens 1]", task_id=task_id)


def leave_out_the_length(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, replace(request, is_announced=False, body=b""))


def find_the_queue_full(narrow: Narrow, request: Request) -> Answer:
    with gate_in(narrow.gates) as gate:
        answers = [submit(narrow.port, f"[tokens 1] {gate.wish}") for _ in range(3)]
        assert [answer.status for answer in answers] == [202, 202, 429]
        for answer in answers[:2]:
            gate.let_through()
            read_to_the_end(narrow, answer)
    return answers[2]


def come_early(narrow: Narrow, request: Request) -> Answer:
    operation = CONTRACTS.find(request.method, request.target)
    assert operation
    return narrow.early[operation.operation_id]


def name_an_event_that_is_not(narrow: Narrow, request: Request) -> Answer:
    admitted = submit(narrow.port, "[tokens 1]")
    read_to_the_end(narrow, admitted)
    path = admitted.headers["location"]
    return ask(narrow.port, replace(request, target=path).with_fields(Last_Event_ID="99"))


def take_the_wrong_method(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, Request("DELETE", "/health"))


def reload(narrow: Narrow, **body: str) -> Request:
    """Of the pool that there is."""
    plain = Request("POST", "/v1/pools/chat/reload", body=json.dumps(body).encode())
    return narrow.at_home(plain.with_fields(Content_Type="application/json"))


def misspell_the_model(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, reload(narrow, new_model="/models/other.gguf"))


def name_a_model_that_is_not(narrow: Narrow, request: Request) -> Answer:
    return ask(narrow.port, reload(narrow, new_model_ref="/models/gone.gguf"))


def reload_twice_at_once(narrow: Narrow, request: Request) -> Answer:
    narrow.hold.touch()
    first = reload(narrow, new_model_ref=f"/models/{OTHER_MODEL}")
    with wire.sending(narrow.port, first.encode()) as sock:
        narrow.daemon.hear("planned a reload pool=chat")
        second = ask(narrow.port, reload(narrow))
        narrow.hold.unlink()
        assert wire.read_answer(sock, first.method, first.target).status == 200
    assert ask(narrow.port, reload(narrow, new_model_ref=f"/models/{MODEL}")).status == 200
    return second


def meet_a_bug_at_a_reload(narrow: Narrow, request: Request) -> Answer:
    return meet_a_bug(narrow, reload(narrow))


SPECIAL: dict[tuple[str, str], Provoke] = {
    ("submitTask", "400"): misspell_a_field,
    ("submitTask", "409"): be_known_already,
    ("submitTask", "411"): leave_out_the_length,
    ("submitTask", "429"): find_the_queue_full,
    ("submitTask", "503"): come_early,
    ("streamTask", "400"): name_an_event_that_is_not,
    ("reloadPool", "400"): misspell_the_model,
    ("reloadPool", "409"): reload_twice_at_once,
    ("reloadPool", "500"): meet_a_bug_at_a_reload,
    ("reloadPool", "503"): name_a_model_that_is_not,
    ("getHealth", "503"): come_early,
    (OUTSIDE, "405"): take_the_wrong_method,
}
