"""A page is the counts and the moment: all labels on all samples, and nothing of who is gone."""

from __future__ import annotations

import tracemalloc
from collections.abc import Sequence

from orchd.errors import Code
from orchd.metrics.catalog import CATALOG
from orchd.metrics.collector import Collector, DeviceUse, PoolNow, ReplicaNow
from orchd.metrics.exposition import write_exposition
from orchd.metrics.registry import Registry

NO_TASKS = {"interactive": 0, "batch": 0}
READY = ReplicaNow("chat-0", "b1", DeviceUse("GPU-0", 0.5, 1000))
COMING = ReplicaNow("chat-1", None, None)


def pool(
    *replicas: ReplicaNow,
    pool_id: str = "chat",
    depths: dict[str, int] | None = None,
    model_id: str = "/m.gguf",
    retired: tuple[str, ...] = (),
) -> PoolNow:
    return PoolNow(pool_id, "llamacpp", model_id, retired, depths or NO_TASKS, replicas)


class Watched:
    """A collector, and what it shows."""

    def __init__(self) -> None:
        self.registry = Registry(("llamacpp",), lambda pool_id: ("chat-0", "chat-1"))
        self._collector = Collector(self.registry)

    def look(self, name: str, *pools: PoolNow) -> dict[tuple[str, ...], float]:
        """The samples of one series, by the values of its labels without the engine's."""
        families = self._collector.collect(pools)
        assert [family.series for family in families] == list(CATALOG)
        (family,) = [family for family in families if family.series.name == name]
        keys = [sample.labels for sample in family.samples]
        assert len(keys) == len(set(keys))
        for sample in family.samples:
            assert len(sample.labels) == len(family.series.labels) and all(sample.labels)
        return {sample.labels: sample.value for sample in family.samples}

    def versions(self, name: str, *pools: PoolNow) -> list[str]:
        return [labels[1] for labels in self.look(name, *pools)]


def test_depths() -> None:
    now = pool(READY, depths={"interactive": 3, "batch": 0})
    assert Watched().look("queue_depth", now) == {
        ("llamacpp", "b1", "chat", "interactive"): 3,
        ("llamacpp", "b1", "chat", "batch"): 0,
    }


def test_every_child_of_a_pool_is_there_from_the_start() -> None:
    enqueued = Watched().look("tasks_enqueued_total", pool(READY, COMING), pool(pool_id="code"))
    assert set(enqueued.values()) == {0}
    assert {labels[2:] for labels in enqueued} == {
        (pool_id, replica_id, priority)
        for pool_id, replicas in (
            ("chat", ("unassigned", "chat-0", "chat-1")),
            ("code", ("unassigned",)),
        )
        for replica_id in replicas
        for priority in ("interactive", "batch")
    }


def test_what_was_counted_is_shown_at_its_replica() -> None:
    watched = Watched()
    watched.registry.count_enqueued("chat", "chat-0", "batch")
    watched.registry.count_enqueued("chat", None, "batch")
    watched.registry.count_ended("chat", "chat-0", 5, 7)
    watched.registry.count_rejected("llamacpp", Code.CONFLICT)
    now = pool(READY, COMING)
    enqueued = watched.look("tasks_enqueued_total", now)
    assert {labels[3:]: count for labels, count in enqueued.items() if count} == {
        ("chat-0", "batch"): 1,
        ("unassigned", "batch"): 1,
    }
    of_ready, of_coming = ("llamacpp", "b1", "chat", "chat-0"), ("llamacpp", "unknown", "chat")
    coming = (*of_coming, "chat-1")
    assert watched.look("tokens_in_total", now) == {of_ready: 5, coming: 0}
    assert watched.look("tokens_out_total", now) == {of_ready: 7, coming: 0}
    assert watched.look("tasks_rejected_total", now)["llamacpp", "CONFLICT"] == 1


def test_a_device_is_shown_as_far_as_it_is_known() -> None:
    untold = ReplicaNow("chat-1", "b1", DeviceUse("GPU-1", None, 9))
    now = pool(READY, untold, ReplicaNow("chat-2", "b1", None))
    of_ready = ("llamacpp", "b1", "chat", "chat-0", "GPU-0")
    of_untold = ("llamacpp", "b1", "chat", "chat-1", "GPU-1")
    assert Watched().look("gpu_utilization", now) == {of_ready: 0.5}
    assert Watched().look("vram_used_bytes", now) == {of_ready: 1000, of_untold: 9}


def test_what_belongs_to_a_replica_goes_with_it() -> None:
    watched = Watched()
    watched.registry.count_ended("chat", "chat-0", 5, 7)
    for series in CATALOG:
        assert not any("chat-0" in labels for labels in watched.look(series.name, pool(COMING)))


def test_a_model_is_shown_once_and_is_active() -> None:
    pools = (pool(), pool(pool_id="code"), pool(pool_id="third", model_id="/other.gguf"))
    shown = {("/m.gguf", "Active"): 1, ("/other.gguf", "Active"): 1}
    assert Watched().look("model_state", *pools) == shown


def test_a_retired_model_is_shown_unless_a_pool_serves_it() -> None:
    pools = (
        pool(model_id="/b.gguf", retired=("/a.gguf", "/c.gguf")),
        pool(pool_id="code", model_id="/c.gguf", retired=("/a.gguf", "/b.gguf")),
    )
    assert Watched().look("model_state", *pools) == {
        ("/b.gguf", "Active"): 1,
        ("/c.gguf", "Active"): 1,
        ("/a.gguf", "Retired"): 1,
    }


def test_a_thousand_pages_leave_nothing_behind() -> None:
    watched = Watched()
    collector, now = Collector(watched.registry), (pool(READY, COMING), pool(pool_id="code"))
    sizes: list[int] = []
    tracemalloc.start()
    try:
        for number in range(1100):
            # What was served meanwhile makes no page larger but by a digit.
            watched.registry.count_ended("chat", "chat-0", 1, 1)
            page = write_exposition(collector.collect(now))
            if number in (100, 1099):
                sizes += [len(page), tracemalloc.get_traced_memory()[0]]
        assert sizes[2] - sizes[0] <= 4
        assert sizes[3] - sizes[1] < 20_000, "20 bytes for each page: no object is as small"
    finally:
        tracemalloc.stop()


# -- versions ------------------------------------------------------------------------------------


def versions_over_time(told: Sequence[str | None]) -> list[list[str]]:
    watched = Watched()
    return [
        watched.versions("tokens_out_total", pool(ReplicaNow("chat-0", version, None)))
        for version in told
    ]


def test_a_version_is_unknown_until_it_is_told_and_stays_until_another_is() -> None:
    told = (None, "b1", None, "b1", None, "b2")
    shown = [[version] for version in ("unknown", "b1", "b1", "b1", "b1", "b2")]
    assert versions_over_time(told) == shown


def test_a_count_goes_on_under_a_new_version_and_the_old_one_is_gone() -> None:
    watched = Watched()
    watched.registry.count_ended("chat", "chat-0", 1, 10)
    watched.look("tokens_out_total", pool(READY))
    upgraded = pool(ReplicaNow("chat-0", "b2", None))
    shown = {("llamacpp", "b2", "chat", "chat-0"): 10}
    assert watched.look("tokens_out_total", upgraded) == shown


def test_a_pools_version_is_that_of_its_first_replica_that_has_told_it() -> None:
    second = ReplicaNow("chat-1", "b2", None)
    coming = ReplicaNow("chat-0", None, None)
    assert set(Watched().versions("queue_depth", pool(coming, second))) == {"b2"}
    assert set(Watched().versions("queue_depth", pool(READY, second))) == {"b1"}
    assert set(Watched().versions("queue_depth", pool())) == {"unknown"}


def test_a_version_is_no_longer_than_a_label_should_be() -> None:
    assert versions_over_time(["x" * 10_000]) == [["x" * 128]]
