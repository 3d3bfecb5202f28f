"""A steady load of short tasks on one pool, each read to its end and held against its promise.

Every task says which model has served it; so a task that began on one model and went on with
another is found out, as is one that was lost, doubled or cut.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.e2e.story import Story
from tests.e2e.ward import Ward
from tests.fakes.daemon import TIMEOUT_S

TOKENS = 3
PROMPT = f"[tokens {TOKENS}] [every 0.01] [signed]"
PRIORITIES = ("interactive", "interactive", "batch")
"""Of the clients: one after another each submits its next task when the last has ended."""


class SteadyLoad:
    """What became of the tasks so far; ``models`` are those that may have served them."""

    def __init__(
        self,
        ward: Ward,
        pool_id: str,
        models: Collection[str],
        losses: Collection[str],
        clients: int,
    ) -> None:
        self._ward = ward
        self._pool_id = pool_id
        self._texts = {
            "".join(f"{Path(model).stem}:t{n} " for n in range(TOKENS)): model for model in models
        }
        self._losses = losses
        self._is_over = threading.Event()
        self._news = threading.Condition()
        self._faults: list[BaseException] = []
        self.admitted: list[str] = []
        self.served: Counter[str] = Counter()
        """By model."""
        self.lost: Counter[str] = Counter()
        """By code."""
        self._threads = [
            threading.Thread(target=self._go_on, args=(priority,), name=f"load {priority}")
            for priority in PRIORITIES[-clients:]
        ]

    def wait_for(self, tasks: int, model: str | Path | None = None) -> None:
        """Until so many more have been served, by that model where one is named."""

        def count() -> int:
            return self.served.total() if model is None else self.served[str(model)]

        with self._news:
            enough = count() + tasks
            came = self._news.wait_for(lambda: count() >= enough or self._faults, TIMEOUT_S)
        assert came and not self._faults, (self._faults, self.served)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Submit no more, and read all that was admitted to its end."""
        self._is_over.set()
        for thread in self._threads:
            thread.join()
        if self._faults:
            raise self._faults[0]
        ended = self._count_ended()
        assert [task_id for task_id in self.admitted if ended[task_id] != 1] == []
        assert len(self.admitted) == self.served.total() + self.lost.total()

    def _count_ended(self) -> Counter[str]:
        """By task, how often the daemon says that it has ended; it says so a little later."""
        deadline_s = time.monotonic() + TIMEOUT_S
        while True:
            lines = [line for line in self._ward.daemon.log.splitlines() if "ended a task" in line]
            ended = Counter(line.partition(" task=")[2].split()[0] for line in lines)
            if ended.keys() >= set(self.admitted):
                return ended
            assert time.monotonic() < deadline_s, "not all that was admitted has ended"
            time.sleep(0.02)

    def _go_on(self, priority: str) -> None:
        try:
            while not self._is_over.is_set():
                task_id = self._submit(priority)
                if task_id is None:
                    self._is_over.wait(0.05)
                else:
                    self._note(self._ward.read(task_id))
        except BaseException as error:
            with self._news:
                self._faults.append(error)
                self._news.notify_all()

    def _submit(self, priority: str) -> str | None:
        task = {"pool_id": self._pool_id, "prompt": PROMPT, "priority": priority}
        with self._ward.ask("POST", "/v1/tasks", task) as answer:
            told = json.load(answer)
            # Where an engine may be lost, a pool may be without one for a while.
            if answer.status == 503 and self._losses:
                return None
            assert answer.status == 202, told
        self.admitted.append(told["task_id"])
        return str(told["task_id"])

    def _note(self, story: Story) -> None:
        with self._news:
            if story.names[-1] == "end":
                self.served[self._texts[story.text]] += 1
                assert (story.tokens, story.last["tokens_out"]) == (TOKENS, TOKENS)
            else:
                assert story.last["code"] in self._losses, story
                self.lost[story.last["code"]] += 1
            self._news.notify_all()


@contextmanager
def steady_load(
    ward: Ward,
    pool_id: str,
    *models: str | Path,
    losses: Collection[str] = (),
    clients: int = len(PRIORITIES),
) -> Iterator[SteadyLoad]:
    """The load, from its first served tasks on; at its end every task is accounted for. ``losses``
    are the codes that it may end in, where the test costs an engine its life."""
    load = SteadyLoad(ward, pool_id, [str(model) for model in models], losses, clients)
    load.start()
    try:
        load.wait_for(clients)
        yield load
    finally:
        load.stop()
