"""The configuration's schema is the model's, and says of every document what the daemon says.

What the daemon takes, the schema takes. What the daemon refuses, the schema refuses too, but for
what no keyword can say: ``BEYOND`` has every such fault.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import config_schema
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orchd.config.load import load_config
from orchd.config.model import Config
from orchd.config.model_form import is_path
from orchd.config.shape import keys_of
from orchd.config.validate import validate
from orchd.engines.registry import ADAPTERS
from orchd.errors import ConfigurationError

SCHEMA = json.loads(config_schema.FILE.read_text())
EXAMPLES = Path(__file__).parents[2] / "contracts/config-schema/examples"
POOL = {"id": "chat", "engine": "llamacpp", "model": "m.gguf"}


def match_pattern(_: Any, pattern: str, text: object, __: Any) -> Iterator[Any]:
    """As ECMA 262 has it, where ``$`` is the end and not a line's end before it too."""
    if isinstance(text, str) and not re.search(pattern.removesuffix("$") + r"\Z", text):
        yield jsonschema.ValidationError(f"{text!r} does not match {pattern!r}")


extend: Any = jsonschema.validators.extend
judge = extend(jsonschema.Draft202012Validator, {"pattern": match_pattern})
JUDGE = judge(SCHEMA)

BEYOND = {
    "the form of an address": r'server\.listen: must be ("host:port"|"unix:").*',
    "two pools of one id": r'pools\[\d+\]\.id: must be unique, ".*" is already in entry \d+',
    "two spellings": r'pools\[\d+\]\.devices\[\d+\]: must be unique, ".*" is already in entry \d+',
    "1.0 for 1": r".*: must be (an integer|an integer or .*), found the float -?\d+\.0",
}


def compare(document: dict[str, Any]) -> str:
    """Hold the schema's verdict to the daemon's; tells which it was."""
    outcome = validate(document)
    is_valid = JUDGE.is_valid(document)
    if isinstance(outcome, Config):
        assert is_valid, next(JUDGE.iter_errors(document)).message
        return "taken"
    if not is_valid:
        return "refused"
    for fault in outcome:
        assert any(re.fullmatch(said, str(fault), re.DOTALL) for said in BEYOND.values()), fault
    return "beyond"


# -- the file ------------------------------------------------------------------------------------


def test_it_is_a_schema_and_not_stale() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert config_schema.main(["--check"]) == 0


def test_a_stale_one_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(config_schema, "FILE", tmp_path / "orchd.schema.json")
    assert config_schema.main(["--check"]) == 1
    assert "run python tools/config_schema.py" in capsys.readouterr().err
    assert config_schema.main([]) == 0
    assert config_schema.main(["--check"]) == 0
    stale = config_schema.render().replace('"maximum": 256', '"maximum": 255', 1)
    config_schema.FILE.write_text(stale)
    assert config_schema.main(["--check"]) == 1


def test_every_key_is_described() -> None:
    def walk(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for told in schema.get("properties", {}).values():
            yield told
            yield from walk(told)
            yield from walk(told.get("items", {}))

    keys = list(walk(SCHEMA))
    assert len(keys) > 35
    assert all(key["description"] for key in keys)


@pytest.mark.parametrize("dropped", ["fair", "preempt", "tenant", "quota", "deadline", "weight"])
def test_what_the_specification_dropped_is_not_in_it(dropped: str) -> None:
    assert dropped not in config_schema.FILE.read_text().lower()
    assert SCHEMA["properties"]["queue"]["properties"].keys() == {"interactive", "batch"}


# -- what it says --------------------------------------------------------------------------------


def edges(schema: dict[str, Any]) -> Iterator[Any]:
    """Values at the bounds of a key and one beyond them, and of every wrong type."""
    yield from (
        True,
        False,
        1,
        1.5,
        "a",
        "",
        "a\0",
        "é\n",
        [],
        ["a"],
        [1],
        {},
        {"a": 1},
        {"a": "b"},
    )
    for member in schema.get("anyOf", [schema]):
        for bound in (member.get("minimum"), member.get("maximum")):
            if bound is not None:
                yield from (bound - 1, bound, bound + 1, float(bound), bound + 0.5)
        yield from member.get("enum", ())
        for word, make in (("Length", "a"), ("Items", ["a"]), ("Properties", None)):
            for bound in (member.get(f"min{word}", 0), member.get(f"max{word}", 0)):
                for size in (bound, bound + 1) if bound else ():
                    yield {f"A{n}": "b" for n in range(size)} if make is None else make * size


LEAVES = {
    (table, key): told
    for table, schema in SCHEMA["properties"].items()
    for key, told in schema.get("items", schema)["properties"].items()
}


@pytest.mark.parametrize(("table", "key"), LEAVES)
def test_at_the_bounds_it_says_what_the_daemon_says(table: str, key: str) -> None:
    verdicts: Counter[str] = Counter()
    for value in [*edges(LEAVES[table, key]), *NOTABLE.get(key, ())]:
        document: dict[str, Any] = {"pools": [dict(POOL)]}
        if table == "pools":
            document["pools"][0][key] = value
        else:
            document[table] = {key: value}
        verdicts[compare(document)] += 1
    assert verdicts["taken"] and verdicts["refused"], verdicts


UUID = "5fbe0b29-8d2a-4a5c-9c5b-3f0b5a2c7d11"
NOTABLE: dict[str, list[Any]] = {
    "listen": ["localhost:1", "[::1]:0", "[::g]:0", "unix:/a", "unix:a", ":1", "a:65536"],
    "engine": ["llamacpp", "vllm", "openai"],
    "id": ["a", "a" * 64, "a" * 65, "-a", "a b", "a\n"],
    "sha256": ["a" * 64, "A1" * 32, "a" * 63, "a" * 65, "g" * 64],
    "token": ["a" * 4096, "a" * 4097, "a b", "a\n", "~"],
    "devices": [
        *(
            ["auto"],
            ["auto", "cpu"],
            ["auto", 0],
            ["cpu"],
            [0],
            [99],
            [100],
            [-1],
            ["00"],
            ["0", 0],
            [0.0],
        ),
        *([f"GPU-{UUID}"], [f"GPU-{UUID.upper()}"], [f"GPU-{UUID}", f"GPU-{UUID.upper()}"]),
        *(["RTX 3090"], ["GPU-1"], ["cuda:0"], ["CPU"], ["all"], ["allx"], ["a\n"], [True]),
        *(["3090"], ["x" * 64], ["x" * 65], ["ab"] * 2, [["cpu"]]),
    ],
    "env": [{"A": "b"}, {"CUDA_VISIBLE_DEVICES": "0"}, {"1A": "b"}, {"A": 1}, {"A": "x" * 32769}],
    "args": [["x" * 32768], ["x" * 32769]],
    "command": [["x" * 32768], ["x" * 32769], ["{"]],
    "replicas": ["per-device", "per device", 1, 64, 65],
    "queue": [{}, {"batch": 1}, {"batch": 0}, {"batch": 1.0}, {"interactiv": 1}],
}


WORDS = ["a", "auto", "cpu", "RTX 3090", "127.0.0.1:1", "unix:/a", "a b", "é\n", "chat", "b.gguf"]
WORDS += ["0a" * 32]


def good(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Values that the schema takes, or nearly all of them."""
    if "anyOf" in schema:
        return st.one_of([good(member) for member in schema["anyOf"]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    match schema["type"]:
        case "integer":
            return st.integers(schema["minimum"], schema["maximum"])
        case "number":
            return st.floats(schema["minimum"], schema["maximum"])
        case "string":
            return st.sampled_from([word for word in WORDS if judge(schema).is_valid(word)])
        case "array":
            least = schema.get("minItems", 0)
            return st.lists(good(schema["items"]), min_size=least, max_size=least + 2)
    if "properties" not in schema:
        return st.dictionaries(st.sampled_from(["A", "B_1"]), st.text(max_size=4), max_size=2)
    required = {name: good(schema["properties"][name]) for name in schema.get("required", ())}
    return st.fixed_dictionaries(
        required,
        optional={
            name: good(told) for name, told in schema["properties"].items() if name not in required
        },
    )


GOOD = good(SCHEMA)
wild = st.recursive(
    st.booleans() | st.integers(-5, 2**40) | st.floats(allow_nan=False) | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=4,
)


def list_ways(node: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    inner = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in inner:
        yield (*way, key)
        if isinstance(value, dict | list):
            yield from list_ways(value, (*way, key))


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """A document that is good, or bent in up to two places."""
    document: dict[str, Any] = copy.deepcopy(draw(GOOD))
    for _ in range(draw(st.integers(0, 2))):
        ways = list(list_ways(document))
        if not ways:
            break
        *above, last = draw(st.sampled_from(ways))
        node: Any = document
        for key in above:
            node = node[key]
        match draw(st.sampled_from(["replace", "replace", "remove", "add"])):
            case "replace":
                node[last] = draw(wild)
            case "remove":
                del node[last]
            case _ if isinstance(node, dict):
                node[draw(st.text(min_size=1, max_size=8))] = draw(wild)
    return document


@pytest.fixture(scope="module")
def verdicts() -> Iterator[Counter[str]]:
    """Of the documents that were tried: there must be some of each kind."""
    verdicts: Counter[str] = Counter()
    yield verdicts
    assert verdicts.keys() == {"taken", "refused", "beyond"}, verdicts


@given(document=documents())
@settings(max_examples=200)
def test_it_says_of_any_document_what_the_daemon_says(
    verdicts: Counter[str], document: dict[str, Any]
) -> None:
    verdicts[compare(document)] += 1


# -- the examples --------------------------------------------------------------------------------


def test_there_are_five() -> None:
    assert {path.name for path in EXAMPLES.iterdir()} == {
        *("least.toml", "two-cards.toml", "every-key.toml", "any-server.toml"),
        "side-by-side.toml",
    }


@pytest.mark.parametrize("path", sorted(EXAMPLES.iterdir()), ids=lambda path: path.name)
def test_an_example_is_valid_and_loads(path: Path) -> None:
    text = path.read_text()
    directive = text.splitlines()[0].removeprefix("#:schema ")
    assert (path.parent / directive).resolve() == config_schema.FILE.resolve()
    JUDGE.validate(tomllib.loads(text))
    rules = {name: adapter.find_faults for name, adapter in ADAPTERS.items()}
    config = load_config(path, {}, rules)
    paths = [pool.model for pool in config.pools if is_path(pool.engine, pool.model)]
    assert all(Path(path).parent.is_relative_to(EXAMPLES) for path in paths)


def test_the_least_has_three_lines() -> None:
    text = (EXAMPLES / "least.toml").read_text()
    assert sum(" = " in line for line in text.splitlines()) == 3


def test_the_two_cards_are_named_in_both_ways() -> None:
    config = load_config(EXAMPLES / "two-cards.toml", {})
    devices = [device for pool in config.pools for device in pool.devices]
    assert any(device.startswith("GPU-") for device in devices)
    assert any(device.startswith("RTX") for device in devices)


def test_every_key_is_in_the_example_that_says_so() -> None:
    text = (EXAMPLES / "every-key.toml").read_text()
    document = tomllib.loads(text)
    aside = set(re.findall(r"^# (\w+) = ", text, re.MULTILINE))
    assert aside == {"token", "command"}, "only what excludes another key is commented out"
    assert document.keys() == keys_of(Config).keys()
    for table, schema in SCHEMA["properties"].items():
        written = document[table][0] if table == "pools" else document[table]
        told = schema.get("items", schema)["properties"]
        assert written.keys() | (aside & told.keys()) == told.keys(), table
        for key, value in written.items():
            if isinstance(value, dict):
                assert value.keys() == told[key].get("properties", value).keys()


def test_the_key_that_is_commented_out_can_be_taken_instead() -> None:
    text = (EXAMPLES / "every-key.toml").read_text()
    other = re.sub(r"^# (token = )", r"\1", text, flags=re.MULTILINE)
    assert compare(tomllib.loads(other)) == "refused"
    other = re.sub(r"^token_file = .*$", "", other, flags=re.MULTILINE)
    assert compare(tomllib.loads(other)) == "taken"


def test_the_command_that_is_commented_out_can_be_taken_instead(tmp_path: Path) -> None:
    text = (EXAMPLES / "every-key.toml").read_text()
    other = re.sub(r"^# (command = )", r"\1", text, flags=re.MULTILINE)
    config = tmp_path / "orchd.toml"
    rules = {name: adapter.find_faults for name, adapter in ADAPTERS.items()}
    config.write_text(other)
    with pytest.raises(ConfigurationError, match="command: is for engine"):
        load_config(config, {}, rules)
    other = other.replace('engine = "llamacpp"', 'engine = "openai"')
    config.write_text(re.sub(r"^(binary|sha256) = .*$", "", other, flags=re.MULTILINE))
    assert load_config(config, {}, rules).pools[0].command[0] == "/opt/serve"


def test_what_is_not_said_to_be_an_example_is_the_default() -> None:
    text = (EXAMPLES / "every-key.toml").read_text()
    document = tomllib.loads(text)
    count = 0
    for table, schema in SCHEMA["properties"].items():
        for key, told in schema.get("items", schema)["properties"].items():
            (line, *_) = re.findall(rf"^(?:# )?{key} = .*$", text, re.MULTILINE)
            if "default" in told and "for example" not in line and not line.startswith("# "):
                written = document[table][0] if table == "pools" else document[table]
                assert written[key] == told["default"], key
                count += 1
    assert count >= 20
