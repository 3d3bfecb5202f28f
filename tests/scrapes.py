"""A page of /metrics as a foreign parser reads it, and how a test asks it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from functools import cached_property
from http.client import HTTPConnection

from prometheus_client.parser import text_string_to_metric_families

from tests.contracts.seen import SeenConnection
from tests.fakes.daemon import TIMEOUT_S, TOKEN, RunningDaemon


class Page:
    """One scrape."""

    def __init__(self, text: str) -> None:
        self.text = text

    @cached_property
    def _samples(self) -> list[tuple[str, dict[str, str], float]]:
        return [
            (sample.name, sample.labels, sample.value)
            for family in text_string_to_metric_families(self.text)
            for sample in family.samples
        ]

    def find(self, name: str, **labels: str) -> Iterator[tuple[dict[str, str], float]]:
        """The samples of a series that have all these labels."""
        for its, told, value in self._samples:
            if its == name and labels.items() <= told.items():
                yield told, value

    def one(self, name: str, **labels: str) -> float:
        """The value of the only such sample."""
        ((_, value),) = self.find(name, **labels)
        return value

    def total(self, name: str, **labels: str) -> float:
        return sum(value for _, value in self.find(name, **labels))

    def values(self, name: str, label: str) -> set[str]:
        """The values that a label has."""
        return {labels[label] for labels, _ in self.find(name)}

    def rejected(self) -> dict[tuple[str, str], float]:
        """What was refused so far, by engine and reason, without the zeros."""
        found = self.find("tasks_rejected_total")
        return {(told["engine"], told["reason"]): value for told, value in found if value}


def scrape(daemon: RunningDaemon) -> Page:
    """One page, on a connection of its own."""
    with contextlib.closing(SeenConnection("127.0.0.1", daemon.port, timeout=TIMEOUT_S)) as client:
        return scrape_on(client)


def scrape_on(client: HTTPConnection) -> Page:
    """One page, on a connection that is kept."""
    client.request("GET", "/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    with client.getresponse() as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        return Page(answer.read().decode())
