"""tools/install: what it makes, what it leaves alone, and that it takes away what it made."""

from __future__ import annotations

import hashlib
import os
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path

import install
import pytest
from install_machine import StagedTree
from install_record import InstallError
from install_venv import Venv
from installer import CONFIG, EXAMPLE, TOKEN, UNIT_PATH, Installer, Places

from orchd.config.model import TOKEN_FORM, Config
from orchd.config.validate import validate
from tests.fakes.install import FakeMachine, FakeVenv

REPOSITORY = Path(__file__).parents[2]
PREFIX = "/opt/orchd"

Snapshot = dict[str, tuple[int, str]]


def snapshot(root: Path) -> Snapshot:
    """Every file, link and folder with its mode and content."""

    def read(path: Path) -> str:
        if path.is_symlink():
            return str(path.readlink())
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""

    return {str(p.relative_to(root)): (p.lstat().st_mode, read(p)) for p in root.rglob("*")}


class Stage:
    """A machine's file system under ``root``, and the source tree that is installed there."""

    def __init__(self, folder: Path) -> None:
        self.root, self.source = folder / "root", folder / "source"
        self.source.mkdir()
        (self.source / "orchd.service").write_text((REPOSITORY / "orchd.service").read_text())
        for name in ("etc/systemd/system", "usr/local/bin", "opt"):
            (self.root / name).mkdir(parents=True)
        (self.root / "etc/passwd").write_text("root:x:0:0\n")
        self.machine = FakeMachine()
        self.python = Path("/usr/bin/python3")

    def run(self, *, uninstall: bool = False, dry: bool = False, prefix: str = PREFIX) -> list[str]:
        """What it said."""
        said: list[str] = []
        places = Places(self.source, Path(prefix), self.root)
        installer = Installer(
            *(places, self.machine, said.append),
            is_dry=dry,
            open_venv=FakeVenv,
            python=self.python,
        )
        if uninstall:
            installer.uninstall()
        else:
            installer.install(with_engine=False)
        return said

    def at(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def look(self) -> Snapshot:
        return snapshot(self.root)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    FakeVenv.is_broken = False
    return Stage(tmp_path)


# -- to install --------------------------------------------------------------------------------


def test_what_is_made(stage: Stage) -> None:
    said = stage.run()
    assert [line.partition(":")[0] for line in said] == [
        *(PREFIX, "user orchd", f"{PREFIX}/venv", f"{PREFIX}/venv", "/usr/local/bin/orchd"),
        *("/etc/orchd", CONFIG, TOKEN, UNIT_PATH, "Next"),
    ]
    assert stage.machine.did == ["add orchd /var/lib/orchd", "hand .token.draft to orchd", "reload"]
    assert str(stage.at("/usr/local/bin/orchd").readlink()) == f"{PREFIX}/venv/bin/orchd"
    assert stage.at(UNIT_PATH).read_text() == (REPOSITORY / "orchd.service").read_text()
    assert [stage.at(name).stat().st_mode & 0o777 for name in (CONFIG, TOKEN, UNIT_PATH)] == [
        *(0o644, 0o640, 0o644)
    ]


def test_the_token_is_one_and_a_new_one_each_time(stage: Stage) -> None:
    tokens = set()
    for _ in range(2):
        said = stage.run()
        token = stage.at(TOKEN).read_text()
        assert TOKEN_FORM.matches(token.rstrip("\n")) and len(token) > 40
        assert (
            token.strip() not in "\n".join(said) + stage.at(f"{PREFIX}/installed.json").read_text()
        )
        tokens.add(token)
        stage.run(uninstall=True)
    assert len(tokens) == 2


def test_the_example_is_a_configuration() -> None:
    for text in (EXAMPLE, EXAMPLE.replace("# devices", "devices")):
        config = validate(tomllib.loads(text))
        assert isinstance(config, Config)
        assert config.auth.token_file == TOKEN


def test_another_prefix_is_in_the_unit(stage: Stage) -> None:
    stage.run(prefix="/srv/llm/orchd")
    text = stage.at(UNIT_PATH).read_text()
    assert "Environment=PATH=/srv/llm/orchd/venv/bin:" in text
    assert PREFIX not in text
    assert stage.at("/srv/llm/orchd/venv/bin/orchd").is_file()


def test_a_second_run_changes_nothing(stage: Stage) -> None:
    stage.run()
    before, did = stage.look(), list(stage.machine.did)
    said = stage.run()
    assert (stage.look(), stage.machine.did) == (before, did)
    assert all("already" in line for line in said[:-1])


def test_a_newer_unit_is_put_in_place(stage: Stage) -> None:
    stage.run()
    stage.machine.did.clear()
    newer = (stage.source / "orchd.service").read_text() + "# newer\n"
    (stage.source / "orchd.service").write_text(newer)
    assert f"{UNIT_PATH}: brought up to date" in stage.run()
    assert stage.at(UNIT_PATH).read_text() == newer
    assert stage.machine.did == ["reload"]
    stage.run(uninstall=True)
    assert not stage.at(UNIT_PATH).exists()


@pytest.mark.parametrize("name", [CONFIG, TOKEN, UNIT_PATH])
def test_what_was_edited_is_kept(stage: Stage, name: str) -> None:
    stage.run()
    stage.at(name).write_text("mine\n")
    with (stage.source / "orchd.service").open("a") as unit:
        unit.write("# newer\n")
    assert f"{name}: left as it is, edited" in stage.run()
    assert f"{name}: kept, it was edited" in stage.run(uninstall=True)
    assert stage.at(name).read_text() == "mine\n"


@pytest.mark.parametrize("name", [CONFIG, TOKEN, UNIT_PATH, "/usr/local/bin/orchd"])
def test_what_others_made_is_theirs(stage: Stage, name: str) -> None:
    stage.at(name).parent.mkdir(exist_ok=True)
    stage.at(name).write_text("theirs\n")
    before = stage.look()
    assert any(line.startswith(f"{name}: ") and "left as it is" in line for line in stage.run())
    stage.run(uninstall=True)
    assert stage.look() == before


def test_a_link_in_the_place_of_a_file_is_not_followed(stage: Stage, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere"
    stage.at(TOKEN).parent.mkdir()
    stage.at(TOKEN).symlink_to(target)
    stage.run()
    assert not target.exists()
    stage.run(uninstall=True)
    assert stage.at(TOKEN).is_symlink()


def test_a_folder_in_the_place_of_the_environment_stops_it(stage: Stage) -> None:
    stage.at(f"{PREFIX}/venv").mkdir(parents=True)
    with pytest.raises(InstallError, match="did not make it"):
        stage.run()
    assert list(stage.at(f"{PREFIX}/venv").iterdir()) == []


def test_one_that_was_broken_off_is_taken_up_again(stage: Stage) -> None:
    before = stage.look()
    FakeVenv.is_broken = True
    with pytest.raises(subprocess.CalledProcessError):
        stage.run()
    assert not stage.at(TOKEN).exists()
    assert f"{PREFIX}/venv: brought up to date" in stage.run()
    assert stage.at(TOKEN).exists()
    stage.run(uninstall=True)
    assert stage.look() == before


def test_a_user_that_was_there_stays(stage: Stage) -> None:
    stage.machine.users.add("orchd")
    assert "user orchd: there already" in stage.run()
    stage.run(uninstall=True)
    assert stage.machine.users == {"orchd"}


def test_a_python_that_is_hidden_from_the_service_is_refused(stage: Stage) -> None:
    stage.python = Path("/home/you/.pyenv/bin/python3")
    before = stage.look()
    with pytest.raises(InstallError, match=r"cannot run /home/you/.pyenv/bin/python3"):
        stage.run()
    assert stage.look() == before
    assert stage.run(dry=True)[0].startswith("Python: the service cannot run")


# -- to uninstall ------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", [PREFIX, "/srv/llm/orchd"])
def test_nothing_is_left_of_it(stage: Stage, prefix: str) -> None:
    before = stage.look()
    stage.run(prefix=prefix)
    assert stage.look() != before
    stage.machine.did.clear()
    stage.run(uninstall=True, prefix=prefix)
    assert stage.look() == before
    # Stopped before anything of it is taken away.
    assert stage.machine.did == ["stop orchd.service", "remove orchd", "reload"]
    assert stage.run(uninstall=True, prefix=prefix) == [f"nothing was installed under {prefix}"]


def test_what_the_daemon_kept_is_left_and_named(stage: Stage) -> None:
    stage.run()
    stage.at("/var/lib/orchd").mkdir(parents=True)
    stage.at("/var/lib/orchd/footprints.json").write_text("{}")
    assert "/var/lib/orchd: left, this tool did not make it" in stage.run(uninstall=True)
    assert stage.at("/var/lib/orchd/footprints.json").exists()


def test_what_is_gone_already_is_no_hindrance(stage: Stage) -> None:
    stage.run()
    stage.at(UNIT_PATH).unlink()
    stage.machine.users.clear()
    assert f"{UNIT_PATH}: gone already" in stage.run(uninstall=True)
    assert not stage.at(PREFIX).exists()


def test_a_damaged_record_is_told_of_and_nothing_removed(stage: Stage) -> None:
    stage.run()
    stage.at(f"{PREFIX}/installed.json").write_text("{")
    before = stage.look()
    with pytest.raises(InstallError, match=r"installed\.json is damaged"):
        stage.run(uninstall=True)
    assert stage.look() == before


# -- to try ------------------------------------------------------------------------------------


def test_a_dry_run_tells_each_step_and_changes_nothing(stage: Stage) -> None:
    before = stage.look()
    told = stage.run(dry=True)
    assert (stage.look(), stage.machine.did) == (before, [])
    done = [line for line in stage.run() if "which takes a minute" not in line]
    assert [line.replace("would be ", "") for line in told] == done
    installed = stage.look()
    stage.at(CONFIG).write_text("mine\n")
    stage.machine.did.clear()
    told = stage.run(uninstall=True, dry=True)
    assert stage.machine.did == []
    stage.at(CONFIG).write_text(EXAMPLE)
    assert stage.look() == installed
    stage.at(CONFIG).write_text("mine\n")
    assert [line.replace("would be ", "") for line in told] == stage.run(uninstall=True)


def test_the_command_itself(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    before = snapshot(tmp_path)
    done = subprocess.run(
        [REPOSITORY / "tools/install", "--dry-run", "--root", tmp_path],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert f"{UNIT_PATH}: would be made" in done.stdout
    assert "user orchd: left out" in done.stdout
    assert snapshot(tmp_path) == before


def test_who_is_not_root_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert install.main([], euid=1000) == 1
    assert capsys.readouterr().err.startswith("install: needs root: sudo tools/install")


@pytest.mark.parametrize(
    "prefix", ["orchd", "/", "/opt/or chd", "/opt/%h", "/opt/../etc", "/home/you/orchd", "/tmp/x"]
)
def test_a_prefix_that_the_service_could_not_use(
    prefix: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        install.main(["--dry-run", "--prefix", prefix])
    assert exited.value.code == 2
    assert "--prefix" in capsys.readouterr().err


# -- the environment ---------------------------------------------------------------------------

PRETENDER = """\
#!/bin/sh
here=$(dirname "$0")
[ -e "$here/is-broken" ] && exit 1
case "$*" in
"-I -m venv "*) mkdir -p "$4/bin" && cp "$0" "$4/bin/python" && cp "$here/calls-to" "$4/bin/" ;;
"-I -m pip --version") exit 0 ;;
"-I -m pip install "*) ;;
*) exit 9 ;;
esac
[ "$3 $4" = "pip --version" ] || echo "$*" >>"$(cat "$here/calls-to")"
"""


@pytest.fixture
def make_venv(tmp_path: Path) -> Callable[[], Venv]:
    source, maker = tmp_path / "source", tmp_path / "maker"
    (source / "orchd").mkdir(parents=True)
    maker.mkdir()
    (source / "pyproject.toml").write_text("")
    (source / "orchd/daemon.py").write_text("1")
    (maker / "python").write_text(PRETENDER)
    (maker / "python").chmod(0o755)
    (maker / "calls-to").write_text(str(tmp_path / "calls"))
    return lambda: Venv(tmp_path / "venv", source, str(maker / "python"))


def test_an_environment_follows_its_source(tmp_path: Path, make_venv: Callable[[], Venv]) -> None:
    def bring(with_engine: bool = False) -> list[str]:
        """What was called, where it was not up to date."""
        if not make_venv().is_current(with_engine):
            make_venv().bring_up_to_date(with_engine)
        calls = tmp_path / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        calls.unlink(missing_ok=True)
        return [line.replace(str(tmp_path), "") for line in lines]

    pip = "-I -m pip install --disable-pip-version-check --quiet /source"
    assert bring() == ["-I -m venv /venv", pip]
    assert bring() == []
    (tmp_path / "source/orchd/daemon.py").write_text("2")
    assert bring() == [pip]
    assert bring(with_engine=True) == [f"{pip}[llamacpp]"]
    assert bring() == []  # an engine that is in stays
    (tmp_path / "source/orchd/new.py").touch()
    assert bring() == [f"{pip}[llamacpp]"]
    (tmp_path / "venv/bin/is-broken").touch()
    assert bring() == ["-I -m venv /venv", f"{pip}[llamacpp]"]
    make_venv().remove()
    assert not (tmp_path / "venv").exists()


def test_a_staged_tree_is_asked_nothing() -> None:
    tree = StagedTree()
    assert not tree.is_real and not tree.has_user("root")
