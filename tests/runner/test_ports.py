"""Ports for engines: each for one replica at a time, and none that others hold."""

from __future__ import annotations

import resource
import socket
import subprocess
import sys

import pytest

from orchd.errors import HostError
from orchd.runner.ports import HOST, PORTS, PortPool

FEW = PORTS[:20]


def take_all(pool: PortPool) -> list[int]:
    """Every port that it gives."""
    taken = []
    with pytest.raises(HostError, match=f"no free port from {FEW.start} to {FEW.stop - 1} on "):
        while True:
            taken.append(pool.take())
    return taken


def give_back_all(pool: PortPool, taken: list[int]) -> None:
    for port in taken:
        pool.give_back(port)
    assert not pool.has_given


def test_every_port_is_given_once_until_it_is_given_back() -> None:
    pool = PortPool(FEW)
    taken = take_all(pool)
    assert len(set(taken)) == len(taken) > 10
    assert set(taken) <= set(FEW)
    pool.give_back(taken[7])
    assert pool.take() == taken[7]
    give_back_all(pool, taken)


def test_they_are_of_a_range_of_their_own() -> None:
    pool = PortPool()
    port = pool.take()
    assert port in PORTS and len(PORTS) == 1000
    pool.give_back(port)


def test_what_one_daemon_has_is_given_by_no_other() -> None:
    """Though nobody listens there yet."""
    first, second = PortPool(FEW), PortPool(FEW)
    mine = [first.take() for _ in range(5)]
    others = take_all(second)
    assert not set(mine) & set(others)
    give_back_all(second, others)
    first.give_back(mine[0])
    again = take_all(second)
    assert mine[0] in again and not set(mine[1:]) & set(again)
    give_back_all(first, mine[1:])
    give_back_all(second, again)


def test_what_a_daemon_had_that_was_killed_is_given_again() -> None:
    lines = (
        *("from orchd.runner.ports import PortPool", "pool = PortPool()"),
        *("print(pool.take(), flush=True)", "input()"),
    )
    command = [sys.executable, "-c", "\n".join(lines)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None
        port = int(other.stdout.readline())
        only = PortPool(range(port, port + 1))
        with pytest.raises(HostError):
            only.take()
        other.kill()
        other.wait()
    assert only.take() == port
    only.give_back(port)


def test_a_port_on_which_another_program_listens_is_passed_over() -> None:
    pool = PortPool(FEW)
    taken = pool.take()
    pool.give_back(taken)
    with socket.create_server((HOST, taken)):
        given = take_all(pool)
        assert taken not in given
        give_back_all(pool, given)


def test_a_port_that_was_just_closed_can_be_taken() -> None:
    """Connections that linger in TIME_WAIT do not hold it."""
    pool = PortPool(FEW)
    port = pool.take()
    with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port)):
        accepted, _ = server.accept()
        accepted.close()
    pool.give_back(port)
    given = take_all(pool)
    assert port in given
    give_back_all(pool, given)


def test_without_a_descriptor_left_it_is_the_machine_that_refuses() -> None:
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        with pytest.raises(HostError, match="cannot look for a free port: Too many open files"):
            PortPool().take()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def test_giving_back_twice_is_a_bug() -> None:
    pool = PortPool()
    port = pool.take()
    pool.give_back(port)
    with pytest.raises(KeyError):
        pool.give_back(port)
