"""The folders orchd looks in, by environment alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from orchd.config.places import directory_from, home_dir, state_dir, user_config
from orchd.errors import HostError


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({"HOME": "/h"}, "/h/.local/state/orchd", id="home"),
        pytest.param({"HOME": "/h", "XDG_STATE_HOME": "/x"}, "/x/orchd", id="xdg"),
        pytest.param(
            {"HOME": "/h", "XDG_STATE_HOME": "x"}, "/h/.local/state/orchd", id="xdg-relative"
        ),
        pytest.param({"HOME": "/h", "XDG_STATE_HOME": ""}, "/h/.local/state/orchd", id="xdg-empty"),
        pytest.param(
            {"HOME": "/h", "XDG_STATE_HOME": "/x", "STATE_DIRECTORY": "/var/lib/orchd"},
            "/var/lib/orchd",
            id="systemd-first",
        ),
        pytest.param(
            {"STATE_DIRECTORY": "/var/lib/orchd:/var/lib/other"}, "/var/lib/orchd", id="several"
        ),
        pytest.param(
            {"HOME": "/h", "STATE_DIRECTORY": ""}, "/h/.local/state/orchd", id="systemd-empty"
        ),
    ],
)
def test_state_dir(environ: Mapping[str, str], expected: str) -> None:
    assert state_dir(environ) == Path(expected)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"HOME": "/h"}, "/h/.config/orchd/orchd.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/x"}, "/x/orchd/orchd.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "x"}, "/h/.config/orchd/orchd.toml"),
        ({"HOME": "/h", "XDG_CONFIG_HOME": "/a:b"}, "/a:b/orchd/orchd.toml"),
    ],
)
def test_user_config(environ: Mapping[str, str], expected: str) -> None:
    assert user_config(environ) == Path(expected)


@pytest.mark.parametrize("environ", [{}, {"HOME": ""}, {"HOME": "relative"}], ids=str)
def test_without_a_home(environ: Mapping[str, str]) -> None:
    assert home_dir(environ) is None
    assert user_config(environ) is None
    with pytest.raises(HostError, match="set HOME, XDG_STATE_HOME or STATE_DIRECTORY"):
        state_dir(environ)


def test_directory_from_an_unset_variable() -> None:
    assert directory_from({}, "CREDENTIALS_DIRECTORY") is None
