"""The contracts as they lie on the disk, and what they say of a value."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FOLDER = Path(__file__).parents[2] / "contracts/openapi"


@cache
def read_contract(name: str) -> dict[str, Any]:
    """``data.yaml`` or ``control.yaml``."""
    return dict(yaml.safe_load((FOLDER / name).read_text()))


@cache
def validator(name: str, schema: str) -> jsonschema.Draft202012Validator:
    """Judges values by a named schema of that contract."""
    resources = [
        (path.name, DRAFT202012.create_resource(read_contract(path.name)))
        for path in FOLDER.glob("*.yaml")
    ]
    registry: Registry[Any] = Registry().with_resources(resources)
    return jsonschema.Draft202012Validator(
        {"$ref": f"{name}#/components/schemas/{schema}"},
        registry=registry,
        format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
    )
