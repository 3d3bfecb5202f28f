"""The embedded engine's launcher as a process, on a stand-in for the package ``xllamacpp``."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchd import engines
from orchd.engines.adapter import Launch
from orchd.engines.llamacpp import LlamaCpp
from tests.runner.pools import make_pool

SCRIPT = Path(engines.__file__).with_name("embedded_llamacpp.py")
PACKAGE = """
import sys
from types import SimpleNamespace
llama_flash_attn_type = SimpleNamespace(**{
    f"LLAMA_FLASH_ATTN_TYPE_{name}": name for name in ("AUTO", "ENABLED", "DISABLED")})
ggml_type = SimpleNamespace(GGML_TYPE_F16="F16", GGML_TYPE_Q8_0="Q8_0")
def CommonParams():
    return SimpleNamespace(model=SimpleNamespace(), cpuparams=SimpleNamespace())
def Server(params):
    if params.model.path == "/missing":
        print("E load_model: failed to load model, '/missing'", file=sys.stderr)
        print("E init: exiting due to model loading error", file=sys.stderr, flush=True)
        raise RuntimeError("Failed to init server, please check the input params.")
    print(vars(params), flush=True)
    return params
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "xllamacpp.py").write_text(PACKAGE)
    return tmp_path


def start(site: Path, model: str, *more: str) -> subprocess.Popen[str]:
    launch = Launch(model, "cpu", "127.0.0.1", 18_700, "the-key")
    arguments = LlamaCpp().arguments(make_pool(slots=2), launch)
    return subprocess.Popen(
        [sys.executable, "-P", str(SCRIPT), *arguments, *more],
        env={"PYTHONPATH": str(site), **LlamaCpp().environment(launch)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_takes_what_the_adapter_gives_and_ends_by_a_signal(
    site: Path, number: signal.Signals
) -> None:
    with start(site, "/m.gguf", "--flash-attn", "on", "-ctk", "q8_0") as engine:
        try:
            assert engine.stdout is not None
            params = engine.stdout.readline()
            for part in (
                "path='/m.gguf'",
                "'api_keys': ['the-key']",
                "'port': 18700",
                "'n_parallel': 2",
                "'n_ctx': 8192",
                "'kv_unified': False",
                "'n_gpu_layers': 0",
                "'flash_attn_type': 'ENABLED'",
                "'cache_type_k': 'Q8_0'",
                "'cache_type_v': 'F16'",
            ):
                assert part in params
            engine.send_signal(number)
            assert engine.wait(30) == -number
        finally:
            engine.kill()


def test_its_last_words_at_a_failed_load_are_those_of_llama_cpp(site: Path) -> None:
    with start(site, "/missing") as engine:
        _, said = engine.communicate(timeout=30)
    assert engine.returncode == 1
    assert said.splitlines()[-1] == "E init: exiting due to model loading error"


def test_a_flag_that_it_does_not_know_is_named(site: Path) -> None:
    with start(site, "/m.gguf", "--mlock") as engine:
        _, said = engine.communicate(timeout=30)
    assert engine.returncode == 2
    assert said.splitlines()[-1] == "embedded llama.cpp: error: unrecognized arguments: --mlock"
