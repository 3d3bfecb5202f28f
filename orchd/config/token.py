"""The API token: found by one rule, by the daemon and by every client on the machine.

The rule, first found wins: $ORCHD_API_TOKEN; the configuration's ``token`` or ``token_file``;
``orchd-token`` under systemd's $CREDENTIALS_DIRECTORY; ``token`` in the state folder. A source that
is there but unusable is a fault, never a reason to go on to the next: the daemon and a client must
not end up with different tokens. Only ``ensure_token`` writes, and only in the state folder. No
message and no repr holds a token.

The state file belongs to the daemon and is kept at mode 0600: where others could read it,
``ensure_token`` mends the mode and says so in ``Token.warning``, for the token may be known. A
file that the user named may be shared on purpose; it is used as it is, with a warning when every
account can read it, and so is a configuration with a token in it.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from orchd.config.model import TOKEN_FORM, AuthConfig
from orchd.config.places import directory_from, state_dir
from orchd.errors import ConfigurationError, Fault, HostError, NoTokenError

_FILE_BYTES_MAX = 8192
_TOKEN_BYTES = 32


@dataclass(frozen=True, slots=True, eq=False)
class Token:
    """A usable token; compare ``value`` in constant time only."""

    value: str = field(repr=False)
    origin: str
    """Where it came from, for the log: a variable's name, a key or a path."""
    is_new: bool = False
    """Whether this very call made it."""
    warning: str | None = None
    """A sentence for the log when the token's file is open to others."""


def discover_token(
    auth: AuthConfig, environ: Mapping[str, str], config_file: Path | None = None
) -> Token:
    """Return the token by the rule above, without writing anything; ``config_file`` is where
    ``auth`` was read.

    Raises ConfigurationError when a source is unusable, NoTokenError when none holds a token,
    HostError when the state file cannot be read.
    """
    token = _find_given(auth, environ, config_file) or _read_state(_state_file(environ))
    if token is not None:
        return token
    problem = (
        f"no token found: ORCHD_API_TOKEN is not set, [auth] has none, {_state_file(environ)} is "
        "not there; start the daemon once, it makes one, or set ORCHD_API_TOKEN"
    )
    raise NoTokenError([Fault("", problem)], "token")


def ensure_token(
    auth: AuthConfig, environ: Mapping[str, str], config_file: Path | None = None
) -> Token:
    """Return the token by the rule above, making one in the state file where there is none.

    Daemons that start at once end up with the same token. Raises as ``discover_token`` does, and
    HostError when the state folder cannot be written.
    """
    if given := _find_given(auth, environ, config_file):
        return given
    path = _state_file(environ)
    try:
        if found := _read_state(path):
            return _close_to_others(found, path)
        is_ours = _create(path, secrets.token_urlsafe(_TOKEN_BYTES))
    except OSError as exc:
        raise HostError(f"cannot keep a token in {path}: {exc.strerror}") from exc
    made = _read_state(path)
    if made is None:
        raise HostError(f"cannot keep a token in {path}: it was removed right after it was made")
    return Token(made.value, made.origin, is_new=is_ours)


def _find_given(
    auth: AuthConfig, environ: Mapping[str, str], config_file: Path | None
) -> Token | None:
    if (value := environ.get("ORCHD_API_TOKEN")) is not None:
        return _make(value, "ORCHD_API_TOKEN", "unset it or give it a token")
    if auth.token is not None:
        warning = None if config_file is None else _judge_config(config_file)
        return _make(auth.token, "auth.token", "mend or remove the key", warning)
    if auth.token_file is not None:
        path = Path(auth.token_file)
        token = _read_given(path)
        if token is None:
            raise _refusal(path, "no such file; auth.token_file names it")
        return token
    folder = directory_from(environ, "CREDENTIALS_DIRECTORY")
    return _read_given(folder / "orchd-token") if folder else None


def _read_given(path: Path) -> Token | None:
    try:
        read = _read_file(path)
    except OSError as exc:
        raise _refusal(path, f"cannot be read: {exc.strerror}") from exc
    if read is None:
        return None
    content, mode = read
    # The group is let pass: giving a token to a group is a deliberate act, 0644 is an umask.
    warning = f"{path} can be read by every account (mode {mode:04o}); make it 0600 or 0640"
    return _make(content, str(path), "mend the file", warning if mode & 0o007 else None)


def _judge_config(path: Path) -> str | None:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return None  # it could be read a moment ago
    mend = "make it 0600 or 0640, or keep the token in a token_file"
    whole = f"{path} holds the token and can be read by every account (mode {mode:04o}); {mend}"
    return whole if mode & 0o007 else None


def _state_file(environ: Mapping[str, str]) -> Path:
    return state_dir(environ) / "token"


def _read_state(path: Path) -> Token | None:
    try:
        read = _read_file(path)
    except OSError as exc:
        raise HostError(f"cannot read the token in {path}: {exc.strerror}") from exc
    if read is None:
        return None
    content, mode = read
    warning = f"{path} was open to other accounts (mode {mode:04o}); delete it to change the token"
    return _make(content, str(path), "delete the file", warning if mode & 0o077 else None)


def _read_file(path: Path) -> tuple[str, int] | None:
    """Return content and permission bits, None where there is no such file."""
    try:
        # Without O_NONBLOCK, opening a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise _refusal(path, "is not a regular file")
        # Latin-1 takes every byte, so that foreign ones are refused as characters, with the rest.
        return os.read(descriptor, _FILE_BYTES_MAX).decode("latin-1"), stat.S_IMODE(mode)
    finally:
        os.close(descriptor)


def _make(value: str, origin: str, mend: str, warning: str | None = None) -> Token:
    value = value.rstrip("\r\n")
    if not value:
        raise _refusal(origin, f"holds no token; {mend}")
    if not TOKEN_FORM.matches(value):
        raise _refusal(origin, f"a token must be {TOKEN_FORM.wanted}; {mend}")
    return Token(value, origin, warning=warning)


def _create(path: Path, value: str) -> bool:
    """Put the value at a path whole and for the owner only; False where another was quicker."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".token-{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            os.fchmod(descriptor, 0o600)  # an odd umask may have taken the owner's own rights
            file.write(value + "\n")
            file.flush()
            # Without this a power cut can leave the name with nothing behind it: an empty token,
            # which is a fault at every start from then on.
            os.fsync(descriptor)
        # A link fails where the name is taken; a rename would replace the token that another
        # daemon has just made and may be using.
        path.hardlink_to(draft)
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    return True


def _close_to_others(token: Token, path: Path) -> Token:
    if token.warning is not None:
        path.chmod(0o600)
    return token


def _refusal(source: Path | str, problem: str) -> ConfigurationError:
    return ConfigurationError([Fault("", problem)], str(source))
