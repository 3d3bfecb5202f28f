"""Runs llama.cpp's own HTTP server from the package ``xllamacpp``, with llama-server's flags.

A script, not a module of the daemon: it is started as a subprocess of its own and imports nothing
of orchd. It takes the flags that orchd's llama.cpp adapter uses and a few that users add most; the
key comes in ``LLAMA_API_KEY``, as for llama-server. Faults are told on stderr by llama.cpp itself.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys

import xllamacpp

_FLASH_ATTENTION = {
    "auto": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_AUTO,
    "on": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_ENABLED,
    "off": xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED,
}
_CACHE_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl")


def build_parser() -> argparse.ArgumentParser:
    """The flags, named as llama-server names them."""
    parser = argparse.ArgumentParser(
        prog="embedded llama.cpp",
        description="llama.cpp's HTTP server, embedded",
        allow_abbrev=False,
    )
    parser.add_argument("-m", "--model", required=True)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("-c", "--ctx-size", type=int, default=4096)
    parser.add_argument("-np", "--parallel", type=int, default=1)
    parser.add_argument(
        "-kvu", "--kv-unified", action=argparse.BooleanOptionalAction, default=False
    )
    parser.add_argument("-b", "--batch-size", type=int, default=2048)
    parser.add_argument("-ub", "--ubatch-size", type=int, default=512)
    parser.add_argument("-ngl", "--n-gpu-layers", type=int, default=-1)
    parser.add_argument("-t", "--threads", type=int, default=-1)
    parser.add_argument("-fa", "--flash-attn", choices=sorted(_FLASH_ATTENTION), default="auto")
    parser.add_argument("-ctk", "--cache-type-k", choices=_CACHE_TYPES, default="f16")
    parser.add_argument("-ctv", "--cache-type-v", choices=_CACHE_TYPES, default="f16")
    parser.add_argument("--swa-full", action="store_true")
    parser.add_argument("--cache-ram", type=int, default=8192)
    parser.add_argument("-lv", "--verbosity", type=int, default=3)
    parser.add_argument("-a", "--alias")
    parser.add_argument("--webui", action=argparse.BooleanOptionalAction, default=True)
    return parser


def build_params(options: argparse.Namespace, key: str | None) -> xllamacpp.CommonParams:
    """llama.cpp's parameters for these options; ``key`` None leaves the server open."""
    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.hostnames = [options.host]
    params.port = options.port
    params.api_keys = [key] if key else []
    params.n_ctx = options.ctx_size
    params.n_parallel = options.parallel
    params.kv_unified = options.kv_unified
    params.n_batch = options.batch_size
    params.n_ubatch = min(options.ubatch_size, options.batch_size)
    params.n_gpu_layers = options.n_gpu_layers
    params.cpuparams.n_threads = options.threads
    params.flash_attn_type = _FLASH_ATTENTION[options.flash_attn]
    params.cache_type_k = _cache_type(options.cache_type_k)
    params.cache_type_v = _cache_type(options.cache_type_v)
    params.swa_full = options.swa_full
    params.cache_ram_mib = options.cache_ram
    params.verbosity = options.verbosity
    params.ui = options.webui
    if options.alias:
        params.model_alias = {options.alias}
    return params


def _cache_type(name: str) -> xllamacpp.ggml_type:
    return getattr(xllamacpp.ggml_type, f"GGML_TYPE_{name.upper()}")


def main() -> None:
    """Serve until a signal ends the process."""
    options = build_parser().parse_args()
    # The server runs in threads of its own; the default action ends them all at once, which is
    # quicker and surer than its destructor (which waits for the streams that are open).
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        server = xllamacpp.Server(build_params(options, os.environ.get("LLAMA_API_KEY")))
    except RuntimeError:
        # llama.cpp has said why; the exception only says that it did.
        sys.exit(1)
    while server is not None:
        signal.pause()


if __name__ == "__main__":
    main()
