"""Finding and reading the configuration file."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from orchd.config.load import EXAMPLE, find_config, load_config
from orchd.config.model import Config
from orchd.config.validate import validate
from orchd.errors import ConfigurationError, Fault

POOL = '[[pools]]\nid = "chat"\nengine = "llamacpp"\nmodel = "/m.gguf"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "orchd.toml"


def refusal(file: Path) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, {})
    return str(caught.value)


class TestFind:
    @pytest.fixture
    def system(self, tmp_path: Path) -> Path:
        path = tmp_path / "etc.toml"
        path.touch()
        return path

    @pytest.fixture
    def environ(self, tmp_path: Path) -> dict[str, str]:
        """An environment in which every place holds a file."""
        for folder in ("home/.config/orchd", "xdg/orchd"):
            (tmp_path / folder).mkdir(parents=True)
            (tmp_path / folder / "orchd.toml").touch()
        return {
            "HOME": str(tmp_path / "home"),
            "XDG_CONFIG_HOME": str(tmp_path / "xdg"),
            "ORCHD_CONFIG": "/named/by/environment",
        }

    def test_the_order_of_places(
        self, environ: dict[str, str], system: Path, tmp_path: Path
    ) -> None:
        assert find_config("/named", environ, system) == Path("/named")
        assert find_config(None, environ, system) == Path("/named/by/environment")
        environ["ORCHD_CONFIG"] = ""
        assert find_config(None, environ, system) == tmp_path / "xdg/orchd/orchd.toml"
        del environ["XDG_CONFIG_HOME"]
        own = tmp_path / "home/.config/orchd/orchd.toml"
        assert find_config(None, environ, system) == own
        own.unlink()
        assert find_config(None, environ, system) == system

    def test_what_is_there_but_unusable_is_not_passed_over(
        self, environ: dict[str, str], system: Path, tmp_path: Path
    ) -> None:
        del environ["ORCHD_CONFIG"]
        own = tmp_path / "xdg/orchd/orchd.toml"
        own.unlink()
        own.symlink_to("nowhere")
        assert find_config(None, environ, system) == own

    def test_nothing_found_lists_every_place_and_an_example(self, tmp_path: Path) -> None:
        nowhere = tmp_path / "nowhere.toml"
        with pytest.raises(ConfigurationError) as caught:
            find_config(None, {"HOME": str(tmp_path)}, nowhere)
        message = str(caught.value)
        own = tmp_path / ".config/orchd/orchd.toml"
        for place in ("--config", "$ORCHD_CONFIG", str(own), str(nowhere)):
            assert f"\n  {place}" in message
        assert all(line in message for line in EXAMPLE.splitlines())

    def test_without_a_home_there_is_still_the_system(self, system: Path) -> None:
        assert find_config(None, {}, system) == system

    def test_the_example_is_valid(self) -> None:
        assert isinstance(validate(tomllib.loads(EXAMPLE)), Config)


class TestUnreadable:
    def test_no_such_file(self, file: Path) -> None:
        assert refusal(file) == f"{file}: no such file"

    def test_a_folder(self, tmp_path: Path) -> None:
        assert refusal(tmp_path).startswith(f"{tmp_path}: is a folder; name the file in it")

    def test_a_path_through_a_file(self, file: Path) -> None:
        file.touch()
        assert refusal(file / "orchd.toml").endswith("cannot be read: Not a directory")

    def test_what_the_system_refuses_to_open(self, file: Path) -> None:
        # A link to itself is refused to everybody, root included; a mode is not.
        file.symlink_to(file)
        assert refusal(file) == f"{file}: cannot be read: Too many levels of symbolic links"

    def test_not_utf8(self, file: Path) -> None:
        file.write_bytes(b"[server]\n\n# caf\xe9\n")
        assert refusal(file) == f"{file}: is not UTF-8 (at line 3); save it as UTF-8"

    def test_far_too_large(self, file: Path) -> None:
        file.write_bytes(b"#" * (1 << 20) + b"#")
        assert "is larger than 1048576 bytes" in refusal(file)

    @pytest.mark.parametrize(
        ("toml", "expected"),
        [
            pytest.param("[server]\nlisten 3", "(at line 2, column 8)", id="syntax"),
            pytest.param("a = 1\na = 2\nb = 3", "(at line 2", id="key-twice"),
            pytest.param("a = " + "[" * 100_000, "nested too deeply", id="deep"),
            pytest.param("a = " + "9" * 5000, "integer", id="integer-of-5000-digits"),
        ],
    )
    def test_not_toml(self, file: Path, toml: str, expected: str) -> None:
        file.write_text(toml)
        message = refusal(file)
        assert message.startswith(f"{file}: is not valid TOML: ")
        assert expected in message


def test_every_fault_names_the_file(file: Path) -> None:
    file.write_text(POOL + "slots = 0\nctx = 0")
    with pytest.raises(ConfigurationError) as caught:
        load_config(file, {})
    assert [fault.path for fault in caught.value.faults] == ["pools[0].slots", "pools[0].ctx"]
    assert all(line.startswith(f"{file}: ") for line in str(caught.value).splitlines())


def test_engine_rules_are_heard(file: Path) -> None:
    file.write_text(POOL)
    with pytest.raises(ConfigurationError, match=r"pools\[0\]\.args\[0\]: not so"):
        load_config(file, {}, {"llamacpp": lambda _pool: [Fault("args[0]", "not so")]})


def test_byte_order_mark_and_windows_line_ends_are_let_pass(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf" + POOL.replace("\n", "\r\n").encode())
    assert load_config(file, {}).pools[0].id == "chat"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param("/abs/m.gguf", "/abs/m.gguf", id="absolute"),
        pytest.param("m.gguf", "{folder}/m.gguf", id="bare"),
        pytest.param("sub/m.gguf", "{folder}/sub/m.gguf", id="relative"),
        pytest.param("./m.gguf", "{folder}/m.gguf", id="dot"),
        pytest.param("~/m.gguf", "/home/u/m.gguf", id="home"),
        pytest.param("~x/m.gguf", "{folder}/~x/m.gguf", id="no-other-users-home"),
    ],
)
def test_paths_are_made_absolute(file: Path, written: str, expected: str) -> None:
    file.write_text(f'[auth]\ntoken_file = "{written}"\n' + POOL.replace("/m.gguf", written, 1))
    config = load_config(file, {"HOME": "/home/u"})
    expected = expected.format(folder=file.parent)
    assert config.pools[0].model == expected
    assert config.auth.token_file == expected


def test_a_tilde_without_a_home(file: Path) -> None:
    file.write_text(POOL.replace("/m.gguf", "~/m.gguf"))
    assert refusal(file) == f"{file}: ~/m.gguf: $HOME is not set; write the full path"


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("llama-server", "llama-server"),
        ("./llama-server", "{folder}/llama-server"),
        ("bin/llama-server", "{folder}/bin/llama-server"),
        ("/bin/llama-server", "/bin/llama-server"),
        ("~/llama-server", "/home/u/llama-server"),
    ],
)
def test_a_bare_program_is_left_to_path(file: Path, written: str, expected: str) -> None:
    file.write_text(POOL + f'binary = "{written}"')
    (pool,) = load_config(file, {"HOME": "/home/u"}).pools
    assert pool.binary == expected.format(folder=file.parent)


COMMAND = """
[[pools]]
id = "any"
engine = "openai"
model = "org/model"
command = ["bin/serve", "./a", "../b", "~/c", "~d", "e/f", "server.py", "/g", "--m=./h", "{port}"]
"""


def test_of_a_command_what_is_a_path_for_certain_is_made_absolute(file: Path) -> None:
    file.write_text(COMMAND)
    (pool,) = load_config(file, {"HOME": "/home/u"}).pools
    folder = str(file.parent)
    assert pool.command == (
        *(f"{folder}/bin/serve", f"{folder}/a", f"{folder}/../b", "/home/u/c"),
        *("~d", "e/f", "server.py", "/g", "--m=./h", "{port}"),
    )
    file.write_text(COMMAND.replace("bin/serve", "serve"))
    assert load_config(file, {"HOME": "/home/u"}).pools[0].command[0] == "serve"


def test_a_relative_file_still_gives_absolute_paths(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text(POOL.replace("/m.gguf", "m.gguf"))
    monkeypatch.chdir(file.parent)
    assert load_config(Path(file.name), {}).pools[0].model == str(file.parent / "m.gguf")
