"""The README's configurations are what they say: valid, and the long one is the defaults."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from orchd.config.model import Config
from orchd.config.validate import validate

README = Path(__file__).parents[1] / "README.md"


def test_the_long_configuration_shows_the_defaults_of_the_short_one() -> None:
    short, long = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)
    least, whole = validate(tomllib.loads(short)), validate(tomllib.loads(long))
    assert isinstance(least, Config)
    assert whole == least


def test_what_the_long_configuration_comments_out_is_valid_too() -> None:
    text = re.findall(r"```toml\n(.*?)```", README.read_text(), re.DOTALL)[1]
    uncommented = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert uncommented.count("\n") == text.count("\n")
    assert uncommented != text
    assert isinstance(validate(tomllib.loads(uncommented)), Config)
