"""Where the API token comes from, and how one is made."""

from __future__ import annotations

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from orchd.config.model import AuthConfig
from orchd.config.token import discover_token, ensure_token
from orchd.errors import ConfigurationError, HostError

NO_AUTH = AuthConfig()


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def write(path: Path, content: str, mode: int = 0o600) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode("latin-1"))
    path.chmod(mode)
    return path


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """The state folder of ``environ``, not there yet."""
    return tmp_path / "state" / "orchd"


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    return {"XDG_STATE_HOME": str(tmp_path / "state")}


def test_the_order_of_sources(environ: dict[str, str], state: Path, tmp_path: Path) -> None:
    credential = write(tmp_path / "credentials/orchd-token", "from-systemd")
    kept = write(state / "token", "from-state")
    file = write(tmp_path / "file", "from-file")
    environ |= {"ORCHD_API_TOKEN": "from-env", "CREDENTIALS_DIRECTORY": str(credential.parent)}
    by_file = AuthConfig(token_file=str(file))
    by_value = AuthConfig(token="from-config")

    def found(auth: AuthConfig) -> tuple[str, str]:
        token = discover_token(auth, environ)
        assert ensure_token(auth, environ).value == token.value
        assert not token.is_new
        return token.value, token.origin

    assert found(by_file) == ("from-env", "ORCHD_API_TOKEN")
    del environ["ORCHD_API_TOKEN"]
    assert found(by_value) == ("from-config", "auth.token")
    assert found(by_file) == ("from-file", str(file))
    assert found(NO_AUTH) == ("from-systemd", str(credential))
    credential.unlink()
    assert found(NO_AUTH) == ("from-state", str(kept))


def test_the_state_directory_of_systemd_is_used(tmp_path: Path) -> None:
    folder = tmp_path / "lib"
    environ = {"STATE_DIRECTORY": f"{folder}:/elsewhere"}
    made = ensure_token(NO_AUTH, environ)
    assert made.origin == str(folder / "token")
    assert discover_token(NO_AUTH, environ).value == made.value


def test_no_token_anywhere_says_what_to_do(environ: dict[str, str], state: Path) -> None:
    with pytest.raises(ConfigurationError, match="start the daemon once") as caught:
        discover_token(NO_AUTH, environ)
    assert str(state / "token") in str(caught.value)
    assert not state.exists(), "looking for a token wrote something"


class TestMaking:
    def test_once_and_for_all(self, environ: dict[str, str], state: Path) -> None:
        made = ensure_token(NO_AUTH, environ)
        assert made.is_new and made.warning is None
        assert made.origin == str(state / "token")
        assert len(made.value) == 43  # 256 bits in base64 without padding
        again = ensure_token(NO_AUTH, environ)
        assert (again.value, again.is_new) == (made.value, False)
        assert discover_token(NO_AUTH, environ).value == made.value

    def test_for_the_owner_only(self, environ: dict[str, str], state: Path) -> None:
        before = os.umask(0)
        try:
            ensure_token(NO_AUTH, environ)
        finally:
            os.umask(before)
        assert mode_of(state) == 0o700
        assert mode_of(state / "token") == 0o600
        assert [path.name for path in state.iterdir()] == ["token"], "a draft was left behind"

    def test_under_an_umask_that_takes_the_owners_rights(
        self, environ: dict[str, str], state: Path
    ) -> None:
        state.mkdir(parents=True)
        before = os.umask(0o777)
        try:
            ensure_token(NO_AUTH, environ)
        finally:
            os.umask(before)
        assert mode_of(state / "token") == 0o600

    def test_daemons_that_start_at_once_agree(self, environ: dict[str, str], state: Path) -> None:
        count = 16
        for _ in range(20):
            barrier = Barrier(count)

            def start(barrier: Barrier = barrier) -> tuple[str, bool]:
                barrier.wait()
                token = ensure_token(NO_AUTH, environ)
                return token.value, token.is_new

            with ThreadPoolExecutor(count) as pool:
                tokens = [future.result() for future in [pool.submit(start) for _ in range(count)]]
            assert len({value for value, _ in tokens}) == 1
            assert [is_new for _, is_new in tokens].count(True) == 1
            assert [path.name for path in state.iterdir()] == ["token"]
            (state / "token").unlink()

    def test_where_nothing_can_be_written(self, environ: dict[str, str], state: Path) -> None:
        state.parent.write_text("a file where the folder should be")
        with pytest.raises(HostError, match="cannot keep a token in"):
            ensure_token(NO_AUTH, environ)

    def test_not_where_a_token_is_given(self, environ: dict[str, str], state: Path) -> None:
        assert ensure_token(AuthConfig(token="given"), environ).value == "given"
        assert not state.exists()


class TestOpenFiles:
    @pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o602], ids=oct)
    def test_the_daemon_closes_its_own(
        self, environ: dict[str, str], state: Path, mode: int
    ) -> None:
        path = write(state / "token", "abc", mode)
        token = ensure_token(NO_AUTH, environ)
        assert token.warning is not None
        assert f"{mode:04o}" in token.warning and str(path) in token.warning
        assert mode_of(path) == 0o600
        assert ensure_token(NO_AUTH, environ).warning is None

    def test_a_client_changes_nothing(self, environ: dict[str, str], state: Path) -> None:
        path = write(state / "token", "abc", 0o644)
        assert discover_token(NO_AUTH, environ).warning is not None
        assert mode_of(path) == 0o644

    @pytest.mark.parametrize(
        ("mode", "is_warned"),
        [(0o600, False), (0o440, False), (0o640, False), (0o644, True), (0o602, True)],
        ids=str,
    )
    def test_the_users_own_is_left_as_it_is(
        self, environ: dict[str, str], tmp_path: Path, mode: int, is_warned: bool
    ) -> None:
        path = write(tmp_path / "file", "abc", mode)
        token = ensure_token(AuthConfig(token_file=str(path)), environ)
        assert (token.warning is not None) is is_warned
        assert mode_of(path) == mode


class TestAConfigurationThatOthersCanRead:
    @pytest.mark.parametrize(
        ("mode", "is_warned"),
        [(0o600, False), (0o640, False), (0o644, True), (0o602, True)],
        ids=str,
    )
    def test_it_is_warned_of_where_the_token_is_in_it(
        self, environ: dict[str, str], tmp_path: Path, mode: int, is_warned: bool
    ) -> None:
        path = write(tmp_path / "orchd.toml", "", mode)
        for find in (discover_token, ensure_token):
            warning = find(AuthConfig(token="abc"), environ, path).warning
            assert (warning is not None) is is_warned
            assert warning is None or warning.startswith(f"{path} holds the token and can be read")
            assert "abc" not in (warning or "")

    def test_it_is_not_where_the_token_is_elsewhere(
        self, environ: dict[str, str], tmp_path: Path
    ) -> None:
        path = write(tmp_path / "orchd.toml", "", 0o644)
        file = write(tmp_path / "file", "abc")
        assert discover_token(AuthConfig(token_file=str(file)), environ, path).warning is None
        assert ensure_token(NO_AUTH, environ, path).warning is None
        gone = tmp_path / "gone"
        assert discover_token(AuthConfig(token="abc"), environ, gone).warning is None


@pytest.mark.parametrize("end", ["", "\n", "\r\n", "\n\n"], ids=repr)
def test_line_ends_after_a_token_are_no_part_of_it(
    environ: dict[str, str], state: Path, end: str
) -> None:
    write(state / "token", "abc" + end)
    assert discover_token(NO_AUTH, environ).value == "abc"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        pytest.param("", "holds no token", id="empty"),
        pytest.param("\n", "holds no token", id="only-a-newline"),
        pytest.param("hush hush", "a token must be", id="space"),
        pytest.param(" hush", "a token must be", id="leading-space"),
        pytest.param("hush\nhush", "a token must be", id="two-lines"),
        pytest.param("hush\x7f", "a token must be", id="not-printable"),
        pytest.param("hush\xe9", "a token must be", id="not-ascii"),
        pytest.param("hush" * 1025, "a token must be", id="too-long"),
        pytest.param("hush" * 9000, "a token must be", id="far-too-long"),
    ],
)
class TestUnusable:
    def check(self, auth: AuthConfig, environ: dict[str, str], source: str, problem: str) -> None:
        for find in (discover_token, ensure_token):
            with pytest.raises(ConfigurationError, match=problem) as caught:
                find(auth, environ)
            assert str(caught.value).startswith(f"{source}: ")
            assert "hush" not in str(caught.value)

    def test_in_the_environment(self, environ: dict[str, str], content: str, problem: str) -> None:
        environ["ORCHD_API_TOKEN"] = content
        self.check(AuthConfig(token="good"), environ, "ORCHD_API_TOKEN", problem)

    def test_in_the_configuration(
        self, environ: dict[str, str], content: str, problem: str
    ) -> None:
        self.check(AuthConfig(token=content), environ, "auth.token", problem)

    def test_in_a_file(
        self, environ: dict[str, str], tmp_path: Path, content: str, problem: str
    ) -> None:
        path = write(tmp_path / "file", content)
        self.check(AuthConfig(token_file=str(path)), environ, str(path), problem)

    def test_in_a_credential(
        self, environ: dict[str, str], tmp_path: Path, content: str, problem: str
    ) -> None:
        path = write(tmp_path / "orchd-token", content)
        environ["CREDENTIALS_DIRECTORY"] = str(tmp_path)
        self.check(NO_AUTH, environ, str(path), problem)

    def test_in_the_state_file(
        self, environ: dict[str, str], state: Path, content: str, problem: str
    ) -> None:
        path = write(state / "token", content)
        self.check(NO_AUTH, environ, str(path), problem)
        assert path.read_bytes().decode("latin-1") == content, "an unusable token was replaced"


class TestNoPlainFile:
    def test_missing_token_file(self, environ: dict[str, str], tmp_path: Path) -> None:
        with pytest.raises(ConfigurationError, match=r"no such file; auth\.token_file names it"):
            ensure_token(AuthConfig(token_file=str(tmp_path / "none")), environ)

    @pytest.mark.parametrize("kind", ["folder", "fifo"])
    def test_not_a_regular_file(self, environ: dict[str, str], tmp_path: Path, kind: str) -> None:
        path = tmp_path / "odd"
        path.mkdir() if kind == "folder" else os.mkfifo(path)
        with pytest.raises(ConfigurationError, match="is not a regular file"):
            discover_token(AuthConfig(token_file=str(path)), environ)

    def test_a_loop_of_links(self, environ: dict[str, str], tmp_path: Path, state: Path) -> None:
        loop = tmp_path / "loop"
        loop.symlink_to(loop)
        with pytest.raises(ConfigurationError, match="cannot be read: "):
            discover_token(AuthConfig(token_file=str(loop)), environ)
        state.mkdir(parents=True)
        (state / "token").symlink_to(loop)
        for find in (discover_token, ensure_token):
            with pytest.raises(HostError, match="cannot read the token in"):
                find(NO_AUTH, environ)

    def test_a_dangling_link_in_the_state_folder(
        self, environ: dict[str, str], state: Path
    ) -> None:
        state.mkdir(parents=True)
        (state / "token").symlink_to("nowhere")
        with pytest.raises(HostError, match="cannot keep a token in"):
            ensure_token(NO_AUTH, environ)


def test_the_value_shows_in_no_repr(environ: dict[str, str]) -> None:
    token = ensure_token(AuthConfig(token="hush"), environ)
    assert "hush" not in repr(token) + str(token) + f"{token}"
