"""Finds the configuration file and reads it.

Every way in which that can fail ends in a ConfigurationError that names the file. Paths in the
result are absolute: a relative one starts at the folder of the file that says it, whatever the
daemon's working directory. Whether a model is there is not asked.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

from orchd.config.model import Config, PoolConfig
from orchd.config.model_form import is_name, is_path
from orchd.config.places import SYSTEM_CONFIG, home_dir, user_config
from orchd.config.validate import EngineRule, validate
from orchd.config.wording import show
from orchd.errors import ConfigurationError, Fault, NoConfigurationError

EXAMPLE = """\
[[pools]]
id = "chat"
engine = "llamacpp"
model = "/path/to/model.gguf"
"""
"""The least useful configuration."""

_FILE_BYTES_MAX = 1 << 20


def find_config(
    explicit: str | None, environ: Mapping[str, str], system_config: Path = SYSTEM_CONFIG
) -> Path:
    """Return the file to read: --config, $ORCHD_CONFIG, the user's own, the system's.

    A file that was named is returned whether it exists or not, so that a misspelt name is never
    passed over for another file. Raises NoConfigurationError where none is named and none is found.
    """
    named = explicit or environ.get("ORCHD_CONFIG")
    if named:
        return Path(named)
    own = user_config(environ)
    places = [place for place in (own, system_config) if place]
    for place in places:
        # A dangling link or a folder counts as found: reading it then tells what is wrong.
        if os.path.lexists(place):
            return place
    looked_at = ["--config (not given)", "$ORCHD_CONFIG (not set)", *map(str, places)]
    listing = "".join(f"\n  {place}" for place in looked_at)
    example = "".join(f"\n  {line}" for line in EXAMPLE.splitlines())
    problem = f"none found; looked at:{listing}\nThe least that one holds:{example}"
    raise NoConfigurationError([Fault("", problem)], "configuration")


def load_config(
    path: Path,
    environ: Mapping[str, str] = os.environ,
    engine_rules: Mapping[str, EngineRule] = MappingProxyType({}),
) -> Config:
    """Read and validate a file; ``environ`` is asked for the home that ``~`` stands for.

    Raises ConfigurationError with every fault at once.
    """
    outcome = validate(_parse(_read_text(path), path), engine_rules)
    if not isinstance(outcome, Config):
        raise ConfigurationError(outcome, str(path))
    return _with_absolute_paths(outcome, path, home_dir(environ))


def _read_text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_BYTES_MAX + 1)
    except IsADirectoryError as exc:
        raise _refusal(path, f"is a folder; name the file in it, {path / 'orchd.toml'}") from exc
    except FileNotFoundError as exc:
        raise _refusal(path, "no such file") from exc
    except OSError as exc:
        raise _refusal(path, f"cannot be read: {exc.strerror}") from exc
    if len(content) > _FILE_BYTES_MAX:
        raise _refusal(path, f"is larger than {_FILE_BYTES_MAX} bytes; not a configuration")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        line = content.count(b"\n", 0, exc.start) + 1
        raise _refusal(path, f"is not UTF-8 (at line {line}); save it as UTF-8") from exc


def _parse(text: str, path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except RecursionError as exc:
        raise _refusal(path, "is not valid TOML: nested too deeply") from exc
    except ValueError as exc:  # TOMLDecodeError, or an integer too long for Python to read
        raise _refusal(path, f"is not valid TOML: {exc}") from exc


def _refusal(path: Path, problem: str) -> ConfigurationError:
    return ConfigurationError([Fault("", problem)], str(path))


def is_command_path(place: int, word: str) -> bool:
    """Whether a word of a command is a path for certain: a program with a slash, or what begins as
    only a path does."""
    return word.startswith(("./", "../", "~/")) or (place == 0 and "/" in word)


def _with_absolute_paths(config: Config, path: Path, home: Path | None) -> Config:
    folder = path.absolute().parent

    def absolute(text: str) -> str:
        if text == "~" or text.startswith("~/"):
            if home is None:
                raise _refusal(path, f"{text}: $HOME is not set; write the full path")
            return str(home / text[2:])
        return str(folder / text)

    def settle(pool: PoolConfig) -> PoolConfig:
        binary = pool.binary
        if binary is not None and "/" in binary:
            binary = absolute(binary)
        model = pool.model
        if is_path(pool.engine, model):
            model = absolute(model)
        elif not is_name(pool.engine, model):
            problem = f"pool {pool.id}: model {show(model)} is neither a name nor a path"
            mend = "a name on a hub is org/model, a path starts with /, ./, ../ or ~/"
            raise _refusal(path, f"{problem}; {mend}")
        command = tuple(
            absolute(word) if is_command_path(n, word) else word
            for n, word in enumerate(pool.command)
        )
        return replace(pool, model=model, binary=binary, command=command)

    auth = config.auth
    if auth.token_file is not None:
        auth = replace(auth, token_file=absolute(auth.token_file))
    return replace(config, auth=auth, pools=tuple(settle(pool) for pool in config.pools))
