"""The line that tells how the daemon stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from orchd.config.model import PoolConfig
from orchd.runner.lifecycle import State
from orchd.runner.reload_status import ReloadStatus, Step
from orchd.runner.status import PoolStatus, ReplicaStatus, explain
from orchd.systemd.standing import Standing, describe

CHAT = PoolConfig(id="chat", engine="llamacpp", model="/models/chat.gguf")
CODE = PoolConfig(id="code", engine="llamacpp", model="/models/code.gguf")
GPU = "GPU-11111111-2222-3333-4444-555555555555"


def replica(name: str, state: State, so_far_s: float = 0, failure: str = "") -> ReplicaStatus:
    has_device = state in (State.LOADING, State.READY, State.STOPPING)
    reason = explain(state, so_far_s, failure, 60)
    model = f"/models/{name.partition('-')[0]}.gguf"
    return ReplicaStatus(name, model, GPU if has_device else None, state, None, 0, reason, None)


def stand(
    chat: Sequence[ReplicaStatus] = (),
    code: Sequence[ReplicaStatus] = (),
    reload: ReloadStatus | None = None,
) -> Standing:
    return describe((PoolStatus(CHAT, (), reload, chat, ()), PoolStatus(CODE, (), None, code, ())))


@pytest.mark.parametrize(
    ("chat", "line"),
    [
        ([], "replicas are being planned"),
        ([replica("chat-0", State.READY)], "1 of 1 replicas ready"),
        (
            [replica("chat-0", State.LOADING, 43.2)],
            f"0 of 1 replicas ready; chat-0: loading for 43 s (/models/chat.gguf on {GPU})",
        ),
        (
            [
                replica("chat-0", State.READY),
                replica("chat-1", State.BACKOFF, 20, "needs 9.1 GiB and the best has 7.9 free"),
            ],
            "1 of 2 replicas ready; chat-1: needs 9.1 GiB and the best has 7.9 free;"
            " tries again in 40 s",
        ),
    ],
)
def test_a_pool(chat: list[ReplicaStatus], line: str) -> None:
    assert stand(chat=chat).line == line


def test_every_pool_and_no_more_than_fits() -> None:
    chat = [replica(f"chat-{n}", State.PLACING, n) for n in range(3)]
    code = [replica("code-0", State.READY), *(replica(f"code-{n}", State.DOWN) for n in (1, 2))]
    assert stand(chat=chat, code=code).line == (
        "1 of 6 replicas ready; chat-0: placing for 0 s; chat-1: placing for 1 s;"
        " chat-2: placing for 2 s; 2 more, see /health"
    )


def test_a_reload_is_told_instead_of_what_it_brings() -> None:
    coming = replace(replica("chat-1", State.LOADING, 3), is_active=False)
    reload = ReloadStatus("/models/new.gguf", None, Step.LOADING, 3.0)
    standing = stand(chat=[replica("chat-0", State.READY), coming], reload=reload)
    assert standing.line == (
        "1 of 1 replicas ready; a reload of chat loads the new model beside the old one"
    )
    again = stand(chat=[replica("chat-0", State.READY)], reload=replace(reload, so_far_s=9.0))
    assert again == standing
    further = stand(
        chat=[replica("chat-0", State.READY)], reload=replace(reload, step=Step.RETIRING)
    )
    assert further.turn != standing.turn


def test_seconds_that_run_on_are_no_turn() -> None:
    before = stand(chat=[replica("chat-0", State.LOADING, 1)])
    after = stand(chat=[replica("chat-0", State.LOADING, 2)])
    assert (before.turn, before.line) == (after.turn, after.line.replace("2 s", "1 s"))
    moved = replace(replica("chat-0", State.LOADING, 2), device="cpu")
    for other in (replica("chat-0", State.READY), replica("chat-1", State.LOADING, 2), moved):
        assert stand(chat=[other]).turn != after.turn
