"""What the specification forbids is not there: routes, headers, fields, labels and keys."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from orchd.config.model import Config
from orchd.config.validate import validate
from orchd.metrics.catalog import CATALOG, ModelState
from tests.contracts.documents import CONTRACTS
from tests.contracts.provoke import Narrow, find_the_queue_full, first_example
from tests.contracts.wire import Request, ask
from tests.fakes.daemon import RunningDaemon
from tests.scrapes import scrape

ROOT = Path(__file__).parents[2]
POOL: dict[str, Any] = {"id": "chat", "engine": "llamacpp", "model": "m.gguf"}
LISTENING = "0A"
LOOPBACK = "0100007F"

DRAIN = ["/v1/pools/chat/drain", "/v1/pools/chat/undrain", "/v1/drain", "/drain"]
ARTIFACTS = ["/v1/artifacts", "/v1/artifacts/sha256:00", "/v1/registry"]
CDC = ["/v1/cdc", "/v1/pacts", "/__pact/provider-states"]
ROLLOUT = ["/v1/pools/chat/canary", "/v1/pools/chat/rollout", "/v1/pools/chat/deprecate"]
TENANTS = ["/v1/tenants", "/v1/roles", "/v1/users", "/v1/quotas"]


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
@pytest.mark.parametrize("path", [*DRAIN, *ARTIFACTS, *CDC, *ROLLOUT, *TENANTS])
def test_a_route_is_404(provider: RunningDaemon, method: str, path: str) -> None:
    answer = ask(provider.port, Request(method, path))
    assert answer.status == 404
    assert answer.json["code"] == "NOT_FOUND"


def test_no_answer_has_a_correlation_id(provider: RunningDaemon) -> None:
    """Neither of its own, nor the client's back."""
    mark = "8a1fb3de-mark"
    wanted = dict.fromkeys(("X_Correlation_Id", "X_Request_Id", "Traceparent"), mark)
    for operation in CONTRACTS.operations:
        request = first_example(operation).with_fields(**wanted)
        for bent in (request, request.with_fields(Authorization="")):
            answer = ask(provider.port, bent)
            assert mark not in f"{answer.headers} {answer.body!r}"
            names = " ".join(answer.headers)
            assert not re.search("correlation|request-id|trace", names), names


def test_a_429_has_no_policy_label(narrow: Narrow) -> None:
    answer = find_the_queue_full(narrow, Request("POST", "/v1/tasks"))
    assert answer.status == 429
    assert answer.json.keys() == {"code", "message", "engine"}
    assert b"policy" not in answer.body
    assert int(answer.headers["retry-after"]) >= 1
    assert int(answer.headers["x-backoff-ms"]) >= 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("deadline_ms", 100), ("deadline", "soon"), ("tenant", "a"), ("tenant_id", "a")),
        *(("weight", 2), ("quota", 1), ("preemptible", True), ("resume", True)),
        *(("resume_token", "a"), ("correlation_id", "a"), ("policy_label", "a")),
        *(("priority", "high"), ("priority", "background"), ("priority", 0)),
    ],
)
def test_a_field_is_refused(provider: RunningDaemon, field: str, value: object) -> None:
    body = json.dumps({"prompt": "a", field: value}).encode()
    answer = ask(provider.port, Request("POST", "/v1/tasks", body=body))
    assert answer.status == 400
    assert field in answer.json["message"]


@pytest.mark.parametrize(
    "document",
    [
        {"tenants": []},
        {"roles": {}},
        {"cluster": {"peers": ["10.0.0.2"]}},
        {"fairness": {"weights": {}}},
        {"queue": {"interactive": 1, "background": 1}},
        {"queue": {"quota": 1}},
        {"tasks": {"deadline_s": 1}},
        *({"pools": [{**POOL, key: 1}]} for key in ("tensor_split", "numa", "pcie", "topology")),
        *({"pools": [{**POOL, key: 1}]} for key in ("weight", "preempt", "canary", "percent")),
        *({"pools": [{**POOL, key: "a"}]} for key in ("state", "tenant", "node", "signature_key")),
    ],
    ids=lambda document: json.dumps(document)[:60],
)
def test_a_key_is_refused(document: dict[str, Any]) -> None:
    whole: dict[str, Any] = {"pools": [POOL]}
    assert isinstance(validate(whole), Config)
    faults = validate(whole | document)
    assert not isinstance(faults, Config)
    assert all("is not a known key" in fault.problem for fault in faults), faults


def test_no_metric_or_label_is_of_those_dropped(provider: RunningDaemon) -> None:
    page = scrape(provider).text
    rules = json.loads((ROOT / "ci/metrics.lint.json").read_text())["forbidden"]
    words = ("p95", "p99", "quantile", "deadline", "tenant", "preempt", "resum", "admission_share")
    for series in re.findall(r"^# TYPE (\S+)", page, re.MULTILINE):
        assert not any(word in series for word in words)
        assert not any(re.search(pattern, series) for pattern in rules["names"])
    for label in set(re.findall(r'[{,](\w+)="', page)):
        assert not any(word in label for word in words)
        assert not any(re.search(pattern, label) for pattern in rules["labels"])
    for name in ("latency_p95_ms", "admission_share", "deadlines_met_ratio", "preemptions_total"):
        assert any(re.search(pattern, name) for pattern in rules["names"]), name
        assert name not in {series.name for series in CATALOG}


def test_a_model_is_active_or_retired() -> None:
    assert [state.value for state in ModelState] == ["Active", "Retired"]
    schemas = CONTRACTS.documents["control.yaml"]["components"]["schemas"]
    assert schemas["Pool"]["properties"]["model_state"]["const"] == "Active"
    for file in (*ROOT.glob("contracts/openapi/*"), *ROOT.glob("ci/*.json")):
        assert not re.search(r"\b(Draft|Deprecated|Canary)\b", file.read_text())


WORDS = (
    "drain",
    "artifact",
    "correlation",
    "policy_label",
    "deadline",
    "canary",
    "tenant",
    "quota",
)


@pytest.mark.parametrize("word", [*WORDS, "preempt", "rollout", "deprecate", "fairness"])
def test_a_word_is_in_no_contract(word: str) -> None:
    contracts = [*ROOT.glob("contracts/openapi/*"), *ROOT.glob("contracts/config-schema/**/*.*")]
    assert len(contracts) == 8
    for contract in contracts:
        assert word not in contract.read_text().lower(), contract


def list_engines(provider: RunningDaemon) -> list[int]:
    health = json.load(provider.ask("GET", "/health"))
    return [replica["pid"] for pool in health["pools"] for replica in pool["replicas"]]


def test_an_engine_is_told_nothing_of_topology_or_split_tensors(provider: RunningDaemon) -> None:
    (pid,) = list_engines(provider)
    argv = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert "--model" in argv
    split = ("--tensor-split", "-ts", "--split-mode", "-sm", "--main-gpu", "-mg", "--rpc")
    assert not {*split, "--numa", "--override-tensor", "-ot"} & set(argv)


def list_listening(pid: int) -> Iterator[str]:
    """The addresses on which a process listens, as the kernel writes them."""
    inodes = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        # One that is closed meanwhile listens to nobody.
        with contextlib.suppress(FileNotFoundError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", str(entry.readlink())):
                inodes.add(match[1])
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == LISTENING and fields[9] in inodes:
                yield fields[1].partition(":")[0]


def test_the_daemon_and_its_engines_listen_on_loopback_alone(provider: RunningDaemon) -> None:
    for pid in (provider.process.pid, *list_engines(provider)):
        assert list(list_listening(pid)) == [LOOPBACK]
