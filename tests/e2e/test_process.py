"""The daemon as a process: its commands, and what it leaves behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

import orchd
from tests.e2e.daemon import TOKEN, Daemon

GREETING = "The capital of France is"


def test_health_tells_the_whole_state(daemon: Daemon) -> None:
    daemon.wait_for_replica(slots_busy=0)
    answer = daemon.client.get("/health")
    pool = answer.json()["pools"][0]
    assert (answer.status_code, answer.json()["status"]) == (200, "ok")
    assert answer.json()["version"] == orchd.__version__
    assert (pool["pool_id"], pool["engine"], pool["model_state"]) == ("demo", "llamacpp", "Active")
    assert pool["engine_version"]
    assert pool["queue"] == {"interactive": 0, "batch": 0}
    assert list(pool["tokens_streamed"]) == ["demo-0"]
    replica = pool["replicas"][0]
    assert replica.pop("pid") > 0
    assert replica == {
        "replica_id": "demo-0",
        "model": pool["model"],
        "device": "cpu",
        "state": "ready",
        "slots_busy": 0,
        "slots_total": 4,
        "restarts": 0,
        "reason": None,
    }


def test_ask_streams_the_text_to_stdout(daemon: Daemon) -> None:
    asked = _ask(daemon, "--max-tokens", "16", "--seed", "7", GREETING)
    assert asked.returncode == 0, asked.stderr
    expected = daemon.run(prompt=GREETING, max_tokens=16, seed=7)
    assert asked.stdout == expected.text + "\n"
    assert asked.stderr == ""
    piped = _ask(daemon, "--max-tokens", "16", "--seed", "7", "-", stdin=GREETING)
    assert piped.stdout == asked.stdout


def test_ask_says_a_refusal_in_one_line(daemon: Daemon) -> None:
    asked = _ask(daemon, "--pool", "nowhere", GREETING)
    assert asked.returncode == 1
    assert asked.stdout == ""
    assert asked.stderr.startswith("orchd: INVALID_PARAMS: no pool has pool_id 'nowhere'")
    assert asked.stderr.count("\n") == 1


def test_ctrl_c_at_ask_cancels_the_task(daemon: Daemon) -> None:
    daemon.wait_for_replica(slots_busy=0)
    with subprocess.Popen(
        [*_command(daemon), "--max-tokens", "1000", "Count: 1 2 3 4"],
        env=daemon.environ,
        stdout=subprocess.PIPE,
    ) as asking:
        assert asking.stdout is not None
        assert asking.stdout.read(1)
        asking.send_signal(signal.SIGINT)
        assert asking.wait(30) == 130
    daemon.wait_for_replica(slots_busy=0)


def test_a_reader_of_ask_that_is_gone_cancels_the_task(daemon: Daemon) -> None:
    daemon.wait_for_replica(slots_busy=0)
    with subprocess.Popen(
        [*_command(daemon), "--max-tokens", "1000", "Count: 1 2 3 4"],
        env=daemon.environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as asking:
        assert asking.stdout is not None and asking.stderr is not None
        assert asking.stdout.read(1)
        asking.stdout.close()
        assert asking.wait(30) == 1
        assert asking.stderr.read() == b""
    daemon.wait_for_replica(slots_busy=0)


def test_ask_with_another_token_says_whose_it_is(daemon: Daemon) -> None:
    environ = {**daemon.environ, "ORCHD_API_TOKEN": "another"}
    asked = subprocess.run(
        [*_command(daemon), GREETING], env=environ, capture_output=True, text=True, timeout=60
    )
    assert asked.returncode == 1
    assert "does not take the token of ORCHD_API_TOKEN;" in asked.stderr
    assert asked.stderr.count("\n") == 1


def test_sigterm_ends_well_and_leaves_no_process_behind(own_daemon: Daemon) -> None:
    engine_pid = own_daemon.wait_for_replica(state="ready")["pid"]
    running = own_daemon.submit(prompt="Once", max_tokens=16, temperature=0)
    with own_daemon.events(running) as events:
        assert next(events).event == "started"
        assert own_daemon.stop() == 0
        assert [event.event for event in events][-1] == "end"
    assert not Path(f"/proc/{engine_pid}").exists()
    assert _members_of_session(engine_pid) == []
    assert TOKEN not in own_daemon.log.read_text()


def test_a_killed_daemon_leaves_no_engine_alive(own_daemon: Daemon) -> None:
    engine_pid = own_daemon.wait_for_replica(state="ready")["pid"]
    watch = os.pidfd_open(engine_pid)
    own_daemon.process.kill()
    own_daemon.process.wait()
    assert select.select([watch], [], [], 30)[0], "the engine outlived its daemon"
    os.close(watch)
    assert _members_of_session(engine_pid) == []


def test_a_killed_engine_comes_back_and_its_task_is_told(own_daemon: Daemon) -> None:
    first = own_daemon.wait_for_replica(state="ready")
    task_id = own_daemon.submit(prompt="Count: 1 2 3 4", max_tokens=1000, temperature=0)
    with own_daemon.events(task_id) as events:
        assert [next(events).event, next(events).event] == ["started", "token"]
        os.kill(first["pid"], signal.SIGKILL)
        last = list(events)[-1]
    assert (last.event, "WORKER_RESET" in last.data) == ("error", True)
    again = own_daemon.wait_for_replica(state="ready", restarts=1)
    assert again["pid"] != first["pid"]
    assert own_daemon.run(prompt=GREETING, max_tokens=4).names[-1] == "end"


def _command(daemon: Daemon) -> list[str]:
    return [sys.executable, "-m", "orchd", "ask", "--config", str(daemon.config)]


def _ask(daemon: Daemon, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*_command(daemon), *words],
        env=daemon.environ,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
    )


def _members_of_session(session: int) -> list[str]:
    """Processes whose session that is, zombies left out (proc_pid_stat(5), fields 3 and 6)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[3] == str(session) and fields[0] != "Z":
            found.append(stat.parent.name)
    return found
