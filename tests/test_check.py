"""``orchd check`` as a user meets it: the real command on workstations of the fake NVML."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.daemon import environment
from tests.fakes.engines import install_engine, write_model
from tests.fakes.nvml import Card, FakeNvml, build_nvml, card, uuid_of

MIB = 1 << 20


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


class Workstation:
    """Cards, a configuration, and the command."""

    def __init__(self, folder: Path, library: Path) -> None:
        self.folder, self._library = folder, library
        self.config = folder / "orchd.toml"
        self.engine = install_engine(folder)
        self.model = write_model(folder)
        self.nvml = FakeNvml(folder / "machine")

    def set_up(self, *cards: Card, **settings: int) -> None:
        self.nvml.cards = list(cards)
        self.nvml.write(**settings)

    def pool(self, pool_id: str, lines: str = "", *, engine: str = "", model: str = "") -> str:
        return (
            f'[[pools]]\nid = "{pool_id}"\nengine = "llamacpp"\nmodel = "{model or self.model}"\n'
            f'binary = "{engine or self.engine}"\n{lines}\n'
        )

    def run(self, *pools: str, words: tuple[str, ...] = (), **more: str) -> tuple[int, str, str]:
        """The exit code, stdout and stderr of a check of these pools."""
        self.config.write_text("".join(pools))
        done = subprocess.run(
            [sys.executable, "-m", "orchd", "check", "--config", str(self.config), *words],
            env=environment(self.folder, **self.nvml.environment(self._library), **more),
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert "Traceback" not in done.stderr
        assert list((self.nvml.folder / "taken").iterdir()) == []
        return done.returncode, done.stdout, done.stderr

    def json(self, *pools: str) -> tuple[int, dict[str, Any]]:
        code, out, _ = self.run(*pools, words=("--json",))
        return code, dict(json.loads(out))


@pytest.fixture
def workstation(tmp_path: Path, library: Path) -> Workstation:
    return Workstation(tmp_path, library)


def devices_of(told: dict[str, Any]) -> list[list[str | None]]:
    return [[replica["device"] for replica in pool["replicas"]] for pool in told["pools"]]


def reasons_of(told: dict[str, Any]) -> Iterator[str]:
    for pool in told["pools"]:
        for replica in pool["replicas"]:
            if replica["reason"] is not None:
                yield replica["reason"]


def test_all_fits_is_0_and_says_where_everything_goes(workstation: Workstation) -> None:
    workstation.set_up(card(0, 12, "NVIDIA GeForce RTX 3060"), card(1, 24, used_mib=1024))
    code, told = workstation.json(workstation.pool("chat", "vram_mib = 6000"))
    assert code == 0
    assert told == {
        "devices": [
            {
                "device": uuid_of(0),
                "index": 0,
                "name": "NVIDIA GeForce RTX 3060",
                "total_bytes": 12 * 1024 * MIB,
                "free_bytes": 12 * 1024 * MIB,
                "reserved_bytes": 0,
                "utilization": 0,
                "reason": None,
            },
            {
                "device": uuid_of(1),
                "index": 1,
                "name": "NVIDIA Card",
                "total_bytes": 24 * 1024 * MIB,
                "free_bytes": 23 * 1024 * MIB,
                "reserved_bytes": 6000 * MIB,
                "utilization": 0,
                "reason": None,
            },
        ],
        "pools": [
            {
                "pool_id": "chat",
                "replicas": [
                    {
                        "device": uuid_of(1),
                        "need_bytes": 6000 * MIB,
                        "reckoning": ["vram_mib of the configuration"],
                        "reason": None,
                    }
                ],
            }
        ],
    }


def test_people_are_told_the_same_in_lines(workstation: Workstation) -> None:
    lost = replace(card(1, 8), memory_code=999)
    workstation.set_up(card(0, 12, "NVIDIA GeForce RTX 3060"), lost)
    code, out, _ = workstation.run(
        workstation.pool("chat", "vram_mib = 6000"),
        workstation.pool("small", 'vram_mib = 1\ndevices = ["cpu"]'),
        workstation.pool("large", "vram_mib = 7000"),
    )
    assert code == 1
    assert out.splitlines() == [
        "Devices",
        f"  GPU 0  NVIDIA GeForce RTX 3060  {uuid_of(0)}  12.0 GiB free of 12.0 GiB",
        f"  GPU 1  not known  {uuid_of(1)}  cannot be read: Unknown Error",
        "",
        f"Pool chat: {workstation.model}",
        "  chat-0  would go to GPU 0 (NVIDIA GeForce RTX 3060)",
        "    needs 5.9 GiB: vram_mib of the configuration",
        "",
        f"Pool small: {workstation.model}",
        "  small-0  would go to the CPU",
        "    needs 0.0 GiB: vram_mib of the configuration",
        "",
        f"Pool large: {workstation.model}",
        "  large-0  would not start: needs 6.8 GiB (vram_mib of the configuration): GPU 0 (NVIDIA"
        " GeForce RTX 3060) has 6.1 GiB available of 12.0 GiB, 5.9 GiB reserved by chat-0; GPU 1"
        " cannot be read: Unknown Error",
        "",
        "Not all fits.",
    ]


def test_all_replicas_of_all_pools_are_placed_one_after_another(workstation: Workstation) -> None:
    workstation.set_up(card(0, 8), card(1, 8), card(2, 24, "NVIDIA GeForce RTX 3090"))
    code, told = workstation.json(
        workstation.pool("a", "vram_mib = 6000\nreplicas = 3"),
        workstation.pool("b", 'vram_mib = 1500\nreplicas = "per-device"'),
        workstation.pool("c", 'vram_mib = 4000\ndevices = ["RTX 3090"]'),
    )
    a, b, c = devices_of(told)
    assert a == [uuid_of(2)] * 3
    assert b == [uuid_of(0), uuid_of(1), uuid_of(2)]
    assert (code, c) == (0, [uuid_of(2)])
    code, told = workstation.json(
        workstation.pool("a", "vram_mib = 6000\nreplicas = 7"),
    )
    assert code == 1
    assert devices_of(told) == [[*(uuid_of(n) for n in (2, 2, 2, 0, 1, 2)), None]]
    (reason,) = reasons_of(told)
    for n, available in enumerate(("2.1", "2.1", "0.6")):
        assert f"GPU {n} " in reason and f"has {available} GiB available" in reason


def test_without_a_driver_it_says_so_and_a_pool_on_the_cpu_fits(workstation: Workstation) -> None:
    workstation.set_up(init=9)
    on_gpu, on_cpu = workstation.pool("g"), workstation.pool("c", 'devices = ["cpu"]')
    per_device = workstation.pool("p", 'replicas = "per-device"')
    code, told = workstation.json(on_gpu, on_cpu, per_device)
    assert (code, told["devices"]) == (1, [])
    assert devices_of(told) == [[None], ["cpu"], [None]]
    for reason in reasons_of(told):
        assert "the NVIDIA driver is installed but not loaded" in reason
    code, out, _ = workstation.run(on_cpu)
    assert code == 0
    assert "the NVIDIA driver is installed but not loaded" in out


def test_an_engine_or_a_model_that_is_not_there_is_told(workstation: Workstation) -> None:
    workstation.set_up(card(0, 24))
    code, told = workstation.json(
        workstation.pool("a", engine="/no/llama-server"),
        workstation.pool("b", model="/no/model.gguf", engine="/no/llama-server"),
        workstation.pool("c", model=str(workstation.folder)),
    )
    assert code == 1
    assert devices_of(told) == [[None], [None], [None]]
    assert list(reasons_of(told)) == [
        "no executable /no/llama-server; write as the pool's binary where it is",
        "no executable /no/llama-server; write as the pool's binary where it is; model"
        " /no/model.gguf: No such file or directory; write the path of a GGUF file that is there",
        f"model {workstation.folder}: Is a directory; write the GGUF file in it: model.gguf",
    ]
    assert [pool["replicas"][0]["need_bytes"] is None for pool in told["pools"]] == [
        *(False, True, True)
    ]


def test_a_model_that_is_none_is_told_with_what_one_is(workstation: Workstation) -> None:
    workstation.set_up(card(0, 24))
    other = workstation.folder / "model.safetensors"
    other.write_bytes(b"{}" * 1000)
    code, told = workstation.json(workstation.pool("a", model=str(other)))
    (reason,) = reasons_of(told)
    assert code == 1
    assert reason.startswith(f"model {other} is not a GGUF file (it does not begin with GGUF)")
    assert "llama.cpp loads models in that format only" in reason


@pytest.mark.parametrize(
    ("init", "mend"), [(9, "modprobe nvidia, as root"), (4, "see who may open /dev/nvidiactl")]
)
def test_a_driver_that_cannot_be_used_is_told_with_the_mend(
    workstation: Workstation, init: int, mend: str
) -> None:
    workstation.set_up(card(0, 24), init=init)
    code, told = workstation.json(workstation.pool("a"))
    assert code == 1 and all(mend in reason for reason in reasons_of(told))
    code, out, _ = workstation.run(workstation.pool("a", 'devices = ["auto", "cpu"]\nvram_mib = 1'))
    assert code == 0
    assert mend in out and "a-0  would go to the CPU" in out


def test_the_cpu_beside_every_gpu_is_for_what_they_have_no_room_for(
    workstation: Workstation,
) -> None:
    workstation.set_up(card(0, 8))
    both = 'devices = ["auto", "cpu"]\n'
    code, told = workstation.json(
        workstation.pool("a", f"{both}vram_mib = 6000"),
        workstation.pool("b", f"{both}vram_mib = 6000"),
        workstation.pool("c", f'{both}vram_mib = 1\nreplicas = "per-device"'),
    )
    assert (code, devices_of(told)) == (0, [[uuid_of(0)], ["cpu"], [uuid_of(0), "cpu"]])


def test_to_listen_for_other_machines_is_warned_of(workstation: Workstation) -> None:
    workstation.set_up(card(0, 24))
    pool = workstation.pool("a", 'devices = ["cpu"]\nvram_mib = 1')
    # The last is for documentation (RFC 5737): no machine has it, and none is asked there.
    for host, lines in (("0.0.0.0", 1), ("192.0.2.1", 2)):
        code, _, complaint = workstation.run(f'[server]\nlisten = "{host}:1"\n', pool)
        assert (code, complaint.count("\n")) == (0, lines)
        assert f"{host}:1 is reachable from other machines" in complaint
        assert "listen on 127.0.0.1 unless that is meant" in complaint
    assert "192.0.2.1:1 is no address of this machine, and serve could not listen" in complaint


FAULTY = '[server]\nlisen = "x"\n[[pools]]\nid = "a"\nengine = "llamcpp"\nctx = 0\n'


def test_every_fault_of_a_configuration_is_told_at_once(workstation: Workstation) -> None:
    code, out, complaint = workstation.run(FAULTY)
    assert (code, out) == (2, "")
    for path in ("server.lisen", "pools[0].engine", "pools[0].ctx", "pools[0].model"):
        assert f"{workstation.config}: {path}: " in complaint
    code, told = workstation.json(FAULTY)
    assert code == 2
    assert [fault["path"] for fault in told["faults"]] == [
        *("server.lisen", "pools[0].engine", "pools[0].ctx", "pools[0].model")
    ]
    assert {fault["file"] for fault in told["faults"]} == {str(workstation.config)}
    assert told["faults"][0]["problem"] == "is not a known key; did you mean listen?"


def test_a_token_that_everybody_can_read_is_told_and_one_that_is_missing_is_a_fault(
    workstation: Workstation,
) -> None:
    workstation.set_up(card(0, 24))
    token = workstation.folder / "token"
    auth = f'[auth]\ntoken_file = "{token}"\n'
    environ = environment(workstation.folder)
    del environ["ORCHD_API_TOKEN"]
    workstation.config.write_text(auth + workstation.pool("a", 'devices = ["cpu"]\nvram_mib = 1'))

    def check(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "orchd", "check", *words]
        config = ["--config", str(workstation.config)]
        return subprocess.run(
            [*command, *config], env=environ, capture_output=True, text=True, timeout=60
        )

    assert check().returncode == 2
    assert json.loads(check("--json").stdout)["faults"][0]["file"] == str(token)
    token.write_text("secret-of-the-test\n")
    token.chmod(0o644)
    done = check()
    assert done.returncode == 0
    assert "can be read by every account" in done.stderr
    assert "secret-of-the-test" not in done.stdout + done.stderr
    whole = workstation.config.read_text().replace(f'token_file = "{token}"', 'token = "in-it"')
    workstation.config.write_text(whole)
    workstation.config.chmod(0o604)
    done = check()
    assert f"{workstation.config} holds the token and can be read by every account" in done.stderr
    assert (done.returncode, "in-it" in done.stderr) == (0, False)
    workstation.config.chmod(0o640)
    assert check().stderr == "", "a group is given it on purpose"
    token.unlink()
    workstation.config.write_text(workstation.pool("a", 'devices = ["cpu"]\nvram_mib = 1'))
    done = check()
    assert (done.returncode, done.stderr) == (0, ""), "the daemon would make one"
    assert not (workstation.folder / ".local").exists()


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_daemon_that_runs_already_is_told_of(workstation: Workstation, kind: str) -> None:
    path = workstation.folder / "orchd.sock"
    address = f"unix:{path}"
    with contextlib.ExitStack() as stack:
        if kind == "tcp":
            other = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            address = f"127.0.0.1:{other.getsockname()[1]}"
        else:
            other = stack.enter_context(socket.socket(socket.AF_UNIX))
            other.bind(str(path))
            other.listen()
        server = f'[server]\nlisten = "{address}"\n'
        pool = workstation.pool("a", 'devices = ["cpu"]\nvram_mib = 1')
        code, _, complaint = workstation.run(server, pool)
    assert code == 0
    assert complaint.startswith(f"orchd: {address} is taken already, and serve could not listen")
    assert workstation.run(server, pool)[2] == "", "nobody is there any more"


ANY_SERVER = """[[pools]]
id = "any"
engine = "openai"
model = "org/model"
command = [{command}]
"""


def test_a_server_of_ones_own_is_placed_by_what_is_written(workstation: Workstation) -> None:
    workstation.set_up(card(0, 24))
    command = f'"{workstation.engine}", "--host", "{{host}}", "--port", "{{port}}"'
    pool = ANY_SERVER.format(command=command)
    code, out, complaint = workstation.run(pool, "vram_mib = 6000\n")
    assert code == 0
    assert "Pool any: org/model\n  any-0  would go to GPU 0 (NVIDIA Card)\n" in out
    assert "needs 5.9 GiB: vram_mib of the configuration" in out
    assert complaint.startswith("orchd: pool any: its server is given no key: every user of this")
    code, out, complaint = workstation.run(pool, 'devices = ["cpu"]\nenv = {KEY = "{api_key}"}\n')
    assert (code, complaint) == (0, "")
    assert "needs 0.0 GiB: what a server takes beside its model is not known; vram_mib says" in out


def test_what_a_server_of_ones_own_lacks_is_told_at_once(workstation: Workstation) -> None:
    workstation.set_up(card(0, 24))
    command = '"no-such-server", "--port={port}", "{hots}"'
    pool = ANY_SERVER.format(command=command)
    code, told = workstation.json(pool + 'binary = "x"\n')
    assert code == 2
    assert {fault["path"]: fault["problem"] for fault in told["faults"]}.keys() == {
        *("pools[0].command[2]", "pools[0].binary", "pools[0].vram_mib")
    }
    code, told = workstation.json(pool.replace(', "{hots}"', "") + "vram_mib = 1\n")
    assert (code, list(reasons_of(told))) == (
        1,
        [
            "no executable no-such-server on PATH; put no-such-server there, or write its path as"
            " the pool's command[0]"
        ],
    )
