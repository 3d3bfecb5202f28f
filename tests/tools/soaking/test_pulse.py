"""The pulse sees a blocked event loop, and does not take a busy machine for one."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from soaking.pulse import Beat, Pulse

from tests.tools.soaking import stalling_server
from tests.tools.soaking.stalling_server import STALL_S, TOKEN

TIMEOUT_S = 60.0
STALLS = ("answer", "answer", "sleep", "answer", "answer", "burn", "answer")
TOOLS = Path(__file__).parents[3] / "tools"


@dataclass
class Server:
    """A stalling server's process."""

    process: subprocess.Popen[str]
    port: int

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self, count: int) -> list[str]:
        """The words of so many requests."""
        assert self.process.stdout is not None
        return [self.process.stdout.readline().strip() for _ in range(count)]


@contextlib.contextmanager
def run_server(*words: str) -> Iterator[Server]:
    command = [sys.executable, "-I", "-S", stalling_server.__file__, *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Server(process, int(process.stdout.readline()))
        finally:
            process.kill()


@contextlib.contextmanager
def on_one_processor() -> Iterator[None]:
    """What is started meanwhile shares one with all the rest that is."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@contextlib.contextmanager
def run_hogs(count: int) -> Iterator[None]:
    with contextlib.ExitStack() as hogs:
        for _ in range(count):
            hog = subprocess.Popen([sys.executable, "-I", "-S", "-c", "while True: pass"])
            hogs.callback(hog.wait)
            hogs.callback(hog.kill)
        yield


def wait_for(pulse: Pulse, count: int) -> list[Beat]:
    deadline_s = time.monotonic() + TIMEOUT_S
    while len(beats := pulse.read()) < count:
        assert time.monotonic() < deadline_s, f"only {len(beats)} beats"
        time.sleep(0.02)
    return beats[:count]


def take(folder: Path, count: int, *words: str, timeout_s: float = TIMEOUT_S) -> list[Beat]:
    """So many beats of a server that does so."""
    with (
        run_server(*words) as server,
        Pulse(server.port, TOKEN, server.pid, folder / "beats", 0.01, timeout_s) as pulse,
    ):
        return wait_for(pulse, count)


def test_beats_show_a_blocked_loop_and_no_other(tmp_path: Path) -> None:
    beats = take(tmp_path, 28, *STALLS)
    assert [beat.failed for beat in beats] == [None] * 28
    assert all(beat.own_s <= beat.took_s for beat in beats)
    stalled = [beat.own_s for n, beat in enumerate(beats) if STALLS[n % 7] != "answer"]
    quick = [beat.own_s for n, beat in enumerate(beats) if STALLS[n % 7] == "answer"]
    assert min(stalled) > STALL_S / 2
    assert statistics.median(quick) < min(stalled) / 2


def test_what_a_busy_machine_took_is_not_the_daemons(tmp_path: Path) -> None:
    words = ("answer", "burn")
    with on_one_processor(), run_hogs(2):
        beats = take(tmp_path, 8, *words)
    burnt = [beat for n, beat in enumerate(beats) if words[n % 2] == "burn"]
    # Of three that want the processor the server had about a third.
    assert all(beat.took_s > STALL_S * 1.5 for beat in burnt)
    assert all(STALL_S / 2 < beat.own_s < beat.took_s * 0.75 for beat in burnt)
    assert sum(beat.own_s for beat in beats) < sum(beat.took_s for beat in beats) * 0.75


def test_without_the_kernels_word_nothing_is_taken_off(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    with (
        run_server(*STALLS) as server,
        Pulse(server.port, TOKEN, ended.pid, tmp_path / "beats", 0.01) as pulse,
    ):
        beats = wait_for(pulse, 7)
    assert all(beat.own_s == beat.took_s for beat in beats)


def test_times_are_of_the_clock_that_all_share_and_keep_their_pace(tmp_path: Path) -> None:
    began_s = time.monotonic()
    with (
        run_server("answer") as server,
        Pulse(server.port, TOKEN, server.pid, tmp_path / "beats", every_s=0.05) as pulse,
    ):
        beats = wait_for(pulse, 10)
    times_s = [began_s, *(beat.at_s for beat in beats), time.monotonic()]
    assert times_s == sorted(times_s)
    # The first may have been late, and those after it are not for that.
    assert beats[-1].at_s - beats[0].at_s > 0.05 * 9 / 2


def test_one_connection_is_kept_and_made_anew_where_it_was_closed(tmp_path: Path) -> None:
    words = ("answer", "pieces", "close", "503", "answer", "cut", "answer")
    with (
        run_server(*words) as server,
        Pulse(server.port, TOKEN, server.pid, tmp_path / "beats", 0.01) as pulse,
    ):
        beats = wait_for(pulse, 12)
        heard = server.hear(12)
    assert heard == [*words, *words][:12]
    # What was cut was asked again at once, over a new connection.
    assert [beat.failed for beat in beats] == [None] * 12


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("cut", "closed without an answer"),
        ("tear", "closed in the middle"),
        ("401", "answered 401"),
        ("500", "answered 500"),
    ],
)
def test_a_probe_without_a_proper_answer_failed(tmp_path: Path, word: str, told: str) -> None:
    first, second = take(tmp_path, 2, word)
    assert told in (first.failed or "")
    assert told in (second.failed or "")


def test_a_probe_without_an_answer_in_time_took_all_of_it(tmp_path: Path) -> None:
    beats = take(tmp_path, 3, "answer", "hang", timeout_s=0.5)
    assert [beat.failed for beat in beats] == [None, "no answer within 0.5 s", None]
    assert beats[1].took_s == 0.5
    assert beats[2].at_s >= beats[1].at_s + 0.5


def test_a_server_that_is_gone_is_told(tmp_path: Path) -> None:
    with run_server("answer") as server:
        port = server.port
    with Pulse(port, TOKEN, server.pid, tmp_path / "beats", 0.01) as pulse:
        assert "refused" in (wait_for(pulse, 1)[0].failed or "")


def test_a_wrong_token_is_no_pulse_and_no_token_is_told(tmp_path: Path) -> None:
    with (
        run_server("answer") as server,
        Pulse(server.port, "wrong", server.pid, tmp_path / "beats", 0.01) as pulse,
    ):
        assert wait_for(pulse, 1)[0].failed == "answered 401"
        assert b"wrong" not in Path(f"/proc/{pulse.pid}/cmdline").read_bytes()


def test_its_process_ends_with_the_block_whatever_happens(tmp_path: Path) -> None:
    with (
        run_server("hang") as server,
        pytest.raises(KeyboardInterrupt),
        Pulse(server.port, TOKEN, server.pid, tmp_path / "beats") as pulse,
    ):
        server.hear(1)  # it is waiting for its answer
        raise KeyboardInterrupt
    assert not Path(f"/proc/{pulse.pid}").exists()
    assert pulse.read() == []


def test_a_pulse_that_stopped_by_itself_is_not_read(tmp_path: Path) -> None:
    with (
        run_server("answer") as server,
        Pulse(server.port, TOKEN, server.pid, tmp_path / "beats", 0.01) as pulse,
    ):
        wait_for(pulse, 1)
        handle = os.pidfd_open(pulse.pid)
        os.kill(pulse.pid, signal.SIGKILL)
        assert select.select([handle], [], [], TIMEOUT_S)[0]
        os.close(handle)
        for _ in range(2):
            with pytest.raises(AssertionError, match="ended by itself"):
                pulse.read()
    with pytest.raises(AssertionError, match="ended by itself"):
        pulse.read()


def test_its_process_ends_with_its_starter(tmp_path: Path) -> None:
    with run_server("answer") as server:
        starter = (
            "import os, sys; from pathlib import Path; from soaking.pulse import Pulse\n"
            f"with Pulse({server.port}, '', {server.pid}, Path(sys.argv[1]), 0.01) as pulse:\n"
            "    print(pulse.pid, flush=True); sys.stdin.read()"
        )
        with subprocess.Popen(
            [sys.executable, "-c", starter, str(tmp_path / "beats")],
            env={**os.environ, "PYTHONPATH": str(TOOLS)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            handle = os.pidfd_open(int(process.stdout.readline()))
            process.kill()
        assert select.select([handle], [], [], TIMEOUT_S)[0]
        os.close(handle)
