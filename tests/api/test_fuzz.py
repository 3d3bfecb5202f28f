"""Requests of any kind through parser, door, routes and body checks, over a live socket.

Whatever comes, the answer is one that the contract names: its status, with the envelope's three
keys where it is an error. And it does not depend on how the bytes were cut on their way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.api.bodies import bodies, dump, good_tasks, wild_text, wild_values
from tests.api.edge import TOKEN, Edge, open_edge
from tests.fakes.house import TASK_ID
from tests.http1.test_fuzz import mutated, read_chunks, salads

CODES = {
    400: "INVALID_PARAMS",
    401: "UNAUTHORIZED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    413: "PAYLOAD_TOO_LARGE",
}
"""Every error that a request of sound HTTP can earn here, by the contract."""
PATHS = {
    "/health": ("GET", "HEAD"),
    "/metrics": ("GET", "HEAD"),
    "/v1/tasks": ("POST",),
    f"/v1/tasks/{TASK_ID}/stream": ("GET", "HEAD"),
    f"/v1/tasks/{TASK_ID}/cancel": ("POST",),
    "/v1/pools/chat/reload": ("POST",),
    "/v1/pools/unknown/reload": ("POST",),
    "/v1/tasks/unknown/stream": ("GET", "HEAD"),
    "/v1/tasks/unknown/cancel": ("POST",),
}


@pytest.fixture(scope="module")
def edge() -> Iterator[Edge]:
    yield from open_edge()


# -- requests of sound HTTP ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """A request whose HTTP is sound, whatever it asks for."""

    method: str
    target: str
    fields: tuple[tuple[str, str], ...]
    body: bytes
    chunk_bytes: int
    """0: the body has its length in the head."""

    def encode(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1", "Host: a"]
        lines += [f"{name}: {value}" for name, value in self.fields]
        if self.chunk_bytes:
            lines.append("Transfer-Encoding: chunked")
            cuts = range(0, len(self.body), self.chunk_bytes)
            pieces = [self.body[at : at + self.chunk_bytes] for at in cuts]
            body = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        else:
            lines.append(f"Content-Length: {len(self.body)}")
            body = self.body
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    def values(self, name: str) -> list[str]:
        return [value.strip() for key, value in self.fields if key.lower() == name]


@st.composite
def targets(draw: st.DrawFn) -> str:
    """A path that is known, one that is nearly so, or any; with its letters encoded here and there,
    and a query."""
    path = draw(st.sampled_from([*PATHS, "/tasks", "*", "/"]) | st.text(max_size=20).map(quote))
    if draw(st.booleans()):
        at = draw(st.integers(0, len(path)))
        piece = draw(st.sampled_from(["/", "%2F", "%00", "%ff", "%", "..", ";a", "x" * 500]))
        path = path[:at] + piece + path[at:]
    if draw(st.booleans()) and path:
        at = draw(st.integers(0, len(path) - 1))
        path = f"{path[:at]}%{ord(path[at]):02x}{path[at + 1 :]}"
    query = draw(st.none() | st.text(max_size=20).map(quote))
    origin = draw(st.sampled_from(["", "", "", "http://a:1"]))
    path = path if path.startswith("/") or path == "*" else "/" + path
    return (path if path == "*" else origin + path) + ("" if query is None else f"?{query}")


tokens = st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1, max_size=12)
values = st.text(
    st.characters(min_codepoint=0x20, max_codepoint=0xFF, exclude_characters="\x7f"), max_size=20
)
authorizations = st.sampled_from(
    [
        *[(("Authorization", f"Bearer {TOKEN}"),)] * 6,
        (("aUTHORIZATION", f"bEARER   {TOKEN}"),),
        (),
        (("Authorization", "Bearer "),),
        (("Authorization", TOKEN),),
        (("Authorization", f"Basic {TOKEN}"),),
        (("Authorization", f"Bearer {TOKEN}, Bearer {TOKEN}"),),
        (("Authorization", f"Bearer {TOKEN}"), ("Authorization", f"Bearer {TOKEN}")),
        (("Authorization", "Bearer \xff\xe4"),),
    ]
)
others = st.lists(
    st.tuples(st.just("Last-Event-ID"), st.sampled_from(["0", "2", "3", "-1", "", "\xb2"]) | values)
    | st.tuples(st.just("Content-Type"), st.sampled_from(["application/json", "text/xml", ""]))
    | st.tuples(st.just("Accept-Encoding"), values)
    | st.tuples(tokens.map(lambda name: f"X-{name}"), values),
    max_size=4,
).map(tuple)
AUTHORIZED = (("Authorization", f"Bearer {TOKEN}"),)
any_request = st.builds(
    Asked,
    method=st.sampled_from(["GET", "GET", "HEAD", "POST", "POST", "PUT", "OPTIONS", "get"])
    | tokens,
    target=targets(),
    fields=st.tuples(authorizations, others).map(lambda both: both[0] + both[1]),
    body=st.just(b"") | bodies,
    chunk_bytes=st.sampled_from([0, 0, 1000, 4096, 70_000]),
)
submissions = st.builds(
    Asked,
    method=st.just("POST"),
    target=st.just("/v1/tasks"),
    fields=st.just(AUTHORIZED),
    body=bodies | good_tasks.map(dump),
    chunk_bytes=st.sampled_from([0, 1000]),
)
reloads = st.builds(
    Asked,
    method=st.just("POST"),
    target=st.just("/v1/pools/chat/reload"),
    fields=st.just(AUTHORIZED),
    body=st.just(b"")
    | st.just(b"{}")
    | bodies
    | st.builds(lambda value: dump({"new_model_ref": value}), wild_values)
    | st.builds(lambda text: dump({"new_model_ref": f"/{text}"}), wild_text),
    chunk_bytes=st.sampled_from([0, 1, 1000]),
)
replays = st.builds(
    Asked,
    method=st.sampled_from(["GET", "HEAD"]),
    target=st.just(f"/v1/tasks/{TASK_ID}/stream"),
    fields=others.map(lambda fields: AUTHORIZED + fields),
    body=st.just(b""),
    chunk_bytes=st.just(0),
)
asked = any_request | submissions | reloads | replays


@dataclass(frozen=True, slots=True)
class Answered:
    status: int
    fields: dict[str, str]
    body: bytes


def read_answer(data: bytes, method: str) -> Answered:
    """The one answer that there is, proven to be framed as it says."""
    head, separator, body = data.partition(b"\r\n\r\n")
    assert separator, data[:200]
    status_line, *lines = head.decode("latin-1").split("\r\n")
    assert status_line.startswith("HTTP/1.1 ")
    status = int(status_line.split(" ")[1])
    fields = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    if method == "HEAD" or status == 204:
        assert body == b""
    elif "content-length" in fields:
        assert len(body) == int(fields["content-length"])
    else:
        body, rest = read_chunks(body)
        assert rest == b""
    return Answered(status, fields, body)


def expected_statuses(asked: Asked) -> set[int]:
    """What the contract lets this be answered with."""
    if re.search("%(?![0-9A-Fa-f]{2})", asked.target):
        return {400}
    if asked.target.partition("?")[0] == "*" and asked.method != "OPTIONS":
        return {400}
    authorization = asked.values("authorization")
    if len(authorization) != 1 or not re.fullmatch(f"(?i:bearer) +{TOKEN}", authorization[0]):
        return {401}
    path = re.sub("^https?://[^/?]*", "", asked.target).partition("?")[0] or "/"
    segments = [unquote(segment) for segment in path.split("/")]
    match segments:
        case ["", "health" | "metrics" as name]:
            methods, good = PATHS[f"/{name}"], {200}
        case ["", "v1", "tasks"]:
            types = asked.values("content-type")
            is_json = types in ([], ["application/json"])
            methods, good = PATHS["/v1/tasks"], {202, 400} if is_json else {415}
        case ["", "v1", "tasks", task_id, "stream"]:
            ids = asked.values("last-event-id")
            good = {200 if not ids or ids in (["0"], ["1"], ["2"]) else 400}
            good = good if task_id.lower() == TASK_ID else {404}
            methods = ("GET", "HEAD")
        case ["", "v1", "tasks", task_id, "cancel"]:
            methods, good = ("POST",), {204 if task_id.lower() == TASK_ID else 404}
        case ["", "v1", "pools", pool_id, "reload"]:
            types = asked.values("content-type")
            is_sound = types in ([], ["application/json"]) or not (asked.body or asked.chunk_bytes)
            good = {200, 400} if is_sound else {415}
            methods, good = ("POST",), good if pool_id == "chat" or good == {415} else {404}
        case _:
            return {404}
    return good if asked.method in methods else {405}


def check_error(answered: Answered, method: str) -> None:
    assert answered.fields["content-type"] == "application/json"
    assert "cache-control" in answered.fields
    if answered.status == 401:
        assert answered.fields["www-authenticate"] == "Bearer"
    if answered.status == 405:
        assert answered.fields["allow"]
    if method != "HEAD":
        envelope = json.loads(answered.body)
        assert list(envelope) == ["code", "message", "engine"]
        assert envelope["code"] == CODES[answered.status]
        assert envelope["message"] and "Traceback" not in envelope["message"]
        assert len(answered.body) < 8192


@settings(max_examples=300)
@given(asked=asked)
def test_sound_http_gets_what_the_contract_says(edge: Edge, asked: Asked) -> None:
    answered = read_answer(edge.send([asked.encode()]), asked.method)
    assert answered.status in expected_statuses(asked), answered
    if answered.status >= 400:
        check_error(answered, asked.method)


@settings(max_examples=400)
@given(asked=submissions)
def test_a_body_of_any_kind_is_taken_or_refused(edge: Edge, asked: Asked) -> None:
    answered = read_answer(edge.send([asked.encode()]), asked.method)
    if answered.status != 202:
        assert answered.status == 400
        check_error(answered, asked.method)
        return
    # The standard library reads the same in it; of a key that is there twice the last counts.
    document = json.loads(asked.body)
    generation = edge.service.submitted[-1].generation
    assert generation.prompt == document.get("prompt")
    assert (generation.messages is None) == ("messages" not in document)


@settings(max_examples=200)
@given(task=good_tasks, is_ascii=st.booleans(), chunk_bytes=st.sampled_from([0, 1, 7]))
def test_a_good_body_is_always_taken(
    edge: Edge, task: dict[str, object], is_ascii: bool, chunk_bytes: int
) -> None:
    asked = Asked("POST", "/v1/tasks", AUTHORIZED, dump(task, is_ascii), chunk_bytes)
    answered = read_answer(edge.send([asked.encode()]), asked.method)
    assert answered.status == 202, answered
    request = edge.service.submitted[-1]
    assert request.generation.prompt == task.get("prompt")
    assert request.generation.max_tokens == task.get("max_tokens")
    assert request.priority == task.get("priority", "interactive")
    for name, value in request.generation.sampling.items():
        assert value == task[name]


@settings(max_examples=200)
@given(asked=reloads)
def test_a_reload_of_any_kind_is_taken_or_refused(edge: Edge, asked: Asked) -> None:
    edge.reloads.asked.clear()
    edge.reloads.futures.clear()
    answered = read_answer(edge.send([asked.encode()]), asked.method)
    if answered.status != 200:
        assert answered.status == 400 and not edge.reloads.asked
        check_error(answered, asked.method)
        return
    ((pool_id, path),) = edge.reloads.asked
    assert pool_id == "chat"
    assert path == json.loads(asked.body or b"{}").get("new_model_ref")


# -- the same bytes, cut otherwise ----------------------------------------------------------------

PING = re.compile(rb"(?:[0-9a-f]+\r\n)?: [^\n]*\n\n(?:\r\n)?")
"""A reader that closes its half is asked whether it is still there, if there is time for it."""
INVITATION = re.compile(rb"HTTP/1\.1 100 [^\r]*\r\n\r\n")
"""Comes only where the body did not come by itself."""
VARYING_FIELD = re.compile(rb"(?i)\r\n(?:date|content-length): [^\r]*")
REASON = re.compile(rb'(?<="message":"not HTTP/1\.1: )(?:[^"\\]|\\.)*')
"""How h11 words what is wrong depends on how much it has seen of it."""
COUNT = re.compile(rb"tasks_rejected_total\{[^\n]*\n")
"""Has counted the requests of the first time when the second comes."""

trains = st.lists(asked.map(Asked.encode), min_size=1, max_size=4).map(b"".join)
"""Requests one behind the other."""
cuts = st.lists(st.integers(0, 4000), max_size=8)


def plain(data: bytes) -> bytes:
    """An answer without what may differ from one time to another."""
    for what in (PING, INVITATION, VARYING_FIELD, REASON, COUNT):
        data = what.sub(b"", data)
    return data


def cut_up(data: bytes, places: list[int]) -> list[bytes]:
    ends = sorted({place for place in places if 0 < place < len(data)})
    return [data[a:b] for a, b in zip([0, *ends], [*ends, len(data)], strict=True)]


@settings(max_examples=250)
@given(data=trains | mutated() | salads, places=cuts)
@example(data=b"GET /health HTTP/1.1\r\nHost: a\r\n\r\n" * 3, places=[1, 33, 34, 35, 66])
def test_cuts_do_not_matter(edge: Edge, data: bytes, places: list[int]) -> None:
    assert plain(edge.send(cut_up(data, places))) == plain(edge.send([data]))


@settings(max_examples=100)
@given(data=(trains | mutated() | salads).filter(lambda data: len(data) <= 800))
def test_byte_by_byte_is_the_same(edge: Edge, data: bytes) -> None:
    assert plain(edge.send([bytes([byte]) for byte in data])) == plain(edge.send([data]))
