"""The README as a new user tries it: a copy of the sources, a home of its own, nothing else.

Every line of every ``sh`` block is run as it stands, in one terminal from the top to the end, with
its daemon on the real engine and model. What cannot be is in ``INSTEAD``, with the reason. Nothing
is fetched: pip finds what this environment is made of.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from shutil import copytree, ignore_patterns, which

import pytest

from tests.readme import HOME, MODELS, PORT, ROOT, Block, read_blocks

BLOCKS = read_blocks()
PROMPT = "Once upon a time"
TIMEOUT_S = 300.0
FETCHED = ("uvloop", "h11", "orjson", "nvidia-ml-py", "flit_core")
"""What ``pip install .`` would fetch."""

pytestmark = pytest.mark.skipif(not which("curl"), reason="curl is not installed")


@dataclass(frozen=True, slots=True)
class Instead:
    """What is done about a line that cannot be run here as it stands."""

    why: str
    run: str = ":"
    shown_by: tuple[str, ...] = ()
    """Tests of their own that it has."""


NEEDS_ROOT = "needs root, and a systemd that runs"
INSTEAD = {
    "./tools/quickstart": Instead(
        "installs over the network, and stays in the foreground",
        run="./tools/quickstart --help",
        shown_by=(
            "tests/tools/test_quickstart.py",
            "tests/tools/test_venv.py",
            "tests/tools/test_demo_model.py",
        ),
    ),
    "./tools/test": Instead("is what runs this test"),
    "orchd serve": Instead(
        "stays in the foreground",
        run="orchd serve 2>../serve.log & daemon=$!\n"
        "until orchd status >/dev/null 2>&1; do kill -0 $daemon; sleep 0.2; done",
    ),
    "sudo ./tools/install": Instead(
        NEEDS_ROOT, run="./tools/install --dry-run", shown_by=("tests/tools/test_install.py",)
    ),
    "sudoedit /etc/orchd/orchd.toml": Instead(NEEDS_ROOT),
    "sudo systemctl enable --now orchd": Instead(NEEDS_ROOT, shown_by=("tests/test_unit.py",)),
    'sudo usermod -aG orchd "$USER"': Instead(NEEDS_ROOT),
    "systemctl status orchd": Instead(NEEDS_ROOT, shown_by=("tests/test_daemon_systemd.py",)),
    "journalctl -u orchd": Instead(NEEDS_ROOT, shown_by=("tests/test_daemon_logs.py",)),
}
"""By the line without its comment. None needs a GPU: the pool's devices are the CPU here."""


def command_of(line: str) -> str:
    return re.sub(r"\s{2,}#.*", "", line).strip()


# -- a new user's machine ----------------------------------------------------------------------


def pack_wheel(name: str, folder: Path) -> None:
    """Make a wheel of what is installed, for a pip that is to fetch nothing."""
    there = importlib.metadata.distribution(name)
    (tag, *_) = re.findall(r"^Tag: (\S+)", there.read_text("WHEEL") or "", re.MULTILINE)
    own = {"INSTALLER", "REQUESTED", "direct_url.json"}
    stem = f"{name.replace('-', '_')}-{there.version}"
    with zipfile.ZipFile(folder / f"{stem}-{tag}.whl", "w") as wheel:
        for file in there.files or ():
            if ".." not in file.parts and file.suffix != ".pyc" and file.name not in own:
                wheel.write(str(file.locate()), str(file))


def find_free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def write_program(path: Path, *command: str) -> None:
    path.write_text(f'#!/bin/sh\nexec {shlex.join(command)} "$@"\n')
    path.chmod(0o755)


@dataclass(frozen=True, slots=True)
class Machine:
    """Its home is ``folder/home``; the sources lie in ``folder/source``."""

    folder: Path
    port: int

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def environ(self) -> dict[str, str]:
        wheels = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.folder / "wheels")}
        return {
            "HOME": str(self.home),
            "PATH": f"{self.folder / 'bin'}:/usr/bin:/bin",
            "LANG": os.environ.get("LANG", "C.UTF-8"),
            **wheels,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
        }

    def adapt(self, text: str) -> str:
        """The text, for this machine's port and places."""
        text = text.replace(PORT, str(self.port)).replace(MODELS, f'"{self.folder}/models/')
        return text.replace(HOME, str(self.home))


def make_machine(folder: Path, model: Path) -> Machine:
    machine = Machine(folder, find_free_port())
    for name in ("home", "bin", "models", "wheels"):
        (folder / name).mkdir()
    for name in FETCHED:
        pack_wheel(name, folder / "wheels")
    minor = f"python3.{sys.version_info.minor}"
    write_program(folder / "bin/python3", str(Path(sys.base_prefix, "bin", minor)))
    # The vendor's llama-server needs a GPU to be worth its build; this one is of the same sources.
    embedded = str(ROOT / "orchd/engines/embedded_llamacpp.py")
    write_program(folder / "bin/llama-server", sys.executable, "-P", embedded)
    copytree(
        ROOT,
        folder / "source",
        ignore=ignore_patterns(".*", "__pycache__", "tests"),
    )
    named = {name for block in BLOCKS for name in re.findall(f'{MODELS}([^"…]+)', block.text)}
    for name in named:
        (folder / "models" / name).symlink_to(model)
    config = machine.home / ".config/orchd/orchd.toml"
    config.parent.mkdir(parents=True)
    least = next(block for block in BLOCKS if block.language == "toml")
    pool = 'devices = ["cpu"]\nctx = 1024\nenv = { OMP_WAIT_POLICY = "passive" }\n'
    server = f'[server]\nlisten = "127.0.0.1:{PORT}"\n'
    config.write_text(machine.adapt(server + least.text + pool))
    return machine


# -- its terminal --------------------------------------------------------------------------------


def script_of(block: Block, machine: Machine) -> str:
    """What is typed into the terminal for a block."""
    if block.is_program:
        suffix, program = ("py", "python3") if block.language == "python" else ("sh", "sh")
        name = f"ask.{suffix}"
        (machine.folder / "source" / name).write_text(machine.adapt(block.text))
        return f"{program} {name} {shlex.quote(PROMPT)}\n"
    lines = block.text.splitlines()
    typed = [INSTEAD[c].run if (c := command_of(line)) in INSTEAD else line for line in lines]
    return machine.adapt("\n".join(typed) + "\n")


@dataclass(frozen=True, slots=True)
class Session:
    """What came of all of it; a block that was not finished has no answer."""

    machine: Machine
    code: int
    answers: dict[int, str]
    complaints: dict[int, str]

    @property
    def log(self) -> str:
        return (self.machine.folder / "serve.log").read_text()


def run_blocks(machine: Machine, blocks: list[Block]) -> Session:
    """Type all of them, and end what was started."""
    out = machine.folder / "out"
    out.mkdir()
    steps = [
        f"{{\n{script_of(block, machine)}}} >{out}/{block.number} 2>{out}/{block.number}.err\n"
        f"touch {out}/{block.number}.done\n"
        for block in blocks
    ]
    script = "".join(["set -euo pipefail\n", *steps, "kill $daemon\nwait $daemon\n"])
    # A file, and not -c: what it starts must not find the script on its stdin either.
    typed = machine.folder / "typed"
    typed.write_text(script)
    process = subprocess.Popen(
        ["bash", str(typed)],
        cwd=machine.folder / "source",
        env=machine.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        process.wait(TIMEOUT_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        code = process.wait()
    done = [block.number for block in blocks if (out / f"{block.number}.done").exists()]
    return Session(
        machine,
        code,
        {number: (out / str(number)).read_text() for number in done},
        {n.number: p.read_text() for n in blocks if (p := out / f"{n.number}.err").exists()},
    )


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory, demo_model: Path) -> Session:
    machine = make_machine(tmp_path_factory.mktemp("reader"), demo_model)
    return run_blocks(machine, of("sh", "python"))


# -- what is asked of it -------------------------------------------------------------------------


def test_what_is_not_run_is_in_the_readme_and_shown_elsewhere() -> None:
    lines = {command_of(line) for block in of("sh") for line in block.text.splitlines()}
    for line, instead in INSTEAD.items():
        assert line in lines, line
        assert instead.why
        for path in instead.shown_by:
            assert (ROOT / path).is_file(), path
    assert not [line for line in lines - INSTEAD.keys() if "sudo" in line]


@pytest.mark.parametrize("block", of("sh", "python"), ids=str)
def test_a_block_works(session: Session, block: Block) -> None:
    assert block.number in session.answers, session.complaints


def test_the_daemon_ended_well(session: Session) -> None:
    assert session.code == 0, session.log
    assert "Traceback" not in session.log and "ERROR" not in session.log


def answer_before(session: Session, block: Block) -> str:
    """What the commands before a shown answer said."""
    return session.answers[max(n for n in session.answers if n < block.number)]


@pytest.mark.parametrize("block", of("json"), ids=str)
def test_an_answer_is_as_shown(session: Session, block: Block) -> None:
    shown = json.loads(block.text)
    told = json.loads(answer_before(session, block).splitlines()[-1])
    assert list(told) == list(shown)
    assert {key: type(value) for key, value in told.items()} == {
        key: type(value) for key, value in shown.items()
    }


def read_shape(stream: str) -> list[tuple[str, tuple[str, ...]]]:
    """Each event's name and its data's keys; the same again is told once."""
    found = re.findall(r"^event: (\w+)\ndata: (\{.*\})$", stream, re.MULTILINE)
    shapes = [(name, tuple(json.loads(data))) for name, data in found]
    return [shape for n, shape in enumerate(shapes) if n == 0 or shape != shapes[n - 1]]


@pytest.mark.parametrize("block", of("text"), ids=str)
def test_a_stream_is_as_shown(session: Session, block: Block) -> None:
    shown = read_shape(block.text)
    assert [name for name, _ in shown] == ["started", "token", "end"]
    assert read_shape(answer_before(session, block)) == shown


PROGRAMS = [block for block in BLOCKS if block.is_program]


def test_the_programs_are_as_short_as_promised(session: Session) -> None:
    promised = {"python": 15, "sh": 10}
    assert {block.language for block in PROGRAMS} == promised.keys()
    for block in PROGRAMS:
        lines = [line for line in block.text.splitlines() if line]
        assert len(lines) <= promised[block.language]
        assert session.answers[block.number].strip()


TEXTS = ['It\'s "so",', " a\\b", "\n", "naïve 東京", "\ttab"]


class FullFirst(BaseHTTPRequestHandler):
    """A daemon whose queue is full at first."""

    is_full = True
    last: tuple[str, object] = ("end", {"tokens_in": 1, "tokens_out": 5})

    def do_POST(self) -> None:
        task = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert task["prompt"] == 'Say "\\"'
        assert self.headers["Authorization"] == "Bearer a-token"
        if type(self).is_full:
            type(self).is_full = False
            self.reply(429, b"", ("Retry-After", "1"))
        else:
            self.reply(202, b'{"task_id":"7","backoff_ms":0}', ("Location", "/v1/tasks/7/stream"))

    def do_GET(self) -> None:
        assert self.path == "/v1/tasks/7/stream"
        events = [("started", {"queue_position": 0})]
        told = [*events, *[("token", {"t": t, "i": i}) for i, t in enumerate(TEXTS)], self.last]
        frames = []
        for number, (name, data) in enumerate(told):
            text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
            frames.append(f": waiting\n\nid: {number}\nevent: {name}\ndata: {text}\n\n")
        self.reply(200, "".join(frames).encode())

    def reply(self, status: int, body: bytes, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in (*headers, ("Content-Length", str(len(body)))):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler: type[FullFirst]) -> Iterator[int]:
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("block", PROGRAMS, ids=str)
@pytest.mark.parametrize("ends_well", [True, False])
def test_a_program_waits_where_the_queue_is_full_and_tells_an_error(
    block: Block, ends_well: bool, tmp_path: Path
) -> None:
    class Handler(FullFirst):
        is_full = ends_well
        if not ends_well:
            last = ("error", {"code": "WORKER_RESET", "message": "it died", "engine": None})

    token = tmp_path / ".local/state/orchd/token"
    token.parent.mkdir(parents=True)
    token.write_text("a-token\n")
    with serving(Handler) as port:
        program = tmp_path / "program"
        program.write_text(block.text.replace(PORT, str(port)))
        runner = sys.executable if block.language == "python" else "sh"
        done = subprocess.run(
            [runner, str(program), 'Say "\\"'],
            env={"HOME": str(tmp_path), "PATH": os.environ["PATH"], "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "".join(TEXTS) + ("" if ends_well else "it died")
    assert not Handler.is_full
