"""The real daemon as a process: its signals, its exit codes, and what is left of it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.fakes.daemon import (
    TIMEOUT_S,
    TOKEN,
    RunningDaemon,
    environment,
    read_events,
    run_daemon,
    write_config,
)
from tests.fakes.engines import list_session
from tests.fakes.nvml import FakeNvml, build_nvml


def wait_for_end(pid: int) -> None:
    """Until a process that is not our child is gone."""
    try:
        watch = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([watch], [], [], TIMEOUT_S)[0], f"{pid} is still alive"
    finally:
        os.close(watch)


def run_to_its_end(config: Path, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchd", "serve", "--config", str(config)],
        env=environment(config.parent, **more),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def make_ready(daemon: RunningDaemon) -> int:
    """Wait for the replica; returns its engine's pid."""
    daemon.hear("became ready")
    return daemon.hear_engine()


# -- start -------------------------------------------------------------------------------------


def test_footprints_that_are_damaged_cost_a_warning_and_no_more(tmp_path: Path) -> None:
    kept = tmp_path / ".local/state/orchd/footprints.json"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(b"{")
    with run_daemon(write_config(tmp_path)) as daemon:
        make_ready(daemon)
        warned = daemon.hear("did not use the footprints")
        assert warned.endswith(f"{kept}: it is not JSON")
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_without_a_home_footprints_are_not_kept(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path), HOME="") as daemon:
        daemon.hear("footprints are not kept: no folder to keep state in")
        make_ready(daemon)


@pytest.mark.parametrize(
    ("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "[::1]")]
)
def test_a_taken_port_is_one_clear_line(
    tmp_path: Path, family: socket.AddressFamily, host: str
) -> None:
    try:
        other = socket.create_server((host.strip("[]"), 0), family=family)
    except OSError as error:
        pytest.skip(f"this machine has no {host}: {error}")
    with other:
        address = f"{host}:{other.getsockname()[1]}"
        done = run_to_its_end(write_config(tmp_path, listen=address), ORCHD_LOG="info")
    expected = (
        f"orchd: cannot listen on {address}: another program already listens there;"
        f" ss -ltnp 'sport = :{address.rpartition(':')[2]}' shows which; end it, or write another"
        " listen in [server]\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_a_second_daemon_on_the_same_port_is_told_that_there_is_one(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        other = tmp_path / "other"
        other.mkdir()
        config = write_config(other, listen=f"127.0.0.1:{daemon.port}")
        done = run_to_its_end(config, ORCHD_LOG="info")
        assert (done.returncode, done.stderr.count("\n")) == (1, 1)
        assert "it is an orchd (orchd status shows it)" in done.stderr
        assert "needs a listen of its own" in done.stderr
        assert daemon.ask("GET", "/health").status in (200, 503)


def test_a_taken_unix_socket_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "orchd.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        done = run_to_its_end(write_config(tmp_path, listen=f"unix:{path}"), ORCHD_LOG="info")
        assert path.is_socket()
    expected = (
        f"orchd: cannot listen on unix:{path}: another program already listens there; end it, or"
        " write another listen in [server]\n"
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", expected)


def test_a_file_in_the_place_of_a_unix_socket_is_one_clear_line(tmp_path: Path) -> None:
    path = tmp_path / "orchd.sock"
    path.write_text("mine")
    done = run_to_its_end(write_config(tmp_path, listen=f"unix:{path}"), ORCHD_LOG="info")
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert done.stderr.startswith(f"orchd: cannot listen on unix:{path}: a file stands there")
    assert path.read_text() == "mine"


def test_to_listen_for_other_machines_is_warned_of(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path, listen="0.0.0.0:0")) as daemon:
        warned = daemon.hear("is reachable from other machines")
        assert " WARNING " in warned
        assert f"0.0.0.0:{daemon.port} is reachable" in warned
        assert "listen on 127.0.0.1 unless that is meant" in warned


def test_a_token_in_a_configuration_that_everybody_reads_is_warned_of(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    config.write_text('[auth]\ntoken = "a-secret-of-the-test"\n' + config.read_text())
    config.chmod(0o644)
    environ = environment(tmp_path)
    del environ["ORCHD_API_TOKEN"]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchd", "serve", "--config", str(config)],
        env=environ,
        stderr=subprocess.PIPE,
        text=True,
    )
    watch = threading.Timer(TIMEOUT_S, process.kill)
    watch.start()
    with process:
        try:
            assert process.stderr is not None
            said = ""
            while "can be read by every account" not in said:
                line = process.stderr.readline()
                assert line, said
                said += line
        finally:
            watch.cancel()
            process.terminate()
    warned = said.splitlines()[-1]
    assert " WARNING " in warned and f"{config} holds the token" in warned
    assert "(mode 0644); make it 0600 or 0640, or keep the token in a token_file" in warned
    assert "a-secret-of-the-test" not in said


def test_a_path_that_is_too_long_is_a_fault_of_the_configuration(tmp_path: Path) -> None:
    done = run_to_its_end(write_config(tmp_path, listen="unix:/" + "a" * 107))
    assert (done.returncode, done.stdout) == (2, "")
    assert "server.listen" in done.stderr and "at most 107 bytes" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_task_over_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "orchd.sock"
    config = write_config(tmp_path, listen=f"unix:{path}")
    with run_daemon(config) as daemon:
        assert daemon.hear("listening on").endswith(f"listening on unix:{path}")
        make_ready(daemon)
        assert path.stat().st_mode & 0o777 == 0o600
        asked = subprocess.run(
            [sys.executable, "-m", "orchd", "ask", "--config", str(config), "[tokens 3]"],
            env=environment(tmp_path),
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
        )
        assert (asked.returncode, asked.stderr) == (0, "")
        assert asked.stdout.strip()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "reachable from other machines" not in daemon.log
    assert not path.exists()
    gone = subprocess.run(
        [sys.executable, "-m", "orchd", "ask", "--config", str(config), "hello"],
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )
    assert gone.returncode == 1
    assert gone.stderr.startswith(
        f"orchd: no daemon answers on unix:{path} (No such file or directory);"
    )


def test_the_limits_of_the_configuration_hold(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path, server="max_body_bytes = 1024")) as daemon:
        answer = daemon.ask("POST", "/v1/tasks", {"prompt": "x" * 1024})
        assert answer.status == 413
        assert json.load(answer)["code"] == "PAYLOAD_TOO_LARGE"


def test_faults_in_the_configuration_are_told_all_at_once(tmp_path: Path) -> None:
    config = write_config(tmp_path, pool='ctx = "many"\nslotz = 2')
    done = run_to_its_end(config)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pools[0].ctx" in done.stderr
    assert "pools[0].slotz" in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unknown_log_level_is_one_clear_line(tmp_path: Path) -> None:
    done = run_to_its_end(write_config(tmp_path), ORCHD_LOG="loud")
    assert (done.returncode, done.stderr) == (
        2,
        "orchd: ORCHD_LOG: no level is called loud; write debug, info, warning or error\n",
    )


def test_the_token_is_in_no_log_and_with_no_engine(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        engine = make_ready(daemon)
        read_events(daemon.submit("hello"))
        assert daemon.ask("GET", "/health").status == 200
        environ = Path(f"/proc/{engine}/environ").read_bytes()
        command_line = Path(f"/proc/{engine}/cmdline").read_bytes()
        assert b"LLAMA_API_KEY=" in environ
        assert TOKEN.encode() not in environ + command_line
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert TOKEN not in daemon.log


# -- stop --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_exits_with_0_and_leaves_no_process(tmp_path: Path, number: signal.Signals) -> None:
    with run_daemon(write_config(tmp_path, grandchild=1)) as daemon:
        engine = make_ready(daemon)
        assert len(list_session(engine)) == 2
        daemon.signal(number)
        assert daemon.wait() == 0
        assert list_session(engine) == []
        assert "Traceback" not in daemon.log
        assert "never retrieved" not in daemon.log


def test_a_stop_while_the_engine_loads(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path, load_s=600)) as daemon:
        engine = daemon.hear_engine()
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert list_session(engine) == []


def test_a_stop_right_after_the_start(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log


def test_a_shower_of_signals_does_not_spoil_the_exit_code(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        make_ready(daemon)
        while daemon.process.poll() is None:
            for number in (signal.SIGTERM, signal.SIGINT):
                daemon.signal(number)
            time.sleep(0.002)
        assert daemon.wait() == 0
        assert "Traceback" not in daemon.log


def test_a_driver_that_never_answers_does_not_hold_up_the_stop(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    library = build_nvml(tmp_path_factory.mktemp("nvml"))
    nvml = FakeNvml(tmp_path / "machine", settings={"hang": 1})
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace('"cpu"', '"auto"'))
    with run_daemon(config, **nvml.environment(library)) as daemon:
        answer = daemon.ask("POST", "/v1/tasks", {"prompt": "hello"})
        assert answer.status == 503
        assert "placing for" in json.load(answer)["message"]
        daemon.signal(signal.SIGTERM)
        assert daemon.wait() == 0


def test_no_engine_outlives_a_daemon_that_is_killed(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        engine = make_ready(daemon)
        daemon.signal(signal.SIGKILL)
        assert daemon.wait() == -signal.SIGKILL
        wait_for_end(engine)
        assert list_session(engine) == []


def test_a_running_task_finishes_within_the_grace(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        make_ready(daemon)
        stream = daemon.submit("[tokens 20] [every 0.03]")
        assert stream.readline().startswith(b"id: 0")
        daemon.signal(signal.SIGTERM)
        daemon.hear("stopping")
        events = read_events(stream)
        assert [name for name, _ in events[-21:]] == ["token"] * 20 + ["end"]
        assert events[-1][1]["tokens_out"] == 20
        assert daemon.wait() == 0


def test_one_that_does_not_finish_within_the_grace_ends_in_an_error(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path, server="stop_grace_s = 0.1")) as daemon:
        make_ready(daemon)
        stream = daemon.submit("[hang 1]")
        assert stream.readline().startswith(b"id: 0")
        daemon.signal(signal.SIGTERM)
        name, error = read_events(stream)[-1]
        assert (name, error["code"]) == ("error", "POOL_UNAVAILABLE")
        assert error["message"] == "the daemon is stopping"
        assert daemon.wait() == 0


def test_waiting_tasks_end_in_an_error_and_new_ones_are_refused(tmp_path: Path) -> None:
    with run_daemon(write_config(tmp_path)) as daemon:
        make_ready(daemon)
        running = daemon.submit("[tokens 1] [hang 1]")
        assert running.readline().startswith(b"id: 0")
        waiting = [daemon.submit("hello") for _ in range(3)]
        daemon.signal(signal.SIGTERM)
        for stream in waiting:
            ((name, error),) = read_events(stream)
            assert (name, error["code"]) == ("error", "POOL_UNAVAILABLE")
            assert set(error) == {"code", "message", "engine"}
        refused = daemon.ask("POST", "/v1/tasks", {"prompt": "hello"})
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert json.load(refused) == {
            "code": "POOL_UNAVAILABLE",
            "message": "the daemon is stopping",
            "engine": "llamacpp",
        }
        daemon.signal(signal.SIGTERM)  # the first one would wait for it
        assert read_events(running)[-1][0] == "error"
        assert daemon.wait() == 0


def test_a_second_signal_does_not_wait_for_an_engine_that_ignores_the_first(
    tmp_path: Path,
) -> None:
    with run_daemon(write_config(tmp_path, ignore_sigterm=1)) as daemon:
        engine = make_ready(daemon)
        daemon.signal(signal.SIGSTOP)
        daemon.signal(signal.SIGTERM)
        daemon.signal(signal.SIGCONT)
        daemon.hear("stopping")
        daemon.signal(signal.SIGINT)
        # Without the second it would take ten seconds, the engine's own grace.
        assert daemon.process.wait(8) == 0
        assert list_session(engine) == []
