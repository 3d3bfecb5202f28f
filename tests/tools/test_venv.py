"""tools/venv.sh against a python that only pretends: when it installs, what it says, what it keeps.

The pretender logs every call of pip and makes a .venv with a copy of itself, so that nothing is
downloaded and a call costs milliseconds.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

VENV_SH = Path(__file__).resolve().parents[2] / "tools" / "venv.sh"

# All that venv.sh and the pretender may call.
PROGRAMS = (
    *("bash", "cat", "cp", "dirname", "flock", "mkdir", "paste", "rm"),
    *("sha256sum", "sort", "tr"),
)

PRETENDER = """\
#!/bin/bash
here=$(dirname "$0")
case "$*" in
*"import venv, ensurepip"*) [[ ! -e $FAKE/lacks-ensurepip ]] ;;
"-c import sys; sys.version_info"*)
    [[ -e $FAKE/is-old ]] && exit 1
    cat "$FAKE/version" ;;
"-m venv "*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" && echo "venv" >>"$FAKE/calls" ;;
"-m pip --version") [[ ! -e $here/pip-is-broken ]] ;;
"-m pip download --help") cat "$FAKE/help" ;;
"-m pip install --upgrade pip"*)
    # As Ctrl-C in a terminal: it reaches the whole group, and pip makes an ordinary failure of it.
    if [[ -e $FAKE/interrupts ]]; then trap '' INT; kill -INT 0; exit 1; fi
    [[ ! -e $FAKE/offline ]] ;;
"-m pip install "*)
    echo "$*" >>"$FAKE/calls"
    [[ ! -e $FAKE/offline ]] ;;
*) echo "unexpected: $*" >&2; exit 9 ;;
esac
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """A repository to prepare, and the folder that steers the pretender."""

    root: Path
    fake: Path

    def prepare(self, extras: str) -> subprocess.CompletedProcess[str]:
        return self.run(f'source "{VENV_SH}"; prepare_venv "$PWD" {extras}; echo prepared')

    def run(self, script: str, **environ: str) -> subprocess.CompletedProcess[str]:
        path = {"PATH": f"{self.fake / 'bin'}", "FAKE": str(self.fake)}
        return subprocess.run(
            ["/bin/bash", "-euo", "pipefail", "-c", script],
            env={**path, **environ},
            cwd=self.root,
            capture_output=True,
            text=True,
            check=False,
            # A signal to the group is for the script alone.
            start_new_session=True,
        )

    def take_calls(self) -> list[str]:
        """What was called since the last time."""
        calls = self.fake / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return lines


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    root, fake = tmp_path / "a repository", tmp_path / "fake"
    root.mkdir()
    (root / "pyproject.toml").write_text("[project]\n")
    (fake / "bin").mkdir(parents=True)
    for program in PROGRAMS:
        found = shutil.which(program)
        assert found is not None, program
        (fake / "bin" / program).symlink_to(found)
    (fake / "version").write_text("3.12.1\n")
    (fake / "help").write_text("no such option\n")
    add_python(fake, "python3")
    return Stage(root, fake)


def add_python(fake: Path, name: str) -> None:
    (fake / "bin" / name).write_text(PRETENDER)
    (fake / "bin" / name).chmod(0o755)


def install_call(stage: Stage, extras: str) -> str:
    return f"-m pip install --editable {stage.root}[{extras}] --quiet"


def test_the_first_call_installs_and_the_second_does_nothing(stage: Stage) -> None:
    first = stage.prepare("llamacpp")
    assert (first.returncode, first.stdout) == (0, "prepared\n"), first.stderr
    assert stage.take_calls() == ["venv", install_call(stage, "llamacpp")]
    second = stage.prepare("llamacpp")
    assert (second.stdout, second.stderr) == ("prepared\n", "")
    assert stage.take_calls() == []


def test_sets_of_extras_do_not_undo_each_other(stage: Stage) -> None:
    stage.prepare("llamacpp")
    stage.prepare("test,llamacpp")
    assert stage.take_calls() == [
        *("venv", install_call(stage, "llamacpp")),
        install_call(stage, "llamacpp,test"),
    ]
    for extras in ("llamacpp", "llamacpp,test", "test,llamacpp"):
        stage.prepare(extras)
    assert stage.take_calls() == []


def test_a_larger_set_serves_for_a_smaller_one(stage: Stage) -> None:
    stage.prepare("llamacpp,test")
    stage.take_calls()
    stage.prepare("llamacpp")
    assert stage.take_calls() == []
    stage.prepare("llama")
    assert stage.take_calls() == [install_call(stage, "llama")]


def test_a_changed_pyproject_installs_again_into_the_same_venv(stage: Stage) -> None:
    stage.prepare("llamacpp")
    stage.take_calls()
    (stage.root / "pyproject.toml").write_text("[project]\nversion = '2'\n")
    stage.prepare("llamacpp")
    assert stage.take_calls() == [install_call(stage, "llamacpp")]


def test_an_interrupted_install_is_taken_up_again(stage: Stage) -> None:
    (stage.fake / "offline").touch()
    failed = stage.prepare("llamacpp")
    assert failed.returncode != 0
    assert failed.stdout == ""
    (stage.fake / "offline").unlink()
    stage.take_calls()
    assert stage.prepare("llamacpp").returncode == 0
    assert stage.take_calls() == [install_call(stage, "llamacpp")]


def test_ctrl_c_while_pip_runs_ends_it_there(stage: Stage) -> None:
    (stage.fake / "interrupts").touch()
    interrupted = stage.prepare("llamacpp")
    assert (interrupted.returncode, interrupted.stdout) == (130, "")
    assert stage.take_calls() == ["venv"]
    (stage.fake / "interrupts").unlink()
    assert stage.prepare("llamacpp").returncode == 0


@pytest.mark.parametrize("damage", ["python is gone", "python moved on", "pip is broken"])
def test_a_broken_venv_is_made_anew(stage: Stage, damage: str) -> None:
    stage.prepare("llamacpp")
    stage.take_calls()
    bin_dir = stage.root / ".venv" / "bin"
    if damage == "python is gone":
        (bin_dir / "python").unlink()
        (bin_dir / "python").symlink_to("/nonexistent/python3")
    else:
        (bin_dir / "pip-is-broken").touch()
        (stage.fake / "version").write_text("3.13.0\n")
    assert stage.prepare("llamacpp").returncode == 0
    assert stage.take_calls() == ["venv", install_call(stage, "llamacpp")]


def test_resume_is_used_where_pip_offers_it(stage: Stage) -> None:
    (stage.fake / "help").write_text("  --resume-retries <n>\n" + "more\n" * 100_000)
    stage.prepare("llamacpp")
    assert "--resume-retries 10 " in stage.take_calls()[-1]


def test_without_any_python_the_message_says_so(stage: Stage) -> None:
    (stage.fake / "is-old").touch()
    done = stage.prepare("llamacpp")
    assert (done.returncode, done.stdout) == (1, "")
    assert "No Python >= 3.11 found" in done.stderr


def test_without_ensurepip_the_message_names_the_package(stage: Stage) -> None:
    (stage.fake / "lacks-ensurepip").touch()
    done = stage.prepare("llamacpp")
    assert (done.returncode, done.stdout) == (1, "")
    assert "sudo apt install python3-venv" in done.stderr
    assert not (stage.root / ".venv").exists()


def test_a_python_with_a_version_in_its_name_will_do(stage: Stage) -> None:
    (stage.fake / "bin" / "python3").unlink()
    add_python(stage.fake, "python3.12")
    assert stage.prepare("llamacpp").returncode == 0


def test_the_named_python_wins_and_is_not_passed_over(stage: Stage) -> None:
    add_python(stage.fake, "other")
    find = f'source "{VENV_SH}"; venv_find_python'
    found = stage.run(find, PYTHON="other")
    assert found.stdout == f"{stage.fake / 'bin' / 'other'}\n"
    refused = stage.run(find, PYTHON="/nonexistent")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "PYTHON=/nonexistent is not" in refused.stderr


def test_two_at_once_install_once(stage: Stage) -> None:
    script = f'source "{VENV_SH}"; prepare_venv "$PWD" a & prepare_venv "$PWD" a & wait'
    assert stage.run(script).returncode == 0
    assert stage.take_calls() == ["venv", install_call(stage, "a")]
