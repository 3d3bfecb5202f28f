"""What in a pool's ``args`` and ``env`` is not the user's to set where vLLM is the engine.

Source: vLLM's ``entrypoints/openai/cli_args.py`` and ``engine/arg_utils.py`` (0.30). Its parser is
argparse's, which takes the beginning of a flag for the whole one, so these are refused too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchd.config.model import PoolConfig
from orchd.engines.command_flags import Flags, flag_of
from orchd.engines.vllm_memory import CONTEXT_BYTES, MIB
from orchd.errors import Fault

_ADDRESS = "the daemon chooses the address"
_MEMORY = "it is reckoned from what the replica was given; write vram_mib to change that"
_ALONE = "a replica is one process on one device here"
_NO_LOG = "nothing of a task goes into logs"
_OWN_FLAGS: Mapping[str, str] = {
    **dict.fromkeys(("--model", "--served-model-name"), "write the pool's model instead"),
    "--config": "its flags could not be seen here; write them as args",
    **dict.fromkeys(("--host", "--port", "--uds", "--root-path"), _ADDRESS),
    **dict.fromkeys(("--ssl-keyfile", "--ssl-certfile", "--ssl-ca-certs"), _ADDRESS),
    "--api-key": "the daemon makes a key of its own",
    "--hf-token": "a command line is readable by every user; write HF_TOKEN in env",
    "--allowed-origins": "no web page is to reach an engine past the daemon",
    "--max-model-len": "write the pool's ctx instead",
    "--max-num-seqs": "write the pool's slots instead",
    "--gpu-memory-utilization": _MEMORY,
    **dict.fromkeys(("--kv-cache-memory-bytes", "--num-gpu-blocks-override"), _MEMORY),
    **dict.fromkeys(("--headless", "--api-server-count", "-asc"), _ALONE),
    **dict.fromkeys(("--nnodes", "-n", "--node-rank", "-r", "--device-ids"), _ALONE),
    **dict.fromkeys(("--data-parallel-hybrid-lb", "--data-parallel-external-lb"), _ALONE),
    **dict.fromkeys(("--enable-log-requests", "--enable-log-outputs"), _NO_LOG),
}
"""Flags that the pool's own keys or the daemon set, and what to do instead."""
_SPLITS: Mapping[str, str] = {
    **dict.fromkeys(("--tensor-parallel-size", "-tp"), "tensor splitting"),
    **dict.fromkeys(("--pipeline-parallel-size", "-pp"), "pipeline splitting"),
    **dict.fromkeys(("--data-parallel-size", "-dp"), "data parallelism"),
    **dict.fromkeys(("--prefill-context-parallel-size", "-pcp"), "context splitting"),
    **dict.fromkeys(("--decode-context-parallel-size", "-dcp"), "context splitting"),
}
"""Over how many devices it would be spread: 1 is what it is anyway."""
_OWN_VARIABLES: Mapping[str, str] = {
    "VLLM_API_KEY": "the daemon makes a key of its own",
    **dict.fromkeys(("VLLM_PORT", "VLLM_HOST_IP"), _ADDRESS),
    "VLLM_CPU_KVCACHE_SPACE": "it is reckoned from slots and ctx",
    "VLLM_SERVER_DEV_MODE": "it opens endpoints that need no key",
    "VLLM_DEBUG_LOG_API_SERVER_RESPONSE": _NO_LOG,
}
_LEAST_BYTES = 2 * CONTEXT_BYTES


def find_argument_faults(args: Sequence[str]) -> Iterator[Fault]:
    """Flags that are set elsewhere, or ask for what is not built."""
    flags = Flags(args)
    for n, argument in enumerate(args):
        if not argument.startswith("-"):
            continue
        flag = _whole_name(flag_of(argument))
        if (mend := _OWN_FLAGS.get(flag)) is not None:
            yield Fault(f"args[{n}]", f"{flag} is not for args: {mend}")
        elif (what := _SPLITS.get(flag)) is not None:
            short = flag_of(argument)
            if flags.text((short,), "") != "1":
                yield Fault(f"args[{n}]", f"{flag}: {what} is not built; write more replicas")


def find_other_faults(pool: PoolConfig) -> Iterator[Fault]:
    """What else does not go together with vLLM."""
    for name in pool.env:
        if (mend := _OWN_VARIABLES.get(name)) is not None:
            yield Fault(f"env.{name}", f"is not for env: {mend}")
    if pool.sha256 is not None:
        yield Fault("sha256", "a hub's model is a folder of files, which no one hash is of")
    if pool.vram_mib is not None and pool.vram_mib * MIB < _LEAST_BYTES:
        least = f"{_LEAST_BYTES // MIB}"
        problem = f"must be at least {least}, for vLLM alone takes that: found {pool.vram_mib}"
        yield Fault("vram_mib", problem)


def _whole_name(flag: str) -> str:
    """The flag of ours that argparse would take it for; itself where none."""
    known = (*_OWN_FLAGS, *_SPLITS)
    if flag in known or not flag.startswith("--") or len(flag) < 4:
        return flag
    return next((name for name in known if name.startswith(flag)), flag)
