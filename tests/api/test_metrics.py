"""What /metrics shows of the house, and which refusals of the door are those of tasks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from orchd.api.context import Meters
from orchd.errors import ClientError, Code
from orchd.http1.messages import Accepted, Head, Headers, Request, Response
from orchd.metrics.cpu_watch import CpuUse
from orchd.runner.snapshot import Gpu, GpuProcess
from orchd.serving.task import Admitted, Rejected
from tests.contracts.seen import SeenDoor
from tests.fakes.house import TASK_ID, FakeReplica, FakeService, build_context, build_meters

AUTHORIZATION: Headers = ((b"authorization", b"Bearer s3cret"),)
PID = 4242
POOL = {"engine": "llamacpp", "engine_version": "b1", "pool_id": "chat"}
REPLICA = {**POOL, "replica_id": "chat-0"}


def show(*replicas: FakeReplica, **world: Any) -> dict[str, list[tuple[dict[str, str], float]]]:
    """The page that this house shows, read back: labels and value of each sample, by name."""
    door = SeenDoor(build_context(FakeService(), *replicas, meters=build_meters(**world)), "s3cret")
    head = Head("GET", "/metrics", "", AUTHORIZATION)
    accepted = door.open(head)
    assert isinstance(accepted, Accepted)
    reply = accepted.handler(Request(head, {}, b""))
    assert isinstance(reply, Response) and reply.status == 200
    headers = dict(reply.headers)
    assert headers[b"content-type"] == b"text/plain; version=0.0.4; charset=utf-8"
    assert headers[b"cache-control"] == b"no-store"
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(reply.body.decode()):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        found[name] = [(sample.labels, sample.value) for sample in family.samples]
    return found


# -- the house -----------------------------------------------------------------------------------


def test_queues_and_models() -> None:
    shown = show(FakeReplica())
    assert shown["queue_depth"] == [
        ({**POOL, "priority": "interactive"}, 2),
        ({**POOL, "priority": "batch"}, 1),
    ]
    assert shown["model_state"] == [({"model_id": "/models/a.gguf", "state": "Active"}, 1)]


def gpu(utilization: int | None = 37, *processes: GpuProcess) -> Gpu:
    memory = (24_000, 14_000)
    return Gpu("GPU-0", 0, "Card", *memory, utilization=utilization, processes=processes)


ON_GPU = FakeReplica(device="GPU-0")
IN_USE = 10_000
OTHER = GpuProcess(1, 1, 900)
OWN = (GpuProcess(PID, PID, 5000), GpuProcess(PID + 1, PID, 7))


@pytest.mark.parametrize(
    ("processes", "used_bytes"),
    [
        ((), IN_USE),
        ((OTHER, *OWN), 5007),
        ((OTHER,), IN_USE),
        ((GpuProcess(99, None, 5000),), IN_USE),
        ((GpuProcess(PID, PID, None),), IN_USE),
    ],
    ids=["untold", "its own", "of others", "foreign pids", "without sizes"],
)
def test_a_gpu(processes: tuple[GpuProcess, ...], used_bytes: int) -> None:
    shown = show(ON_GPU, gpus={"GPU-0": gpu(37, *processes)})
    assert shown["gpu_utilization"] == [({**REPLICA, "device": "GPU-0"}, 0.37)]
    assert shown["vram_used_bytes"] == [({**REPLICA, "device": "GPU-0"}, used_bytes)]


def test_a_gpu_that_does_not_tell_its_utilization() -> None:
    shown = show(ON_GPU, gpus={"GPU-0": gpu(None)})
    assert shown["gpu_utilization"] == []
    assert len(shown["vram_used_bytes"]) == 1


def test_a_replica_on_the_cpu() -> None:
    shown = show(FakeReplica(), processes={PID: CpuUse(0.25, 4096)})
    assert shown["gpu_utilization"] == [({**REPLICA, "device": "cpu"}, 0.25)]
    assert shown["vram_used_bytes"] == [({**REPLICA, "device": "cpu"}, 4096)]


@pytest.mark.parametrize(
    "replica",
    [
        FakeReplica(),
        FakeReplica(pid=None),
        FakeReplica(device=None),
        FakeReplica(device="GPU-1"),
    ],
    ids=["process gone", "no process", "no device", "a GPU that is lost"],
)
def test_what_nobody_can_tell_is_not_shown(replica: FakeReplica) -> None:
    shown = show(replica, gpus={"GPU-0": gpu()}, processes={PID + 1: CpuUse(1, 1)})
    assert shown["gpu_utilization"] == shown["vram_used_bytes"] == []
    assert shown["tokens_out_total"] == [(REPLICA, 0)]


# -- refusals ------------------------------------------------------------------------------------


@dataclass
class Entrance:
    """A door, and what was counted at it."""

    door: SeenDoor
    service: FakeService
    meters: Meters

    def open(self, method: str, path: str, headers: Headers = AUTHORIZATION) -> Accepted | Response:
        self._asked = Head(method, path, "", headers)
        return self.door.open(self._asked)

    def submit(self, body: bytes = b'{"prompt": "a"}') -> int:
        """The status that is answered to a whole task."""
        accepted = self.open("POST", "/v1/tasks", (*AUTHORIZATION, (b"content-length", b"9")))
        assert isinstance(accepted, Accepted)
        reply = accepted.handler(Request(self._asked, accepted.params, body))
        assert isinstance(reply, Response)
        return reply.status

    @property
    def rejected(self) -> dict[tuple[str, str], int]:
        counts = self.meters.registry.rejected()
        return {key: count for key, count in counts.items() if count}


@pytest.fixture
def entrance() -> Entrance:
    service, meters = FakeService(), build_meters()
    context = build_context(service, FakeReplica(), meters=meters)
    return Entrance(SeenDoor(context, "s3cret"), service, meters)


def test_an_admitted_task_is_no_refusal(entrance: Entrance) -> None:
    entrance.service.outcome = Admitted(TASK_ID, 0, 0, 0)
    assert entrance.submit() == 202
    assert entrance.rejected == {}


@pytest.mark.parametrize("engine", ["llamacpp", None])
@pytest.mark.parametrize(
    "code", [Code.ADMISSION_REJECT, Code.POOL_UNAVAILABLE, Code.CONFLICT, Code.INVALID_PARAMS]
)
def test_what_the_service_refuses(entrance: Entrance, code: Code, engine: str | None) -> None:
    is_full = code in (Code.ADMISSION_REJECT, Code.POOL_UNAVAILABLE)
    entrance.service.outcome = Rejected(code, "no", engine, 1.0 if is_full else None)
    for _ in range(2):
        assert entrance.submit() >= 400
    assert entrance.rejected == {(engine or "none", code): 2}


def test_a_body_that_is_no_task(entrance: Entrance) -> None:
    for body in (b"", b"{", b"[]", b"{}", b'{"prompt": 1}'):
        assert entrance.submit(body) == 400
    assert entrance.rejected == {("none", "INVALID_PARAMS"): 5}


def test_a_bug(entrance: Entrance) -> None:
    entrance.service.outcome = RuntimeError("a bug")
    assert entrance.submit() == 500
    assert entrance.rejected == {("none", "INTERNAL"): 1}


def test_a_head_that_announces_no_task(entrance: Entrance) -> None:
    xml = (*AUTHORIZATION, (b"content-length", b"1"), (b"content-type", b"text/xml"))
    assert isinstance(entrance.open("POST", "/v1/tasks"), Response)
    assert isinstance(entrance.open("POST", "/v1/tasks", xml), Response)
    assert entrance.rejected == {
        ("none", "LENGTH_REQUIRED"): 1,
        ("none", "UNSUPPORTED_MEDIA_TYPE"): 1,
    }


def test_a_body_that_breaks_http(entrance: Entrance) -> None:
    headers = (*AUTHORIZATION, (b"content-length", b"9"))
    for code in (Code.PAYLOAD_TOO_LARGE, Code.REQUEST_TIMEOUT, Code.INVALID_PARAMS):
        accepted = entrance.open("POST", "/v1/tasks", headers)
        assert isinstance(accepted, Accepted) and accepted.refuse is not None
        assert accepted.refuse(ClientError(code, "no")).status >= 400
        assert entrance.rejected[("none", code)] == 1
    assert len(entrance.rejected) == 3


def test_what_is_no_task_is_not_counted(entrance: Entrance) -> None:
    cancelled = entrance.open("POST", f"/v1/tasks/{TASK_ID}/cancel")
    assert isinstance(cancelled, Accepted) and cancelled.refuse is not None
    asked = Request(entrance._asked, cancelled.params, b"")
    unknown = cancelled.handler(asked)
    assert isinstance(unknown, Response) and unknown.status == 404
    assert cancelled.refuse(ClientError(Code.PAYLOAD_TOO_LARGE, "no")).status == 413
    for method, path, headers in (
        ("POST", "/v1/tasks", ()),
        ("POST", "/v1/tasks", ((b"authorization", b"Bearer wrong"),)),
        ("GET", "/v1/tasks", AUTHORIZATION),
        ("POST", "/v1/task", AUTHORIZATION),
    ):
        reply = entrance.open(method, path, headers)
        assert isinstance(reply, Response) and reply.status >= 400
    entrance.door.refuse(ClientError(Code.HEADERS_TOO_LARGE, "too large"))
    assert entrance.rejected == {}
