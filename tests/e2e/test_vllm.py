"""The real daemon on the fake vLLM: its share of a card, its two processes, its words.

Each test tells one machine's story to its end, for a daemon takes its time to come up.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fakes import openai_server
from tests.fakes.daemon import TIMEOUT_S, RunningDaemon, read_events, run_daemon
from tests.fakes.engines import install_engine, install_vllm, list_session, write_model
from tests.fakes.hub import LLAMA_8B, write_folder
from tests.fakes.nvml import FakeNvml, build_nvml, card, uuid_of

GIB = 1 << 30


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_nvml(tmp_path_factory.mktemp("nvml"))


def vllm_pool(folder: Path, model: str, *keys: str, pool_id: str = "big", **faults: object) -> str:
    """A pool on the fake vLLM, with further keys as TOML lines."""
    env = ", ".join(f'FAKE_{name.upper()} = "{value}"' for name, value in faults.items())
    binary = install_vllm(folder)
    lines = (f'id = "{pool_id}"', 'engine = "vllm"', f'model = "{model}"', f'binary = "{binary}"')
    return "\n".join(("[[pools]]", *lines, f"env = {{ {env} }}", *keys, ""))


def write_pools(folder: Path, *pools: str) -> Path:
    config = folder / "orchd.toml"
    config.write_text("\n".join(('[server]\nlisten = "127.0.0.1:0"\n', *pools)))
    return config


def health(daemon: RunningDaemon) -> dict[str, Any]:
    return dict(json.load(daemon.ask("GET", "/health")))


def wait_until(daemon: RunningDaemon, is_so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Ask for the health until it is so; returns it."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not is_so(told := health(daemon)):
        assert time.monotonic() < deadline_s, f"it never came to be so: {told}"
        time.sleep(0.03)
    return told


def replicas_of(told: dict[str, Any]) -> list[dict[str, Any]]:
    return [replica for pool in told["pools"] for replica in pool["replicas"]]


def wait_until_ready(daemon: RunningDaemon) -> list[dict[str, Any]]:
    return replicas_of(
        wait_until(daemon, lambda told: all(r["state"] == "ready" for r in replicas_of(told)))
    )


def arguments_of(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")[:-1]


def environment_of(pid: int) -> dict[str, str]:
    variables = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
    return dict(variable.split("=", 1) for variable in variables if variable)


def flag_of(pid: int, flag: str) -> str:
    arguments = arguments_of(pid)
    return arguments[arguments.index(flag) + 1]


@contextlib.contextmanager
def watched(pids: list[int]) -> Iterator[Callable[[], None]]:
    """Processes, each by a handle; the answer waits until all of them are gone."""
    handles = [os.pidfd_open(pid) for pid in pids]

    def wait_for_end() -> None:
        deadline_s = time.monotonic() + TIMEOUT_S
        for handle in handles:
            left_s = max(deadline_s - time.monotonic(), 0)
            assert select.select([handle], [], [], left_s)[0], "a process of the engine lives"

    try:
        yield wait_for_end
    finally:
        for handle in handles:
            os.close(handle)


def ask(daemon: RunningDaemon, **task: object) -> list[tuple[str, dict[str, Any]]]:
    """A task's whole story."""
    answer = daemon.ask("POST", "/v1/tasks", task)
    assert answer.status == 202, answer.read()
    return read_events(daemon.ask("GET", f"/v1/tasks/{json.load(answer)['task_id']}/stream"))


def wait_for_line(path: Path, line: str) -> None:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (path.exists() and line in path.read_text().splitlines()):
        assert time.monotonic() < deadline_s, f"no {line!r} in {path}"
        time.sleep(0.02)


def test_two_of_them_and_llama_cpp_share_a_card(tmp_path: Path, library: Path) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24)])
    model = write_folder(tmp_path / "llama", LLAMA_8B, 5 * GIB, parts=2)
    gguf, llama_server = write_model(tmp_path, 4000), install_engine(tmp_path)
    faults = nvml.engine_faults(5000)
    env = ", ".join(f'FAKE_{name.upper()} = "{value}"' for name, value in faults.items())
    small = (
        f'[[pools]]\nid = "small"\nengine = "llamacpp"\nmodel = "{gguf}"\nvram_mib = 6000\n'
        f'binary = "{llama_server}"\nenv = {{ {env} }}\n'
    )
    keys = ("replicas = 2", "slots = 2")
    pools = (vllm_pool(tmp_path, str(model), *keys, vram_folder=nvml.folder), small)
    with run_daemon(write_pools(tmp_path, *pools), **nvml.environment(library)) as daemon:
        first, second, _ = wait_until_ready(daemon)
        (device,) = health(daemon)["devices"]
        reserved = [device["reserved_bytes"] - 6000 * (GIB >> 10)]
        for replica in (first, second):
            taken = float(flag_of(replica["pid"], "--gpu-memory-utilization")) * 24 * GIB
            # Enough for its weights and for two slots of 4096 tokens of 128 KiB, and its context
            # on top is in what is reserved.
            assert taken > 6 * GIB
            assert taken + GIB // 2 <= reserved[0] / 2
        assert daemon.log.count("lost an engine") == 0, "one found less free than it was promised"
        for pool_id in ("big", "small"):
            assert ask(daemon, prompt="[tokens 2]", pool_id=pool_id)[-1][0] == "end"


def test_its_command_line_and_its_environment(tmp_path: Path, library: Path) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 8)])
    model = write_folder(tmp_path / "small")
    keys = ("slots = 3", "ctx = 2048", "vram_mib = 4096", 'args = ["--enforce-eager"]')
    pool = vllm_pool(tmp_path, str(model), *keys, vram_folder=nvml.folder)
    with run_daemon(write_pools(tmp_path, pool), **nvml.environment(library)) as daemon:
        ((pid,),) = [[r["pid"]] for r in wait_until_ready(daemon)]
        arguments, variables = arguments_of(pid), environment_of(pid)
        assert flag_of(pid, "serve") == flag_of(pid, "--served-model-name") == str(model)
        assert flag_of(pid, "--host") == "127.0.0.1"
        assert (flag_of(pid, "--max-model-len"), flag_of(pid, "--max-num-seqs")) == ("2048", "3")
        # 4096 MiB less the 512 of a context, of 8192.
        assert flag_of(pid, "--gpu-memory-utilization") == "0.4375"
        assert "--no-enable-log-requests" in arguments and arguments[-1] == "--enforce-eager"
        assert variables["VLLM_API_KEY"] not in " ".join(arguments)
        assert variables["VLLM_NO_USAGE_STATS"] == variables["DO_NOT_TRACK"] == "1"
        assert variables["CUDA_VISIBLE_DEVICES"] == uuid_of(0)
        assert health(daemon)["pools"][0]["engine_version"] == "0.30.0"


def test_on_the_cpu_it_is_told_how_much_cache_to_keep(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "small")
    pool = vllm_pool(tmp_path, str(model), 'devices = ["cpu"]', "slots = 2", "ctx = 8192")
    with run_daemon(write_pools(tmp_path, pool)) as daemon:
        (replica,) = wait_until_ready(daemon)
        assert "--gpu-memory-utilization" not in arguments_of(replica["pid"])
        # 2 x 8192 tokens of 512 bytes are 8 MiB; it takes whole GiB only.
        assert environment_of(replica["pid"])["VLLM_CPU_KVCACHE_SPACE"] == "1"
        assert read_events(daemon.submit("[tokens 2]"))[-1][0] == "end"


def test_health_tells_how_far_it_has_loaded(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "small")
    hold = tmp_path / "hold"
    hold.touch()
    faults = {"holds_at": f"checkpoint shards@{hold}"}
    pool = vllm_pool(tmp_path, str(model), 'devices = ["cpu"]', **faults)
    with run_daemon(write_pools(tmp_path, pool)) as daemon:
        told = wait_until(daemon, lambda told: "1 of 2" in str(replicas_of(told)[0]["reason"]))
        assert "s (loading weights, 1 of 2)" in replicas_of(told)[0]["reason"]
        hold.unlink()
        wait_until_ready(daemon)


def test_what_ended_a_load_is_told_and_not_who_heard_of_it(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "small")
    words = "To serve at least one request, 11.62 GiB KV cache is needed. Try max_model_len."
    faults = {"dies_at": "Available KV cache", "dies_of": words}
    pool = vllm_pool(tmp_path, str(model), 'devices = ["cpu"]', **faults)
    with run_daemon(write_pools(tmp_path, pool)) as daemon:
        told = wait_until(daemon, lambda told: bool(told["pools"][0]["incidents"]))
        cause = told["pools"][0]["incidents"][0]["cause"]
        assert cause == f"exited with code 1: ValueError: {words}"


@pytest.mark.parametrize("victim", ["its server", "the daemon", "the daemon by a stop"])
def test_nothing_of_it_outlives(tmp_path: Path, library: Path, victim: str) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24)])
    model = write_folder(tmp_path / "small")
    pool = vllm_pool(tmp_path, str(model), vram_folder=nvml.folder)
    with run_daemon(write_pools(tmp_path, pool), **nvml.environment(library)) as daemon:
        (replica,) = wait_until_ready(daemon)
        session = list_session(replica["pid"])
        names = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in session}
        assert "VLLM::EngineCor" in names.values() and len(session) == 2
        with watched(session) as wait_for_end:
            if victim == "its server":
                os.kill(replica["pid"], signal.SIGKILL)
                wait_for_end()
                daemon.hear("tries again")
                (successor,) = replicas_of(
                    wait_until(
                        daemon,
                        lambda told: (
                            replicas_of(told)[0]["state"] == "ready"
                            and replicas_of(told)[0]["restarts"] == 1
                        ),
                    )
                )
                assert successor["pid"] != replica["pid"]
            elif victim == "the daemon":
                daemon.signal(signal.SIGKILL)
                daemon.wait()
                wait_for_end()
            else:
                daemon.signal(signal.SIGTERM)
                assert daemon.wait() == 0
                wait_for_end()


def test_refusals_are_told_in_its_words(tmp_path: Path) -> None:
    model = write_folder(tmp_path / "small")
    pool = vllm_pool(tmp_path, str(model), 'devices = ["cpu"]', "ctx = 2048")
    with run_daemon(write_pools(tmp_path, pool)) as daemon:
        wait_until_ready(daemon)
        name, refused = ask(daemon, prompt="[refuse]")[-1]
        assert (name, refused["code"]) == ("error", "INVALID_PARAMS")
        assert "This model's maximum context length is 2048 tokens" in refused["message"]
        _, invalid = ask(daemon, prompt="[validation]")[-1]
        assert invalid["code"] == "INVALID_PARAMS"
        assert "top_p: Input should be less than 1" in invalid["message"]
        _, beyond = ask(daemon, prompt="x", max_tokens=2049)[-1]
        assert "you requested 2049 output tokens" in beyond["message"]
        _, broken = ask(daemon, prompt="[midway] [tokens 9]")[-1]
        assert "EngineCore encountered an issue" in broken["message"]
        assert broken["code"] == "WORKER_RESET"


def test_a_cancelled_task_is_aborted_and_its_slot_soon_another_s(tmp_path: Path) -> None:
    model, journal = write_folder(tmp_path / "small"), tmp_path / "journal"
    pool = vllm_pool(tmp_path, str(model), 'devices = ["cpu"]', "slots = 1", journal=journal)
    with run_daemon(write_pools(tmp_path, pool)) as daemon:
        (replica,) = wait_until_ready(daemon)
        task = json.load(daemon.ask("POST", "/v1/tasks", {"prompt": "[tokens 1000] [every 0.01]"}))
        stream = daemon.ask("GET", f"/v1/tasks/{task['task_id']}/stream")
        while b"event: token" not in stream.readline():
            pass
        daemon.ask("POST", f"/v1/tasks/{task['task_id']}/cancel")
        wait_for_line(journal, "aborted")
        # Its figures still tell of it (vLLM's do until it has work again): that is no fault.
        assert read_events(daemon.submit("[tokens 2]"))[-1][0] == "end"
        (after,) = replicas_of(health(daemon))
        assert (after["pid"], after["restarts"]) == (replica["pid"], 0)
        first = json.loads(journal.read_text().splitlines()[1])
        assert (first["max_tokens"], first["model"]) == (4062, str(model))


def test_a_reload_to_a_folder_to_a_name_and_back_from_a_bad_one(
    tmp_path: Path, library: Path
) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24)])
    first = write_folder(tmp_path / "first")
    second = write_folder(tmp_path / "second", weights_bytes=4 * GIB)
    cut = write_folder(tmp_path / "cut", weights_bytes=1 << 20)
    os.truncate(cut / "model.safetensors", 1000)
    pool = vllm_pool(tmp_path, str(first), vram_folder=nvml.folder)
    with run_daemon(write_pools(tmp_path, pool), **nvml.environment(library)) as daemon:
        wait_until_ready(daemon)

        def reload(model: str) -> tuple[int, dict[str, Any]]:
            answer = daemon.ask("POST", "/v1/pools/big/reload", {"new_model_ref": model})
            return answer.status, dict(json.load(answer))

        status, told = reload(str(second))
        assert (status, told["strategy"]) == (200, "side-by-side")
        status, told = reload(str(cut))
        assert status == 503 and "model.safetensors in it is cut short" in told["message"]
        (replica,) = wait_until_ready(daemon)
        assert replica["model"] == str(second)
        # Nothing is known of it, so it gets 0.9 of the card, for which the old one has to go.
        status, told = reload("org/unseen")
        assert (status, told["strategy"], told["model_ref"]) == (200, "in-place", "org/unseen")
        (replica,) = wait_until_ready(daemon)
        assert flag_of(replica["pid"], "serve") == "org/unseen"
        assert 0.87 < float(flag_of(replica["pid"], "--gpu-memory-utilization")) < 0.9
        assert read_events(daemon.submit("[tokens 2]"))[-1][0] == "end"
        status, told = reload("./relative")
        assert status == 400


def test_one_pool_of_each_kind_side_by_side(tmp_path: Path, library: Path) -> None:
    nvml = FakeNvml(tmp_path / "machine", [card(0, 24), card(1, 12)])
    folder = write_folder(tmp_path / "llama", LLAMA_8B, 5 * GIB)
    gguf, llama_server = write_model(tmp_path, 4000), install_engine(tmp_path)
    faults = nvml.engine_faults(5000)
    env = ", ".join(f'FAKE_{name.upper()} = "{value}"' for name, value in faults.items())
    small = (
        f'[[pools]]\nid = "small"\nengine = "llamacpp"\nmodel = "{gguf}"\nvram_mib = 6000\n'
        f'binary = "{llama_server}"\nenv = {{ {env} }}\n'
    )
    server = [sys.executable, "-I", "-S", openai_server.__file__, "--model", "{model}"]
    command = json.dumps([*server, "--host", "{host}", "--port", "{port}"])
    other = (
        f'[[pools]]\nid = "other"\nengine = "openai"\nmodel = "org/model"\ndevices = ["cpu"]\n'
        f'command = {command}\nenv = {{ FAKE_KEY = "{{api_key}}" }}\n'
    )
    big = vllm_pool(tmp_path, str(folder), 'replicas = "per-device"', vram_folder=nvml.folder)
    config = write_pools(tmp_path, big, small, other)
    with run_daemon(config, **nvml.environment(library)) as daemon:
        replicas = wait_until_ready(daemon)
        assert [(r["replica_id"], r["device"]) for r in replicas] == [
            ("big-0", uuid_of(0)),
            ("big-1", uuid_of(1)),
            ("small-0", uuid_of(0)),
            ("other-0", "cpu"),
        ]
        ends = {p: ask(daemon, prompt="[tokens 3]", pool_id=p) for p in ("big", "small", "other")}
        for pool_id, events in ends.items():
            assert "".join(data.get("t", "") for _, data in events) == "t0 t1 t2 ", pool_id
            assert events[-1][1]["tokens_out"] == 3
        chat = {"messages": [{"role": "user", "content": "[tokens 2]"}]}
        for pool_id in ends:
            assert ask(daemon, pool_id=pool_id, **chat)[-1][1]["tokens_out"] == 2
        engines = {pool["pool_id"]: pool["engine"] for pool in health(daemon)["pools"]}
        assert engines == {"big": "vllm", "small": "llamacpp", "other": "openai"}
        scrape = daemon.ask("GET", "/metrics").read().decode()
        for engine in engines.values():
            assert f'tokens_out_total{{engine="{engine}"' in scrape
        assert daemon.log.count("lost an engine") == 0
