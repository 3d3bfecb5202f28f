"""The command line as a user meets it: real processes, one clear line for every fault."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import orchd
from tests.fakes.daemon import environment, write_config

TOKEN = "no-daemon-has-this-token"


def _run(home: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchd", *words],
        env={"HOME": str(home), "PATH": "/usr/bin:/bin", **environ},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_version_is_the_packages(tmp_path: Path) -> None:
    assert _run(tmp_path, "--version").stdout == f"orchd {orchd.__version__}\n"


def test_without_a_command_all_of_them_are_told(tmp_path: Path) -> None:
    ran = _run(tmp_path)
    assert (ran.returncode, ran.stdout) == (2, "")
    for told in ("serve ", "check ", "ask ", "status ", "exit codes"):
        assert told in ran.stderr


@pytest.mark.parametrize(
    ("words", "usage"), [(("help",), "orchd [-h]"), (("help", "status"), "orchd status [-h]")]
)
def test_help_can_be_asked_for_by_name(tmp_path: Path, words: tuple[str], usage: str) -> None:
    ran = _run(tmp_path, *words)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert ran.stdout.startswith(f"usage: {usage}")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("status",), "no token found: ORCHD_API_TOKEN is not set"),
        (("ask", "hi"), "start the daemon once, it makes one"),
    ],
)
def test_before_any_daemon_has_run_there_is_no_token(
    tmp_path: Path, words: tuple[str], told: str
) -> None:
    if Path("/etc/orchd/orchd.toml").exists():
        pytest.skip("this machine has a configuration of its own")
    ran = _run(tmp_path, *words)
    assert (ran.returncode, ran.stdout, ran.stderr.count("\n")) == (2, "", 1)
    assert told in ran.stderr


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-"])
def test_an_output_that_is_closed_ends_in_the_same_exit_code(tmp_path: Path, closed: str) -> None:
    """As some supervisors start programs."""
    words = ["check", "--config", str(write_config(tmp_path, pool="vram_mib = 1"))]
    ran = subprocess.run(
        ["sh", "-c", f'exec "$@" {closed}', "sh", sys.executable, "-m", "orchd", *words],
        env=environment(tmp_path),
        stderr=subprocess.PIPE,
        timeout=30,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")


@pytest.mark.parametrize("words", [("status",), ("check",), ("ask", "hi")])
def test_a_complaint_that_cannot_be_made_is_no_answer(
    tmp_path: Path, words: tuple[str, ...]
) -> None:
    ran = subprocess.run(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", sys.executable, "-m", "orchd", *words],
        env=environment(tmp_path, ORCHD_CONFIG="/no/configuration"),
        stdout=subprocess.PIPE,
        timeout=30,
    )
    assert (ran.returncode, ran.stdout) == (2, b"")


@pytest.mark.parametrize(
    "words", [("sreve",), ("help", "sreve"), ("ask", "--max-tokens", "many", "hi")]
)
def test_a_wrong_command_line_is_told_with_the_usage(tmp_path: Path, words: tuple[str]) -> None:
    ran = _run(tmp_path, *words)
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("usage: orchd")


def test_serve_without_a_configuration_shows_the_least_one(tmp_path: Path) -> None:
    if Path("/etc/orchd/orchd.toml").exists():
        pytest.skip("this machine has a configuration of its own")
    ran = _run(tmp_path, "serve")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "none found; looked at:" in ran.stderr
    assert 'engine = "llamacpp"' in ran.stderr


def test_ask_needs_no_configuration(tmp_path: Path) -> None:
    if Path("/etc/orchd/orchd.toml").exists():
        pytest.skip("this machine has a configuration of its own")
    ran = _run(tmp_path, "ask", "hi", ORCHD_API_TOKEN=TOKEN)
    assert (ran.returncode, ran.stdout) == (1, "")
    # Whether or not a daemon of somebody's runs there.
    assert "127.0.0.1:8642" in ran.stderr
    assert ran.stderr.count("\n") == 1


@pytest.mark.parametrize("form", ["utf-8:strict", "utf-8:surrogateescape"])
def test_ask_says_of_a_prompt_that_it_is_no_text(tmp_path: Path, form: str) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "orchd", "ask", "-"],
        env={"HOME": str(tmp_path), "ORCHD_API_TOKEN": TOKEN, "PYTHONIOENCODING": form},
        input=b"caf\xe9",
        capture_output=True,
        timeout=30,
    )
    assert (ran.returncode, ran.stdout) == (1, b"")
    expected = b"orchd: the prompt on stdin is not UTF-8 (unexpected end of data at byte 3)\n"
    assert ran.stderr == expected


def test_ask_without_any_token_says_where_it_looked(tmp_path: Path) -> None:
    config = tmp_path / "orchd.toml"
    config.write_text('[[pools]]\nid = "a"\nengine = "llamacpp"\nmodel = "a.gguf"\n')
    ran = _run(tmp_path, "ask", "--config", str(config), "hi")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert str(tmp_path / ".local/state/orchd/token") in ran.stderr


def test_every_fault_of_a_configuration_is_told_at_once(tmp_path: Path) -> None:
    config = tmp_path / "orchd.toml"
    config.write_text('[server]\nlisen = "x"\n[[pools]]\nid = "a"\nengine = "llamcpp"\n')
    ran = _run(tmp_path, "serve", "--config", str(config))
    assert ran.returncode == 2
    for part in ("server.lisen", "did you mean listen?", "pools[0].engine", "pools[0].model"):
        assert part in ran.stderr
    assert "Traceback" not in ran.stderr
