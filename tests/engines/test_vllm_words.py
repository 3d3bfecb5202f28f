"""Lines as vLLM writes them: how far it has loaded, and why it is gone."""

from __future__ import annotations

import pytest

from orchd.engines.vllm_words import find_cause, read_phase

CORE, API = "(EngineCore pid=284) ", "(APIServer pid=1) "
AT = "INFO 05-30 07:47:06 "


@pytest.mark.parametrize(
    ("line", "phase"),
    [
        (f"{API}{AT}[api_server.py:592] vLLM API server version 0.30.0", "starting"),
        (f"{CORE}{AT}[core.py:9] Initializing a V1 LLM engine (v0.30.0) with config", "starting"),
        (
            "model-00004-of-00004.safetensors:  47%|████▋     | 549M/1.17G [01:19<00:09, 14.8MB/s]",
            "downloading the model, a file at 47%",
        ),
        (f"{CORE}{AT}[gpu_model_runner.py:2932] Starting to load model x", "loading weights"),
        (
            "Loading safetensors checkpoint shards:  25% Completed | 1/4 [00:02<00:08,  2.82s/it]",
            "loading weights, 1 of 4",
        ),
        (f"{CORE}{AT}[default_loader.py:267] Loading weights took 5.04 seconds", "weights loaded"),
        (f"{CORE}{AT}[gpu_model_runner.py:1] Model loading took 14.9 GiB", "weights loaded"),
        (f"{CORE}{AT}[backends.py:1] Dynamo bytecode transform time: 4.29 s", "compiling"),
        (
            f"{CORE}{AT}[backends.py:2] Using cache directory: /c for vLLM's torch.compile",
            "compiling",
        ),
        (f"{CORE}{AT}[monitor.py:34] torch.compile takes 4.29 s in total", "measuring memory"),
        (f"{CORE}{AT}[monitor.py:34] torch.compile took 4.29 s in total", "measuring memory"),
        (
            f"{CORE}{AT}[gpu_worker.py:375] Available KV cache memory: 25.39 GiB",
            "allocating the cache",
        ),
        (
            f"{CORE}2026-01-16 14:20:25,565 - INFO - autotuner.py:256 - flashinfer.jit: "
            "[Autotuner]: Autotuning process starts ...",
            "tuning kernels",
        ),
        (
            "Capturing CUDA graphs (mixed prefill-decode, PIECEWISE):  45%|████▌     | 23/51"
            " [00:01<00:00, 50.16it/s]",
            "capturing CUDA graphs, 23 of 51",
        ),
        (f"{CORE}{AT}[gpu_model_runner.py:1] Graph capturing finished", "starting to listen"),
        (f"{API}{AT}[api_server.py:1] Starting vLLM server on http://x", "starting to listen"),
        (f"{API}{AT}[model.py:733] Resolved architecture: LlamaForCausalLM", "starting"),
        (f"{API}WARNING 11-25 [vllm.py:1703] Enforce eager set, disabling torch.compile", None),
        (
            f"{CORE}{AT}[kv_cache_utils.py:2327] CPU KV cache size: 46,592 tokens",
            "allocating the cache",
        ),
        (f"{API}{AT}[launcher.py:46] Route: /docs, Methods: HEAD, GET", None),
        ("", None),
        ("anything else 3/4 [", None),
    ],
)
def test_a_line_tells_of_a_phase_or_of_none(line: str, phase: str | None) -> None:
    assert read_phase(line) == phase


KV = "ValueError: To serve at least one request with the models's max seq len (8192), more memory."


def failed_start() -> list[str]:
    """As 0.29 writes it: the engine's process twice, then the server's that only heard of it."""
    error = "ERROR 10-09 21:14:07 [core.py:1100] "
    lines = [
        f"{CORE}WARNING 10-09 21:14:02 [import_utils.py:408] AssertionError",
        f"{CORE}{error}EngineCore failed to start.",
        f"{CORE}{error}Traceback (most recent call last):",
        f"{CORE}{error}    raise ValueError(",
        f"{CORE}{error}{KV}",
        f"{CORE}Process EngineCore:",
        f"{CORE}{KV}",
        f"{API}Traceback (most recent call last):",
    ]
    lines += [f'{API}  File "vllm/entrypoints/cli/serve.py", line {n}, in run' for n in range(40)]
    heard = "RuntimeError: Engine core initialization failed. See root cause above."
    return [*lines, f"{API}{heard} Failed core proc(s): {{}}"]


def test_the_cause_is_the_engines_and_not_of_who_heard_of_it() -> None:
    assert find_cause(failed_start()) == KV


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        ("ValueError: invalid literal for int() with base 10: 'GPU-52a3'", None),
        ("Exception: cuDNN is not there", None),
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", None),
        (
            f"{CORE}pydantic_core._pydantic_core.ValidationError: 1 validation error",
            "pydantic_core._pydantic_core.ValidationError: 1 validation error",
        ),
        (f"{CORE}    raise ValueError(", ""),
        ("vllm: error: unrecognized arguments: --task embed", ""),
        ("Error in the middle ValueError: no", ""),
    ],
)
def test_what_is_raised_is_a_cause(line: str, cause: str | None) -> None:
    assert find_cause(["before", line, "after"]) == (line if cause is None else cause)


def test_where_nothing_is_raised_no_cause_is_known() -> None:
    assert find_cause([]) == find_cause(["bye"]) == ""


def test_what_a_validation_is_about_stands_behind_it() -> None:
    lines = [
        f"{API}pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig",
        f"{API}  Value error, User-specified max_model_len (100000) is too great [value_error]",
        f"{API}    For further information visit the documentation",
    ]
    assert find_cause(lines) == (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig"
        " Value error, User-specified max_model_len (100000) is too great [value_error]"
    )
    assert find_cause(lines[:1]) == find_cause(lines).partition(" Value")[0]


def test_each_error_of_a_validation_is_told_without_what_was_found() -> None:
    cause = "pydantic_core._pydantic_core.ValidationError: 9 validation errors for CacheConfig"
    lines = [f"{API}{cause}"]
    for place in ("block_size", "cache_dtype", "swap_space", "sliding_window"):
        found = "[type=literal_error, input_value='x', input_type=str]"
        lines += [f"{API}{place}", f"{API}  Input should be 1 or 2 {found}"]
        lines += [f"{API}    For further information visit https://errors.example/v/literal"]
    assert find_cause(lines) == (
        f"{cause} block_size Input should be 1 or 2; cache_dtype Input should be 1 or 2;"
        " swap_space Input should be 1 or 2"
    )
    one = [lines[0].replace("9 validation errors", "1 validation error"), *lines[1:3]]
    assert find_cause([*one, *(f"line {n}" for n in range(9))]).endswith(
        "for CacheConfig block_size Input should be 1 or 2 line 0"
    )


def test_a_worker_that_failed_points_to_the_cause_before_it() -> None:
    cause = "safetensors_rust.SafetensorError: incomplete metadata, file not fully covered"
    pointer = "Exception: WorkerProc initialization failed. See stack trace for root cause."
    assert find_cause([f"{CORE}{cause}", f"{API}{pointer}"]) == cause
    pointer = "Exception: Failed to load. See stack trace above, please."
    assert find_cause([f"{CORE}{cause}", f"{API}{pointer}"]) == cause
    assert find_cause(["KeyError: before", f"{CORE}{cause}"]) == cause
