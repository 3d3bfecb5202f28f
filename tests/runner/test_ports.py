"""Ports for engines: each for one replica at a time, and none that others hold."""

from __future__ import annotations

import resource
import socket

import pytest

from orchd.errors import HostError
from orchd.runner.ports import HOST, PORTS, PortPool


def test_every_port_is_given_once_until_it_is_given_back() -> None:
    pool = PortPool()
    taken = []
    with pytest.raises(HostError, match="no free port from 18700 to 19699"):
        while True:
            taken.append(pool.take())
    assert len(set(taken)) == len(taken)
    assert set(taken) <= set(PORTS)
    pool.give_back(taken[7])
    assert pool.take() == taken[7]


def test_a_port_on_which_another_program_listens_is_passed_over() -> None:
    taken = PortPool().take()
    with socket.create_server((HOST, taken)):
        pool = PortPool()
        given = set()
        with pytest.raises(HostError):
            while True:
                given.add(pool.take())
    assert taken not in given


def test_a_port_that_was_just_closed_can_be_taken() -> None:
    """Connections that linger in TIME_WAIT do not hold it."""
    port = PortPool().take()
    with socket.create_server((HOST, port)) as server, socket.create_connection((HOST, port)):
        accepted, _ = server.accept()
        accepted.close()
    pool = PortPool()
    given = set()
    with pytest.raises(HostError):
        while True:
            given.add(pool.take())
    assert port in given


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
