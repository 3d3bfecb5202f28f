"""The model's own soundness: documented, immutable, secret where it must be, true to contract."""

from __future__ import annotations

import dataclasses

import pytest

from orchd.config.listen import Listen
from orchd.config.marks import Doc
from orchd.config.model import (
    AuthConfig,
    Config,
    PoolConfig,
    QueueConfig,
    ServerConfig,
    TasksConfig,
    parse_device,
)
from orchd.config.shape import Key, keys_of, split

TABLES = (Config, ServerConfig, AuthConfig, QueueConfig, TasksConfig, PoolConfig)
POOL = PoolConfig(id="chat", engine="llamacpp", model="m.gguf")


EVERY_KEY = {
    f"{table.__name__}.{name}": key for table in TABLES for name, key in keys_of(table).items()
}


@pytest.mark.parametrize("key", list(EVERY_KEY.values()), ids=list(EVERY_KEY))
def test_every_key_has_one_line_of_doc(key: Key) -> None:
    _, marks = split(key.declared)
    docs = [mark.text for mark in marks if isinstance(mark, Doc)]
    assert len(docs) == 1
    assert docs[0].endswith(".") and "\n" not in docs[0]


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_frozen_and_slotted(table: type) -> None:
    assert dataclasses.is_dataclass(table)
    assert table.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(table)


def test_defaults_are_those_of_the_contract() -> None:
    config = Config(pools=(POOL,))
    assert config.server == ServerConfig(
        listen=Listen("127.0.0.1", 8642),
        stop_grace_s=20.0,
        max_connections=512,
        max_head_bytes=32_768,
        max_headers=100,
        max_body_bytes=8_388_608,
        head_timeout_s=10.0,
        body_timeout_s=30.0,
        keep_alive_s=75.0,
        reader_stall_s=120.0,
    )
    assert config.server.listen.is_loopback
    assert config.queue == QueueConfig(interactive=64, batch=256)
    assert config.tasks == TasksConfig(retain_s=300.0, abandon_after_s=15.0)
    assert (config.auth.token, config.auth.token_file) == (None, None)
    assert (POOL.replicas, POOL.slots, POOL.ctx, POOL.devices) == (1, 4, 4096, ("auto",))
    assert POOL.sha256 is None
    assert (POOL.vram_mib, POOL.args, dict(POOL.env), POOL.binary) == (None, (), {}, None)
    assert (POOL.load_stall_s, POOL.decode_stall_s) == (120.0, 60.0)
    assert POOL.queue == config.queue


def test_only_what_cannot_be_guessed_is_required() -> None:
    required = [name for name, key in EVERY_KEY.items() if key.is_required]
    assert required == ["Config.pools", "PoolConfig.id", "PoolConfig.engine", "PoolConfig.model"]


def test_repr_hides_the_token_and_the_environment() -> None:
    pool = dataclasses.replace(POOL, env={"HF_TOKEN": "hush-1"})
    shown = repr(Config(auth=AuthConfig(token="hush-2"), pools=(pool,)))
    assert "hush" not in shown


@pytest.mark.parametrize(
    ("written", "device"),
    [
        (0, "0"),
        ("0", "0"),
        ("007", "7"),
        ("auto", "auto"),
        ("cpu", "cpu"),
        ("3090", "3090"),
        ("NVIDIA GeForce RTX 3090", "NVIDIA GeForce RTX 3090"),
        (
            "GPU-8F3C1B2A-0000-1111-2222-ABCDEFABCDEF",
            "GPU-8f3c1b2a-0000-1111-2222-abcdefabcdef",
        ),
    ],
)
def test_a_device_has_one_spelling(written: int | str, device: str) -> None:
    assert parse_device(written) == device
