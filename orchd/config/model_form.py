"""What a pool's ``model`` is, by its engine: a file, a folder or a hub's name, or any name.

A path is made absolute where the configuration is read, and looked at on the disk; a name goes to
the engine as it is written.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, auto

_PATH_STARTS = ("/", "~/", "./", "../")
_PAGES = ("https://", "http://")


class ModelForm(Enum):
    """How an engine knows its models."""

    FILE = auto()
    """A model file, so always a path."""
    HUB = auto()
    """A model's folder, or its name on a hub: ``org/model``."""
    NAME = auto()
    """Whatever the engine's own command takes for a model."""


_FORMS: Mapping[str, ModelForm] = {
    "llamacpp": ModelForm.FILE,
    "vllm": ModelForm.HUB,
    "openai": ModelForm.NAME,
}


def form_of(engine: str) -> ModelForm:
    """What the models of that engine are."""
    return _FORMS[engine]


def is_path(engine: str, model: str) -> bool:
    """Whether that engine's model is a path. Where it may be a name, ``org/model`` is one, and a
    path is told by how it begins."""
    return form_of(engine) is ModelForm.FILE or model.startswith(_PATH_STARTS)


def is_name(engine: str, model: str) -> bool:
    """Whether that engine can take it for a name; what looks like a flag is none, nor is the
    address of a hub's page."""
    if is_path(engine, model) or model[:1] in ("", "-", "~", ".") or not model.isprintable():
        return False
    return form_of(engine) is not ModelForm.HUB or not model.startswith(_PAGES)
