"""The catalogue says what the specification and ci/metrics.lint.json say."""

from __future__ import annotations

import json
import re
from pathlib import Path

from orchd.metrics.catalog import CATALOG, ModelState
from orchd.serving.task import Priority

RULES = json.loads((Path(__file__).parents[2] / "ci/metrics.lint.json").read_text())
SPECIFIED = """
queue_depth{engine,engine_version,pool_id,priority}
tasks_enqueued_total{engine,engine_version,pool_id,replica_id,priority}
tasks_rejected_total{engine,reason}
tokens_in_total{engine,engine_version,pool_id,replica_id}
tokens_out_total{engine,engine_version,pool_id,replica_id}
gpu_utilization{engine,engine_version,pool_id,replica_id,device}
vram_used_bytes{engine,engine_version,pool_id,replica_id,device}
model_state{model_id,state}
"""


def test_the_series_are_those_of_the_specification_and_no_others() -> None:
    told = [f"{series.name}{{{','.join(series.labels)}}}" for series in CATALOG]
    assert told == SPECIFIED.split()


def test_the_rules_say_the_same() -> None:
    assert {name: (rule["type"], rule["labels"]) for name, rule in RULES["series"].items()} == {
        series.name: (series.type, list(series.labels)) for series in CATALOG
    }
    optional = [name for name, rule in RULES["series"].items() if rule.get("optional")]
    assert optional == ["model_state"]
    values = {
        (name, label): given
        for name, rule in RULES["series"].items()
        for label, given in rule.get("values", {}).items()
    }
    assert values == {
        ("queue_depth", "priority"): list(Priority),
        ("tasks_enqueued_total", "priority"): list(Priority),
        ("model_state", "state"): list(ModelState),
    }


def test_nothing_of_the_catalogue_is_forbidden() -> None:
    forbidden = RULES["forbidden"]
    for series in CATALOG:
        assert not any(re.search(pattern, series.name) for pattern in forbidden["names"])
        for label in series.labels:
            assert not any(re.search(pattern, label) for pattern in forbidden["labels"])


def test_names_tell_the_type_and_the_unit() -> None:
    for series in CATALOG:
        assert series.name.endswith("_total") == (series.type == "counter")
        assert series.help.endswith(".") and "\n" not in series.help
    by_name = {series.name: series.help for series in CATALOG}
    assert "0 to 1" in by_name["gpu_utilization"]
    assert "Bytes" in by_name["vram_used_bytes"]
