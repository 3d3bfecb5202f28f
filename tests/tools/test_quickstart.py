"""The quickstart against a stand-in daemon: its answer, its curl lines, and that the daemon dies
with it on every path. Each run is a real process, in folders of its own.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from daemon_child import DaemonChild
from demo_run import DEFAULT_PORT, choose_port, list_curl_lines, write_configuration

from orchd.config.load import load_config
from tests.tools.quickstart_process import (
    ANSWER,
    REPOSITORY,
    STAND_IN,
    TIMEOUT_S,
    Quickstart,
    are_gone,
    read_until,
)


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def quickstart(tmp_path: Path, free_port: int) -> Iterator[Quickstart]:
    home = tmp_path / "it's a home"
    (home / "cache" / "orchd").mkdir(parents=True)
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "XDG_STATE_HOME": str(home / "state"),
        "PYTHONPATH": f"{REPOSITORY / 'tools'}:{REPOSITORY}",
        "PYTHONUTF8": "1",
        "STAND_IN_PIDS": str(home / "pids"),
    }
    starter = Quickstart(home, free_port, environ)
    yield starter
    for process in starter.running:
        process.kill()
        process.communicate()


def test_once_prints_the_answer_and_nothing_else(quickstart: Quickstart) -> None:
    code, out, err = quickstart.run("--once", "The capital of France is")
    assert (code, out) == (0, ANSWER), err
    assert "Waiting: " in err
    assert are_gone(quickstart.pids())


def test_a_second_run_finds_the_same_token(quickstart: Quickstart) -> None:
    assert quickstart.run("--once", "a")[0] == 0
    token = (quickstart.home / "state" / "orchd" / "token").read_text()
    assert quickstart.run("--once", "b")[:2] == (0, ANSWER)
    assert (quickstart.home / "state" / "orchd" / "token").read_text() == token


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("given", [{}, {"ORCHD_API_TOKEN": "from-the-environment"}])
def test_each_curl_line_works_alone_in_a_fresh_shell(
    quickstart: Quickstart, given: dict[str, str]
) -> None:
    process, lines = quickstart.start_and_stay(**given)
    answers = []
    for line in lines:
        shell = ["bash", "-euo", "pipefail", "-c", line]
        environ = {"PATH": os.environ["PATH"], **given}
        done = subprocess.run(shell, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (line, done.stderr)
        answers.append(done.stdout)
    health, posted, streamed, both = answers
    assert '"status": "ok"' in health
    assert '"task_id"' in posted
    for stream in (streamed, both):
        assert stream.startswith("event: started\n")
        assert "event: end\n" in stream
    token = given.get("ORCHD_API_TOKEN") or (quickstart.home / "state/orchd/token").read_text()
    assert token.strip() not in "\n".join(lines)
    process.send_signal(signal.SIGINT)
    assert process.wait(TIMEOUT_S) == 0
    assert are_gone(quickstart.pids())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_while_it_stays_up_ends_both(quickstart: Quickstart, number: int) -> None:
    process, _ = quickstart.start_and_stay()
    process.send_signal(number)
    assert process.wait(TIMEOUT_S) == 0
    assert are_gone(quickstart.pids())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
@pytest.mark.parametrize(
    ("behaviour", "moment"),
    [("never ready", "Waiting: replica demo-0: reading the model"), ("stuck in the answer", "Ask")],
)
def test_a_signal_before_the_answer_ends_both(
    quickstart: Quickstart, behaviour: str, moment: str, number: int
) -> None:
    process = quickstart.start("--once", "x", STAND_IN=behaviour)
    read_until(process, moment)
    process.send_signal(number)
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 128 + number
    assert err.splitlines()[-1] == f"quickstart: ended by {signal.Signals(number).name}"
    assert are_gone(quickstart.pids())


def test_a_quickstart_killed_outright_takes_the_daemon_along(quickstart: Quickstart) -> None:
    process, _ = quickstart.start_and_stay()
    daemon, engine = quickstart.pids()
    process.kill()
    assert are_gone([daemon])
    # The stand-in's engine has no tether of its own, as a real one has.
    os.kill(engine, signal.SIGKILL)


def test_an_answer_that_nobody_reads_ends_both(quickstart: Quickstart) -> None:
    process = quickstart.start("--once", "x")
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert "nobody reads the answer" in process.stderr.read()
    assert process.wait(TIMEOUT_S) == 1
    assert are_gone(quickstart.pids())


def test_a_daemon_that_ends_early_is_shown_by_its_last_words(quickstart: Quickstart) -> None:
    code, out, err = quickstart.run("--once", "x", STAND_IN="dies at once")
    assert (code, out) == (1, "")
    assert "  | cannot find the model\n" in err
    assert err.splitlines()[-1].startswith("quickstart: the daemon ended by itself; its log: ")


def test_a_daemon_that_dies_in_the_answer_is_shown_too(quickstart: Quickstart) -> None:
    code, out, err = quickstart.run("--once", "x", STAND_IN="dies in the answer")
    assert (code, out) == (1, " Paris,\n")
    assert "  | the last words\n" in err
    assert are_gone(quickstart.pids())


def test_a_daemon_that_dies_later_ends_the_stay(quickstart: Quickstart) -> None:
    process, _ = quickstart.start_and_stay()
    os.kill(quickstart.pids()[0], signal.SIGKILL)
    assert process.wait(TIMEOUT_S) == 1
    assert are_gone(quickstart.pids())


def test_an_error_of_the_task_is_one_clear_line(quickstart: Quickstart) -> None:
    code, _, err = quickstart.run("--once", "x", STAND_IN="error")
    assert code == 1
    assert err.splitlines()[-1] == "quickstart: WORKER_RESET: the engine died"


def test_an_unusable_token_is_told_before_anything_starts(quickstart: Quickstart) -> None:
    code, _, err = quickstart.run("--once", "x", ORCHD_API_TOKEN="not a token")
    assert code == 1
    assert err.startswith("quickstart: ORCHD_API_TOKEN")
    assert not (quickstart.home / "pids").exists()


def test_a_wanted_port_that_is_taken_is_a_fault(quickstart: Quickstart) -> None:
    with socket.create_server(("127.0.0.1", quickstart.port)):
        code, _, err = quickstart.run("--once", "x")
    assert code == 1
    assert f"port {quickstart.port} is taken" in err


def test_by_default_the_next_free_port_is_taken_and_told(
    capsys: pytest.CaptureFixture[str],
) -> None:
    try:
        taken = socket.create_server(("127.0.0.1", DEFAULT_PORT))
    except OSError:
        pass  # somebody has it, which serves as well
    else:
        with taken:
            assert choose_port(None) > DEFAULT_PORT
            assert f"Port {DEFAULT_PORT} is taken" in capsys.readouterr().err
        return
    assert choose_port(None) > DEFAULT_PORT


def test_two_that_start_at_once_take_a_port_each(quickstart: Quickstart) -> None:
    quickstart.port = None
    both = [quickstart.start("--once", "a"), quickstart.start("--once", "b")]
    for process in both:
        out, err = process.communicate(timeout=TIMEOUT_S)
        assert (process.returncode, out) == (0, ANSWER), err
    assert are_gone(quickstart.pids())


def test_the_configuration_is_one_that_orchd_reads(tmp_path: Path) -> None:
    model = tmp_path / 'a "quoted" \\ folder' / "m.gguf"
    write_configuration(tmp_path / "q.toml", model, 8700)
    config = load_config(tmp_path / "q.toml")
    assert str(config.server.listen) == "127.0.0.1:8700"
    [pool] = config.pools
    assert (pool.id, pool.engine, pool.model) == ("demo", "llamacpp", str(model))
    assert (pool.devices, pool.slots, pool.ctx) == (("cpu",), 4, 2048)
    assert pool.env == {"OMP_WAIT_POLICY": "passive"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["q.toml"]


def test_curl_is_kept_from_a_proxy_only_where_there_is_one() -> None:
    plain = list_curl_lines("/t", 8642, "id", {})
    assert not any("--noproxy" in line for _, line in plain)
    proxied = list_curl_lines("/t", 8642, "id", {"http_proxy": "http://proxy"})
    assert all("--noproxy 127.0.0.1" in line for _, line in proxied)


def test_a_daemon_deaf_to_sigterm_is_killed_with_its_group(
    tmp_path: Path, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    configuration = tmp_path / "q.toml"
    configuration.write_text(f'[server]\nlisten = "127.0.0.1:{free_port}"\n')
    pids = tmp_path / "pids"
    monkeypatch.setenv("STAND_IN", "ignores SIGTERM")
    monkeypatch.setenv("STAND_IN_PIDS", str(pids))
    monkeypatch.setenv("ORCHD_API_TOKEN", "t")
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    command = [sys.executable, str(STAND_IN), "serve", "--config", str(configuration)]
    kept = {number: signal.getsignal(number) for number in (1, 2, 15)}
    try:
        with DaemonChild(command, tmp_path / "log", stop_timeout_s=0.3) as child:
            while not (pids.exists() and pids.read_text()):
                assert not child.has_exited_within(0.05), child.read_last_lines()
    finally:
        for number, action in kept.items():
            signal.signal(number, action)
    assert are_gone([int(pid) for pid in pids.read_text().split()])


@pytest.mark.parametrize("arguments", [["--port", "0"], ["--port", "x"], ["--twice"]])
def test_a_wrong_command_line_is_status_2(quickstart: Quickstart, arguments: list[str]) -> None:
    code, out, err = quickstart.run(*arguments)
    assert (code, out) == (2, "")
    assert "usage: tools/quickstart" in err
