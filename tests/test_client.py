"""The client of ``ask`` and ``status`` before daemons, strangers, and nobody."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from orchd.client import Answerer, Daemon, RefusedError, recognise
from orchd.config.listen import AnyListen, Listen, UnixListen
from orchd.errors import HostError
from tests.fakes.canned import HANG, TOKEN, answering, reply

ENVELOPE = json.dumps({"code": "POOL_UNAVAILABLE", "message": "it loads", "engine": None})
UNAUTHORIZED = json.dumps({"code": "UNAUTHORIZED", "message": "no", "engine": None})


def ask_health(daemon: Daemon) -> dict[str, object]:
    with daemon.request("GET", "/health") as response:
        return daemon.read_json(response, 200, 503)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# -- what a daemon answers ---------------------------------------------------------------------


def test_an_answer_is_its_object_and_the_token_goes_along() -> None:
    with answering([reply(503, '{"status": "starting"}')]) as canned:
        assert ask_health(canned.daemon) == {"status": "starting"}
    assert "Authorization: Bearer a-token-of-a-test\r\n" in canned.requests[0]


@pytest.mark.parametrize("status", [200, 429, 503])
def test_an_envelope_is_a_refusal_whatever_its_status(status: int) -> None:
    with (
        answering([reply(status, ENVELOPE)]) as canned,
        pytest.raises(RefusedError, match=r"^POOL_UNAVAILABLE: it loads$"),
    ):
        ask_health(canned.daemon)


@pytest.mark.parametrize(("again", "told"), [("7", "; try again in 7 s"), ("soon", ""), ("", "")])
def test_a_full_queue_says_when_to_come_back(again: str, told: str) -> None:
    full = json.dumps({"code": "ADMISSION_REJECT", "message": "full", "engine": "llamacpp"})
    with (
        answering([reply(429, full, f"Retry-After: {again}")]) as canned,
        pytest.raises(RefusedError, match=f"^ADMISSION_REJECT: full{told}$"),
    ):
        ask_health(canned.daemon)


def test_an_engines_last_words_are_one_line_that_steers_no_terminal() -> None:
    hostile = json.dumps({"code": "X", "message": "died\n\x1b[2J\u202eno", "engine": None})
    with answering([reply(503, hostile)]) as canned, pytest.raises(RefusedError) as caught:
        ask_health(canned.daemon)
    assert str(caught.value) == r"X: died\n\x1b[2J\u202eno"


def test_a_token_that_is_not_taken_is_named_by_where_it_is_from() -> None:
    with answering([reply(401, UNAUTHORIZED)]) as canned, pytest.raises(RefusedError) as caught:
        ask_health(canned.daemon)
    assert "does not take the token of ORCHD_API_TOKEN; its log says" in str(caught.value)
    assert TOKEN.value not in str(caught.value)


# -- what is no daemon -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "answer",
    [
        reply(200, "<html>"),
        reply(404, "not found"),
        reply(404, '{"error": "not found"}'),
        reply(200, "[]"),
        reply(200, "[" * 100_000),
        reply(200, "\xff"),
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 \r\n\r\n",
    ],
)
def test_a_stranger_is_told_of_in_one_line(answer: bytes) -> None:
    with answering([answer]) as canned, pytest.raises(HostError) as caught:
        ask_health(canned.daemon)
    assert str(canned.listen) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "is no orchd" in str(caught.value)


def test_nobody_is_told_of_with_what_starts_somebody(tmp_path: Path) -> None:
    places: list[AnyListen] = [
        Listen("127.0.0.1", free_port()),
        UnixListen(str(tmp_path / "none")),
    ]
    for listen in places:
        with pytest.raises(HostError) as caught:
            ask_health(Daemon(listen, TOKEN))
        assert str(caught.value).startswith(f"no daemon answers on {listen} (")
        assert "orchd serve starts one" in str(caught.value)
        assert "--config" in str(caught.value)


def test_one_that_hangs_up_is_as_good_as_nobody() -> None:
    with answering([b""]) as canned, pytest.raises(HostError, match="no daemon answers"):
        ask_health(canned.daemon)


def test_a_port_that_the_system_chose_is_in_no_configuration() -> None:
    with pytest.raises(HostError, match="only the daemon's log says where it listens; write a"):
        ask_health(Daemon(Listen("127.0.0.1", 0), TOKEN))


def test_one_that_does_not_answer_in_time_is_told() -> None:
    with answering([HANG]) as canned, pytest.raises(HostError, match="does not answer; its log"):
        canned.daemon.request("GET", "/health", timeout_s=0.05).__enter__()


# -- who is there ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "who"),
    [
        (reply(401, UNAUTHORIZED), Answerer.ORCHD),
        (reply(503, ENVELOPE), Answerer.ORCHD),
        (reply(401, '{"code": "NO", "message": "", "engine": null}'), Answerer.STRANGER),
        (reply(200, '{"status": "ok"}'), Answerer.STRANGER),
        (reply(200, "{"), Answerer.STRANGER),
        (b"", Answerer.STRANGER),
        (HANG, Answerer.STRANGER),
    ],
)
def test_who_listens_is_told_by_the_answer_to_one_without_a_token(
    answer: bytes, who: Answerer
) -> None:
    with answering([answer]) as canned:
        assert recognise(canned.listen) is who
    # A stranger could keep it.
    assert "authorization" not in canned.requests[0].lower()


def test_where_nobody_listens_there_is_nobody(tmp_path: Path) -> None:
    assert recognise(Listen("127.0.0.1", free_port())) is Answerer.NOBODY
    assert recognise(UnixListen(str(tmp_path / "none"))) is Answerer.NOBODY
    assert recognise(Listen("127.0.0.1", 0)) is Answerer.NOBODY


def test_another_machine_is_not_asked() -> None:
    # For documentation (RFC 5737), so no machine has it; to ask there would take until a timeout.
    assert recognise(Listen("192.0.2.1", 1)) is Answerer.ELSEWHERE
