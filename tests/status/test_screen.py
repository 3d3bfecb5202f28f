"""Where the table is shown: once, again and again, in a terminal, in a file."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from orchd.errors import HostError, OrchdError
from orchd.status.screen import Screen, show_json, show_once, watch
from tests.fakes.canned import answering, reply
from tests.fakes.daemon import TIMEOUT_S, environment
from tests.fakes.terminal import Terminal, in_terminal
from tests.status.health import health, pool, replica

IDLE = health(pool(replica()))
NOBODY = HostError("no daemon answers on a:1\x1b; orchd serve starts one")


def busy(tokens: int) -> dict[str, Any]:
    return health(pool(replica(slots_busy=1), tokens={"chat-0": tokens}))


class Script:
    """Answers one after another, and what time it is; Ctrl-C comes behind the last."""

    def __init__(self, *answers: dict[str, Any] | OrchdError) -> None:
        self._answers: list[dict[str, Any] | OrchdError] = list(answers)
        self.time_s = 0.0

    def ask(self) -> dict[str, Any]:
        answer = self._answers.pop(0)
        if isinstance(answer, OrchdError):
            raise answer
        return answer

    def sleep(self, span_s: float) -> None:
        self.time_s += span_s
        if not self._answers:
            raise KeyboardInterrupt

    def screen(self, out: io.StringIO, **environ: str) -> Screen:
        return Screen(out, environ, lambda: self.time_s, self.sleep)


def watch_all(out: io.StringIO, script: Script, **environ: str) -> str:
    with pytest.raises(KeyboardInterrupt):
        watch(script.ask, "a:1", script.screen(out, **environ), 2.0)
    return out.getvalue()


# -- once --------------------------------------------------------------------------------------


def test_an_idle_daemon_is_looked_at_once() -> None:
    out, script = io.StringIO(), Script(IDLE)
    assert show_once(script.ask, "a:1", script.screen(out)) is True
    assert "ok, 0.0 tokens/s" in out.getvalue()
    assert script.time_s == 0


def test_a_busy_one_twice_for_how_fast_it_is() -> None:
    out, script = io.StringIO(), Script(busy(100), busy(150), IDLE)
    show_once(script.ask, "a:1", script.screen(out))
    assert "ok, 50.0 tokens/s" in out.getvalue()


@pytest.mark.parametrize(("status", "can_serve"), [("degraded", True), ("starting", False)])
def test_whether_it_can_serve(status: str, can_serve: bool) -> None:
    out, script = io.StringIO(), Script(health(status=status), health(status=status))
    assert show_once(script.ask, "a:1", script.screen(out)) is can_serve
    assert show_json(script.ask, out) is can_serve


def test_json_is_health_as_it_is() -> None:
    out = io.StringIO()
    show_json(Script(IDLE | {"further": [1]}).ask, out)
    assert json.loads(out.getvalue()) == IDLE | {"further": [1]}


@pytest.mark.parametrize(
    ("environ", "has_color"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "NO_COLOR": ""}, True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_which_terminal_gets_color(environ: dict[str, str], has_color: bool) -> None:
    terminal, script = Terminal(), Script(IDLE)
    show_once(script.ask, "a:1", script.screen(terminal, **environ))
    assert ("\x1b[" in terminal.getvalue()) is has_color


def test_what_is_no_terminal_gets_none_and_whole_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    out, script = io.StringIO(), Script(IDLE)
    show_once(script.ask, "a:1", script.screen(out, TERM="xterm"))
    assert out.getvalue().isascii() and "\x1b" not in out.getvalue()
    assert "\nGPU 0   NVIDIA GeForce RTX 3090  6.0 of 24.0 GiB   97%\n" in out.getvalue()


@pytest.mark.parametrize(("encoding", "bar"), [("utf-8", "█"), ("ascii", "#"), ("no-such", "#")])
def test_a_terminal_gets_the_bars_that_it_can_show(
    encoding: str, bar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    terminal, script = Terminal(), Script(IDLE)
    terminal.encoding = encoding
    show_once(script.ask, "a:1", script.screen(terminal, TERM="xterm"))
    assert bar in terminal.getvalue()


# -- again and again ---------------------------------------------------------------------------


def test_it_is_shown_over_what_was_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "40")
    shown = watch_all(Terminal(), Script(busy(0), busy(100)), TERM="xterm", NO_COLOR="1")
    first, second = shown.split("\x1b[H")[1:]
    assert ": ok\x1b[K\n" in first, "one look knows of no speed"
    assert ": ok, 50.0 tokens/s\x1b[K\n" in second
    for frame in (first, second):
        assert frame.endswith("every 2 s, Ctrl-C ends it\x1b[J")
        assert frame.count("\n") < 40
    assert "\x1b[?" not in shown, "nothing that would have to be put back"


def test_a_screen_that_is_too_low_is_not_scrolled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("LINES", "6")
    shown = watch_all(Terminal(), Script(IDLE), TERM="xterm")
    assert shown.count("\n") < 6
    assert "more lines" in shown


@pytest.mark.parametrize("environ", [{"TERM": "xterm"}, {}])
def test_a_daemon_that_is_not_there_is_waited_for(environ: dict[str, str]) -> None:
    shown = watch_all(Terminal(), Script(busy(9), NOBODY, busy(9), busy(11)), **environ)
    assert "no answer, waiting for one" in shown
    assert "no daemon answers on a:1\\x1b;" in shown
    # Another daemon perhaps: its counts are not compared with those of the one before.
    assert shown.count("tokens/s") == 1 and "1.0 tokens/s" in shown


def test_a_file_gets_one_table_behind_another() -> None:
    shown = watch_all(io.StringIO(), Script(IDLE, IDLE), TERM="xterm")
    assert shown.count("orchd 0.1.0 on a:1: ok") == 2
    assert "\x1b" not in shown


# -- the real command --------------------------------------------------------------------------


def run_status(folder: Path, listen: object, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-m",
            "orchd",
            "status",
            "--config",
            str(configure(folder, listen)),
            *words,
        ],
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
    )


def configure(folder: Path, listen: object) -> Path:
    config = folder / "orchd.toml"
    pool_of_it = '[[pools]]\nid = "chat"\nengine = "llamacpp"\nmodel = "m.gguf"\n'
    config.write_text(f'[server]\nlisten = "{listen}"\n{pool_of_it}')
    return config


@pytest.mark.parametrize(
    ("status", "words", "code"),
    [
        ("ok", (), 0),
        ("degraded", ("--json",), 0),
        ("starting", (), 1),
        ("unavailable", ("--json",), 1),
    ],
)
def test_the_exit_code_says_whether_it_can_serve(
    tmp_path: Path, status: str, words: Sequence[str], code: int
) -> None:
    answer = reply(200 if code == 0 else 503, json.dumps(IDLE | {"status": status}))
    with answering([answer]) as canned:
        done = run_status(tmp_path, canned.listen, *words)
    assert (done.returncode, done.stderr) == (code, "")
    assert status in done.stdout


def test_nobody_there_is_one_clear_line(tmp_path: Path) -> None:
    done = run_status(tmp_path, f"unix:{tmp_path}/none")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert done.stderr.startswith(f"orchd: no daemon answers on unix:{tmp_path}/none (")


def test_ctrl_c_ends_the_watch_well(tmp_path: Path) -> None:
    with answering([reply(200, json.dumps(IDLE))]) as canned:
        words = ["status", "--watch", "3600", "--config", str(configure(tmp_path, canned.listen))]
        with in_terminal(words, environment(tmp_path, TERM="xterm")) as watching:
            watching.await_text("Ctrl-C ends it")
            assert watching.press_ctrl_c() == 0, watching.shown
            assert "Traceback" not in watching.shown
            assert watching.shown.endswith("\n")
