"""Each rule of the configuration, broken once; and that no document can break the validator."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.config.listen import Listen
from orchd.config.model import (
    AuthConfig,
    Config,
    PoolConfig,
    QueueConfig,
    ServerConfig,
    TasksConfig,
)
from orchd.config.shape import keys_of
from orchd.config.validate import validate
from orchd.errors import Fault

UUID = "GPU-8f3c1b2a-0000-1111-2222-abcdefabcdef"
ENGINES = 'must be "llamacpp" or "vllm" or "openai"'
POOL = '[[pools]]\nid = "chat"\nengine = "llamacpp"\nmodel = "/m.gguf"\n'


def parse(toml: str) -> Config | tuple[Fault, ...]:
    return validate(tomllib.loads(toml))


def accept(toml: str) -> Config:
    outcome = parse(toml)
    assert isinstance(outcome, Config), outcome
    return outcome


def refuse(toml: str) -> list[str]:
    outcome = parse(toml)
    assert not isinstance(outcome, Config), outcome
    assert outcome, "a refusal without a fault"
    return [str(fault) for fault in outcome]


def accept_pool(lines: str) -> PoolConfig:
    return accept(POOL + lines).pools[0]


def test_the_least_useful_file_is_enough() -> None:
    assert accept(POOL) == Config(
        pools=(PoolConfig(id="chat", engine="llamacpp", model="/m.gguf"),)
    )


def test_every_key_can_be_written() -> None:
    config = accept(f"""
        [server]
        listen = "[::1]:0"
        stop_grace_s = 0
        [auth]
        token = "abc"
        [queue]
        interactive = 1
        batch = 2
        [tasks]
        retain_s = 1
        abandon_after_s = 2.5
        [[pools]]
        id = "a.B-c_9"
        engine = "llamacpp"
        model = "m.gguf"
        sha256 = "{"0aF9" * 16}"
        replicas = "per-device"
        slots = 256
        ctx = 10_000_000
        devices = ["{UUID}", 0, "cpu", "1"]
        vram_mib = 6200
        args = ["--flash-attn", "on", ""]
        env = {{ OMP_NUM_THREADS = "2", _x = "" }}
        binary = "llama-server"
        load_stall_s = 3
        decode_stall_s = 4
        queue = {{ interactive = 3, batch = 4 }}
        """)
    assert config.server.listen == Listen("::1", 0)
    assert config.server.stop_grace_s == 0.0
    assert config.auth.token == "abc"
    assert config.queue == QueueConfig(interactive=1, batch=2)
    assert (config.tasks.retain_s, config.tasks.abandon_after_s) == (1.0, 2.5)
    (pool,) = config.pools
    assert (pool.id, pool.replicas, pool.slots, pool.ctx) == (
        "a.B-c_9",
        "per-device",
        256,
        10_000_000,
    )
    assert pool.sha256 == "0aF9" * 16
    assert pool.devices == (UUID, "0", "cpu", "1")
    assert (pool.vram_mib, pool.args) == (6200, ("--flash-attn", "on", ""))
    assert dict(pool.env) == {"OMP_NUM_THREADS": "2", "_x": ""}
    assert (pool.binary, pool.load_stall_s) == ("llama-server", 3.0)
    assert pool.decode_stall_s == 4.0
    assert pool.queue == QueueConfig(interactive=3, batch=4)


def test_what_was_read_cannot_be_changed_through_the_document() -> None:
    document = tomllib.loads(POOL + 'env = { A = "1" }\nargs = ["x"]')
    config = validate(document)
    assert isinstance(config, Config)
    document["pools"][0]["env"]["A"] = "2"
    document["pools"][0]["args"][0] = "y"
    assert dict(config.pools[0].env) == {"A": "1"}
    assert config.pools[0].args == ("x",)
    assert isinstance(accept(POOL + "load_stall_s = 5").pools[0].load_stall_s, float)


class TestQueueInheritance:
    def test_key_by_key(self) -> None:
        config = accept("[queue]\ninteractive = 7\nbatch = 8\n" + POOL + "queue = { batch = 9 }")
        assert config.pools[0].queue == QueueConfig(interactive=7, batch=9)

    def test_a_pool_that_says_nothing_takes_all(self) -> None:
        assert accept("[queue]\nbatch = 8\n" + POOL).pools[0].queue == QueueConfig(batch=8)

    def test_the_order_of_the_tables_is_of_no_account(self) -> None:
        config = accept(POOL + "[pools.queue]\nbatch = 9\n[queue]\ninteractive = 7\n")
        assert config.pools[0].queue == QueueConfig(interactive=7, batch=9)
        assert config.queue == QueueConfig(interactive=7)

    def test_a_fault_in_the_inherited_table_is_told_once(self) -> None:
        faults = refuse("[queue]\nbatch = 0\n" + POOL + POOL.replace("chat", "code"))
        assert faults == ["queue.batch: must be from 1 to 100000, found 0"]

    def test_a_fault_there_does_not_hide_one_in_the_heir(self) -> None:
        faults = refuse("[queue]\nbatch = 0\n" + POOL + "queue = { interactive = 0 }")
        assert [fault.partition(":")[0] for fault in faults] == [
            "queue.batch",
            "pools[0].queue.interactive",
        ]

    @pytest.mark.parametrize(
        "toml",
        ["queue = 3\n" + POOL, POOL + "queue = 3"],
        ids=["top-level", "in-the-pool"],
    )
    def test_no_table(self, toml: str) -> None:
        (fault,) = refuse(toml)
        assert fault.endswith("queue: must be a table, found the integer 3")


@pytest.mark.parametrize(
    ("toml", "expected"),
    [
        pytest.param(
            "", "pools: is required and missing: The pools, each a [[pools]]", id="no-pools"
        ),
        pytest.param("pools = []", "pools: must not be empty", id="empty-pools"),
        pytest.param(
            '[pools]\nid = "a"',
            "pools: must be an array of tables (double brackets), found a table",
            id="pools-as-one-table",
        ),
        pytest.param(
            "pools = [3]", "pools[0]: must be a table, found the integer 3", id="a-pool-no-table"
        ),
        pytest.param(
            f"{POOL}{POOL}",
            'pools[1].id: must be unique, "chat" is already in entry 0',
            id="pool-id-twice",
        ),
        pytest.param(
            "serve = 1\n" + POOL,
            "serve: is not a known key; did you mean server?",
            id="unknown-top-level",
        ),
        pytest.param(
            POOL + "[server]\nLISTEN = 1",
            "server.LISTEN: is not a known key; did you mean listen?",
            id="known-key-in-another-case",
        ),
        pytest.param(
            POOL + "[tasks]\nqqqq = 1",
            "tasks.qqqq: is not a known key; known here: retain_s, abandon_after_s",
            id="unknown-and-nothing-near",
        ),
        pytest.param(
            POOL + '"a.b" = 1', 'pools[0]."a.b": is not a known key; known', id="unknown-quoted"
        ),
        pytest.param(
            "server = 1\n" + POOL, "server: must be a table, found the integer 1", id="server"
        ),
        pytest.param(
            POOL + '[server]\nlisten = "0.0.0.0"',
            'server.listen: must be "host:port" or "[IPv6]:port" with a port from 0 to 65535, '
            'or "unix:/path", found "0.0.0.0"',
            id="listen-without-port",
        ),
        pytest.param(
            POOL + '[server]\nlisten = "unix:orchd.sock"',
            'server.listen: must be "unix:" and the absolute path of a socket, such as '
            '"unix:/run/orchd.sock", found "unix:orchd.sock"',
            id="listen-on-a-relative-path",
        ),
        pytest.param(
            POOL + "[server]\nmax_connections = 0",
            "server.max_connections: must be from 1 to 65536, found 0",
            id="no-connections",
        ),
        pytest.param(
            POOL + "[server]\nlisten = 8642",
            "server.listen: must be a string, found the integer 8642",
            id="listen-is-a-number",
        ),
        pytest.param(
            POOL + "[server]\nstop_grace_s = 3601",
            "server.stop_grace_s: must be from 0 to 3600, found 3601",
            id="grace-too-long",
        ),
        pytest.param(
            POOL + "[server]\nstop_grace_s = -0.5",
            "server.stop_grace_s: must be from 0 to 3600, found -0.5",
            id="grace-negative",
        ),
        pytest.param(
            POOL + '[auth]\ntoken = "a"\ntoken_file = "/t"',
            "auth: must have only one of token and token_file; remove the other",
            id="token-and-token-file",
        ),
        pytest.param(
            POOL + '[auth]\ntoken_file = ""', "auth.token_file: must not be empty", id="token-file"
        ),
        pytest.param(
            POOL + "[queue]\nbatch = 100_001",
            "queue.batch: must be from 1 to 100000, found 100001",
            id="queue-bound",
        ),
        pytest.param(
            POOL + "[tasks]\nretain_s = 0",
            "tasks.retain_s: must be from 1 to 86400, found 0",
            id="retain",
        ),
        pytest.param(
            POOL + "[tasks]\nabandon_after_s = 86_401",
            "tasks.abandon_after_s: must be from 1 to 86400, found 86401",
            id="abandon",
        ),
    ],
)
def test_fault_outside_a_pool(toml: str, expected: str) -> None:
    (fault,) = refuse(toml)
    assert fault.startswith(expected)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            "slot = 1",
            "slot: is not a known key; did you mean slots?",
            id="unknown-key",
        ),
        pytest.param("slots = 0", "slots: must be from 1 to 256, found 0", id="slots-low"),
        pytest.param("slots = 257", "slots: must be from 1 to 256, found 257", id="slots-high"),
        pytest.param(
            "slots = true", "slots: must be an integer, found the boolean true", id="boolean"
        ),
        pytest.param("slots = 4.0", "slots: must be an integer, found the float 4.0", id="float"),
        pytest.param('slots = "4"', 'slots: must be an integer, found the string "4"', id="string"),
        pytest.param(
            "slots = 2024-02-03", "slots: must be an integer, found the date 2024-02-03", id="date"
        ),
        pytest.param("slots = [4]", "slots: must be an integer, found an array", id="array"),
        pytest.param("ctx = 0", "ctx: must be from 1 to 10000000, found 0", id="ctx-low"),
        pytest.param(
            "ctx = 0x" + "f" * 5000,
            "ctx: must be from 1 to 10000000, found an integer of 20000 bits",
            id="ctx-gigantic",
        ),
        pytest.param("replicas = 0", "replicas: must be from 1 to 64, found 0", id="replicas"),
        pytest.param(
            'replicas = "per-gpu"',
            'replicas: must be an integer or "per-device", found the string "per-gpu"',
            id="replicas-misspelt",
        ),
        pytest.param(
            'sha256 = "abc"',
            'sha256: must be 64 hexadecimal digits, as sha256sum writes them, found "abc"',
            id="sha256-short",
        ),
        pytest.param(
            f'sha256 = "{"g" * 64}"',
            "sha256: must be 64 hexadecimal digits, as sha256sum writes them",
            id="sha256-no-hex",
        ),
        pytest.param(
            f'sha256 = "sha256:{"a" * 64}"',
            "sha256: must be 64 hexadecimal digits, as sha256sum writes them",
            id="sha256-prefixed",
        ),
        pytest.param(
            "sha256 = 1", "sha256: must be a string, found the integer 1", id="sha256-int"
        ),
        pytest.param("vram_mib = 0", "vram_mib: must be from 1 to 1048576, found 0", id="vram-mib"),
        pytest.param("devices = []", "devices: must not be empty", id="no-devices"),
        pytest.param(
            'devices = "auto"',
            'devices: must be an array, found the string "auto"',
            id="devices-no-array",
        ),
        pytest.param(
            'devices = ["gpu0"]',
            'devices[0]: must be "auto", "cpu", a GPU\'s index',
            id="device-unknown",
        ),
        pytest.param(
            'devices = ["All"]',
            'devices[0]: must be "auto", "cpu", a GPU\'s index',
            id="device-all",
        ),
        pytest.param(
            'devices = ["GPU-8f3c"]',
            'devices[0]: must be "auto", "cpu", a GPU\'s index',
            id="device-uuid-cut-short",
        ),
        pytest.param(
            "devices = [-1]", "devices[0]: must be from 0 to 99, found -1", id="device-negative"
        ),
        pytest.param(
            "devices = [false]",
            "devices[0]: must be an integer or a string, found the boolean false",
            id="device-boolean",
        ),
        pytest.param(
            'devices = [1, "01"]',
            'devices[1]: must be unique, "1" is already in entry 0',
            id="device-twice-by-index",
        ),
        pytest.param(
            f'devices = ["{UUID}", "{UUID.upper()}"]',
            "devices[1]: must be unique",
            id="device-twice-by-uuid",
        ),
        pytest.param(
            'devices = ["auto", "cpu", 1]',
            'devices: must hold "auto" alone or with "cpu", or not at all',
            id="auto-with-others",
        ),
        pytest.param("args = [1]", "args[0]: must be a string, found the integer 1", id="args"),
        pytest.param(
            'args = ["a\\u0000"]',
            'args[0]: must not contain a NUL character, found "a\\u0000"',
            id="nul",
        ),
        pytest.param(
            f"args = {['x'] * 257}", "args: must have from 0 to 256 entries, has 257", id="many"
        ),
        pytest.param(
            'env = { "1A" = "" }', "env.1A: must be a name of letters", id="env-name-digit"
        ),
        pytest.param('env = { "A=B" = "" }', 'env."A=B": must be a name of', id="env-name-equals"),
        pytest.param(
            'env = { CUDA_VISIBLE_DEVICES = "0" }',
            "env.CUDA_VISIBLE_DEVICES: is set by orchd itself; write the pool's devices instead",
            id="env-owned",
        ),
        pytest.param(
            'env = { CUDA_DEVICE_ORDER = "FASTEST_FIRST" }',
            "env.CUDA_DEVICE_ORDER: is set by orchd itself; write the pool's devices instead",
            id="env-order-owned",
        ),
        pytest.param("env = []", "env: must be a table, found an array", id="env-no-table"),
        pytest.param("env = { A = 77 }", "env.A: must be a string, found an integer", id="env"),
        pytest.param('binary = ""', "binary: must not be empty", id="binary-empty"),
        pytest.param(
            f'binary = "{"x" * 4097}"',
            "binary: must have from 1 to 4096 characters, has 4097",
            id="binary-long",
        ),
        pytest.param(
            "load_stall_s = nan", "load_stall_s: must be a finite number, found nan", id="nan"
        ),
        pytest.param(
            "load_stall_s = inf", "load_stall_s: must be a finite number, found inf", id="inf"
        ),
        pytest.param(
            "load_stall_s = 0x" + "f" * 400, "load_stall_s: must be a finite number", id="no-float"
        ),
        pytest.param(
            "load_stall_s = true",
            "load_stall_s: must be a number, found the boolean true",
            id="boolean-for-a-float",
        ),
    ],
)
def test_fault_in_a_pool(lines: str, expected: str) -> None:
    (fault,) = refuse(POOL + lines)
    assert fault.startswith(f"pools[0].{expected}")


@pytest.mark.parametrize("key", ["id", "engine", "model"])
def test_required_key_missing(key: str) -> None:
    (fault,) = refuse("\n".join(line for line in POOL.splitlines() if not line.startswith(key)))
    assert fault.startswith(f"pools[0].{key}: is required and missing: The ")


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        pytest.param("id", '""', "must be 1 to 64 letters", id="id-empty"),
        pytest.param("id", '"-a"', "must be 1 to 64 letters", id="id-leading-hyphen"),
        pytest.param("id", '"a/b"', "must be 1 to 64 letters", id="id-slash"),
        pytest.param("id", '"a\\n"', "must be 1 to 64 letters", id="id-newline"),
        pytest.param("id", f'"{"a" * 65}"', "must be 1 to 64 letters", id="id-long"),
        pytest.param("id", "5", "must be a string, found the integer 5", id="id-integer"),
        pytest.param("engine", '"x"', f'{ENGINES}, found the string "x"', id="engine"),
        pytest.param("engine", "1", f"{ENGINES}, found the integer 1", id="engine-type"),
        pytest.param("model", '""', "must not be empty", id="model-empty"),
    ],
)
def test_fault_in_a_required_key(key: str, value: str, expected: str) -> None:
    lines = {"id": '"chat"', "engine": '"llamacpp"', "model": '"/m.gguf"'} | {key: value}
    (fault,) = refuse("[[pools]]\n" + "\n".join(f"{name} = {it}" for name, it in lines.items()))
    assert fault.startswith(f"pools[0].{key}: {expected}")


def test_every_fault_is_told_in_document_order() -> None:
    faults = refuse("""
        zzz = 1
        [[pools]]
        ctx = 0
        id = "a"
        devices = ["auto", 0, "0", "x"]
        engine = "nope"
        [[pools]]
        id = "a"
        args = [1, "ok", 2]
        [pools.env]
        "a b" = 3
        CUDA_VISIBLE_DEVICES = ""
        [server]
        stop_grace_s = "x"
        listen = "y"
        """)
    assert [fault.partition(": ")[0] for fault in faults] == [
        "zzz",
        "pools[0].ctx",
        "pools[0].devices[3]",
        "pools[0].devices[2]",
        "pools[0].devices",
        "pools[0].engine",
        "pools[0].model",
        "pools[1].args[0]",
        "pools[1].args[2]",
        'pools[1].env."a b"',
        'pools[1].env."a b"',
        "pools[1].env.CUDA_VISIBLE_DEVICES",
        "pools[1].engine",
        "pools[1].model",
        "pools[1].id",
        "server.stop_grace_s",
        "server.listen",
    ]


@pytest.mark.parametrize(
    "toml",
    [
        pytest.param('[auth]\ntoken = "hush hush"', id="space"),
        pytest.param('[auth]\ntoken = "hush\\u0000"', id="nul"),
        pytest.param('[auth]\ntoken = "hush\\n"', id="newline"),
        pytest.param('[auth]\ntoken = "hüsh hush"', id="not-ascii"),
        pytest.param('[auth]\ntoken = ["hush"]', id="array"),
        pytest.param('[auth]\ntoken = { a = "hush" }', id="table"),
        pytest.param('[auth]\ntokn = "hush"', id="misspelt"),
        pytest.param('token = "hush"', id="misplaced"),
        pytest.param('[auth]\ntoken = "hush"\ntoken_file = "/t"', id="both"),
        pytest.param(POOL + 'env = { A = "hush\\u0000" }', id="environment"),
    ],
)
def test_a_secret_is_never_repeated(toml: str) -> None:
    assert "hush" not in "\n".join(refuse(toml))


@pytest.mark.parametrize("token", [77, 77.5, True], ids=str)
def test_a_secret_of_another_type_is_named_by_type_only(token: object) -> None:
    outcome = validate({"auth": {"token": token}, "pools": []})
    assert not isinstance(outcome, Config)
    assert str(token).lower() not in outcome[0].problem
    assert outcome[0].problem.startswith("must be a string, found a")


class TestEngineRules:
    @staticmethod
    def rule(pool: PoolConfig) -> Iterable[Fault]:
        for index, arg in enumerate(pool.args):
            if arg.startswith("--port"):
                yield Fault(f"args[{index}]", "is set by orchd itself")
        if pool.ctx > 5000:
            yield Fault("", "is too big altogether")

    def faults(self, toml: str) -> list[str]:
        outcome = validate(tomllib.loads(toml), {"llamacpp": self.rule})
        return [] if isinstance(outcome, Config) else [str(fault) for fault in outcome]

    def test_paths_count_from_the_pool(self) -> None:
        assert self.faults(POOL + 'args = ["a", "--port=1"]\nctx = 9000') == [
            "pools[0].args[1]: is set by orchd itself",
            "pools[0]: is too big altogether",
        ]

    def test_a_key_at_fault_is_told_once(self) -> None:
        def rule(pool: PoolConfig) -> Iterable[Fault]:
            yield Fault("args", "is needed")
            yield Fault("argsy", "is not args")
            yield Fault("env.A", "is not there")
            yield Fault("en", "is not env")

        def faults(lines: str) -> list[str]:
            outcome = validate(tomllib.loads(POOL + lines), {"llamacpp": rule})
            assert not isinstance(outcome, Config)
            return [fault.path.removeprefix("pools[0].") for fault in outcome]

        assert faults('args = "a"') == ["args", "argsy", "env.A", "en"]
        assert faults('args = ["a", 1]') == ["args[1]", "argsy", "env.A", "en"]
        assert faults("env = 1") == ["env", "args", "argsy", "env.A", "en"]

    def test_told_together_with_the_rest(self) -> None:
        assert self.faults(POOL + 'slots = 0\nargs = ["--port=1"]') == [
            "pools[0].slots: must be from 1 to 256, found 0",
            "pools[0].args[0]: is set by orchd itself",
        ]

    def test_not_asked_about_a_pool_without_an_engine(self) -> None:
        (fault,) = self.faults(POOL.replace("llamacpp", "x") + 'args = ["--port=1"]')
        assert fault.startswith("pools[0].engine")

    def test_content_is_silence(self) -> None:
        assert self.faults(POOL) == []


TABLES = (Config, ServerConfig, AuthConfig, QueueConfig, TasksConfig, PoolConfig)
KEYS = st.sampled_from([name for table in TABLES for name in keys_of(table)])
SCALARS = (
    st.booleans()
    | st.integers()
    | st.sampled_from([math.nan, math.inf, 1 << 2000, -(1 << 2000)])
    | st.floats()
    | st.text(st.characters())
    | st.dates()
    | st.datetimes()
    | st.times()
    | st.sampled_from(["auto", "cpu", "llamacpp", "per-device", "a", "127.0.0.1:1", UUID])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(), inner, max_size=6)
    ),
    max_leaves=30,
)
POOLS = st.lists(st.dictionaries(KEYS, VALUES, max_size=8), max_size=3)
DOCUMENTS = st.dictionaries(KEYS | st.text(), VALUES, max_size=6) | st.fixed_dictionaries(
    {"pools": POOLS}, optional={"queue": VALUES, "auth": VALUES, "server": VALUES}
)


@given(DOCUMENTS)
def test_no_document_makes_it_raise(document: Mapping[str, object]) -> None:
    outcome = validate(document)
    if not isinstance(outcome, Config):
        assert outcome
        assert all("\n" not in str(fault) for fault in outcome)
        "\n".join(map(str, outcome)).encode()
