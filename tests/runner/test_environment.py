"""An engine's environment is built, not inherited."""

from __future__ import annotations

from orchd.runner.environment import build_environment

OWN = {
    "PATH": "/bin",
    "HOME": "/home/u",
    "LD_LIBRARY_PATH": "/lib",
    "ORCHD_API_TOKEN": "the-token",
    "ORCHD_CONFIG": "/c.toml",
    "CREDENTIALS_DIRECTORY": "/run/credentials",
    "LLAMA_API_KEY": "theirs",
    "LLAMA_ARG_CTX_SIZE": "1",
    "LLAMA_SERVER_ROUTER_PORT": "1",
    "CUDA_VISIBLE_DEVICES": "7",
    "NOTIFY_SOCKET": "/run/notify",
    "PYTHONPATH": "/theirs",
}


def test_only_what_is_listed_is_inherited() -> None:
    environment = build_environment(OWN, {}, {}, "GPU-1")
    assert environment == {
        "PATH": "/bin",
        "HOME": "/home/u",
        "LD_LIBRARY_PATH": "/lib",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_no_variable_of_ours_that_holds_a_secret_reaches_an_engine() -> None:
    assert "the-token" not in build_environment(OWN, {}, {}, "cpu").values()


def test_the_engine_wins_over_ours_and_the_pool_over_the_engine() -> None:
    environment = build_environment(
        {"PATH": "own", "HOME": "own", "LANG": "own"},
        {"HOME": "engine", "LANG": "engine", "LLAMA_API_KEY": "key"},
        {"LANG": "pool", "EXTRA": "pool"},
        "GPU-1",
    )
    assert environment == {
        "PATH": "own",
        "HOME": "engine",
        "LANG": "pool",
        "LLAMA_API_KEY": "key",
        "EXTRA": "pool",
        "CUDA_VISIBLE_DEVICES": "GPU-1",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


def test_an_engine_on_the_cpu_sees_no_gpu() -> None:
    assert build_environment({}, {}, {}, "cpu")["CUDA_VISIBLE_DEVICES"] == ""


def test_the_device_is_ours_to_name() -> None:
    theirs = {"CUDA_VISIBLE_DEVICES": "0,1", "CUDA_DEVICE_ORDER": "FASTEST_FIRST"}
    assert build_environment({}, {}, theirs, "GPU-2") == {
        "CUDA_VISIBLE_DEVICES": "GPU-2",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
