"""What may not be in the args and env of a pool on vLLM."""

from __future__ import annotations

from dataclasses import replace

import pytest

from orchd.config.model import PoolConfig
from orchd.engines.registry import ADAPTERS

POOL = PoolConfig(id="big", engine="vllm", model="org/model")


def faults(pool: PoolConfig) -> list[str]:
    return [str(fault) for fault in ADAPTERS["vllm"].find_faults(pool)]


@pytest.mark.parametrize(
    "flag",
    [
        *("--host", "--port", "--uds", "--api-key", "--model", "--served-model-name", "--config"),
        *("--max-model-len", "--max-num-seqs", "--gpu-memory-utilization", "--headless"),
        *("--hf-token", "--ssl-keyfile", "--root-path", "--nnodes", "-n", "--device-ids"),
        *("--allowed-origins", "--enable-log-outputs", "-asc", "--num-gpu-blocks-override"),
        *("--kv-cache-memory-bytes", "--enable-log-requests", "--api-server-count"),
    ],
)
def test_flags_that_are_the_daemons(flag: str) -> None:
    (fault,) = faults(replace(POOL, args=("--enforce-eager", flag, "x")))
    assert fault.startswith(f"args[1]: {flag} is not for args: ")


@pytest.mark.parametrize(
    "argument", ["--gpu_memory_utilization=0.9", "--gpu-memory-utilization=0.9", "--gpu-mem"]
)
def test_other_spellings_of_one_are_found(argument: str) -> None:
    (fault,) = faults(replace(POOL, args=(argument,)))
    assert "--gpu-memory-utilization is not for args" in fault


@pytest.mark.parametrize(
    "args",
    [
        *(("--tensor-parallel-size", "2"), ("-tp", "2"), ("-tp=2",), ("--tensor_parallel_size=4",)),
        *(("--tensor-par", "2"), ("-pp", "2"), ("--data-parallel-size", "2"), ("-tp",)),
    ],
)
def test_more_than_one_device_is_not_built(args: tuple[str, ...]) -> None:
    (fault,) = faults(replace(POOL, args=args))
    assert fault.startswith("args[0]: -") and "is not built; write more replicas" in fault


@pytest.mark.parametrize(
    "args",
    [
        *(("-tp", "1"), ("--tensor-parallel-size=1",), ("--enforce-eager",), ("--dtype", "half")),
        ("--kv-cache-dtype", "fp8", "--trust-remote-code", "--chat-template", "--host-is-no-flag"),
        ("--max-num-batched-tokens", "4096"),
        # Short of any one flag; argparse says so itself.
        ("--m", "x"),
        ("--model-impl", "auto", "--config-format", "hf"),
    ],
)
def test_the_users_own_flags_are_theirs(args: tuple[str, ...]) -> None:
    assert faults(replace(POOL, args=args)) == []


def test_a_command_is_another_engines_and_a_joined_flag_nobodys() -> None:
    (fault,) = faults(replace(POOL, command=("vllm", "serve", "--port", "{port}")))
    assert fault.startswith('command: is for engine "openai" alone')
    (fault,) = faults(replace(POOL, args=("--enforce-eager", "--dtype half")))
    assert fault == "args[1]: holds --dtype and its value: write each as a string of its own"


def test_variables_that_are_the_daemons() -> None:
    names = ("VLLM_API_KEY", "VLLM_PORT", "VLLM_HOST_IP", "VLLM_CPU_KVCACHE_SPACE")
    for name in (*names, "VLLM_SERVER_DEV_MODE", "VLLM_DEBUG_LOG_API_SERVER_RESPONSE"):
        (fault,) = faults(replace(POOL, env={name: "1", "HF_HOME": "/h", "HF_TOKEN": "t"}))
        assert fault.startswith(f"env.{name}: is not for env: ")


def test_a_folder_has_no_one_hash_and_vllm_alone_needs_a_gib() -> None:
    (fault,) = faults(replace(POOL, sha256="0" * 64))
    assert fault.startswith("sha256: ")
    (fault,) = faults(replace(POOL, vram_mib=1023))
    assert fault == "vram_mib: must be at least 1024, for vLLM alone takes that: found 1023"
    assert faults(replace(POOL, vram_mib=1024)) == []
