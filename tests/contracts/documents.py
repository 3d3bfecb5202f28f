"""The contracts as they lie on the disk: their operations, and what they say of a value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import jsonschema
import yaml
from referencing import Registry
from referencing.jsonschema import DRAFT202012

FOLDER = Path(__file__).parents[2] / "contracts/openapi"
METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
OUTSIDE = "x-outside-operations"


@cache
def read_contract(name: str) -> dict[str, Any]:
    """``data.yaml`` or ``control.yaml``."""
    return dict(yaml.safe_load((FOLDER / name).read_text()))


def validator(name: str, schema: str) -> jsonschema.Draft202012Validator:
    """Judges values by a named schema of that contract."""
    return CONTRACTS.validator(Spot(name, ("components", "schemas", schema)))


@dataclass(frozen=True, slots=True)
class Spot:
    """A place in a document."""

    document: str
    way: tuple[str, ...] = ()

    def below(self, *keys: str) -> Spot:
        return Spot(self.document, (*self.way, *keys))

    @property
    def reference(self) -> str:
        """What a ``$ref`` to it says."""
        escaped = (key.replace("~", "~0").replace("/", "~1") for key in self.way)
        return "/".join([f"{self.document}#", *escaped])


@dataclass(frozen=True, slots=True)
class Operation:
    """One of ``paths``."""

    operation_id: str
    method: str
    path: str
    spot: Spot

    def fits(self, method: str, target: str) -> bool:
        """Whether a request for that target is for it; HEAD stands in for GET."""
        segments = target.partition("?")[0].split("/")
        wanted = self.path.split("/")
        return (
            self.method == ("GET" if method == "HEAD" else method)
            and len(segments) == len(wanted)
            and all(
                want[:1] == "{" or want == unquote(s)
                for want, s in zip(wanted, segments, strict=True)
            )
        )


class Contracts:
    """Both documents, which refer to each other."""

    def __init__(self, documents: Mapping[str, dict[str, Any]]) -> None:
        self.documents = documents
        resources = [(name, DRAFT202012.create_resource(told)) for name, told in documents.items()]
        self._registry: Registry[Any] = Registry().with_resources(resources)
        self._validators: dict[Spot, jsonschema.Draft202012Validator] = {}
        self.operations = tuple(self._list_operations())

    def _list_operations(self) -> Iterator[Operation]:
        for name, document in self.documents.items():
            for path, told in document["paths"].items():
                for method in filter(told.__contains__, METHODS):
                    spot = Spot(name, ("paths", path, method))
                    operation_id = told[method]["operationId"]
                    yield Operation(operation_id, method.upper(), path, spot)

    def operation(self, operation_id: str) -> Operation:
        (found,) = (one for one in self.operations if one.operation_id == operation_id)
        return found

    def find(self, method: str, target: str) -> Operation | None:
        """The operation that a request is for, None for one that names none."""
        return next((one for one in self.operations if one.fits(method, target)), None)

    def read(self, spot: Spot) -> Any:
        """What stands there, followed to where it refers to."""
        return self.follow(spot)[1]

    def follow(self, spot: Spot) -> tuple[Spot, Any]:
        """The place that it refers to, or itself, and what stands there."""
        node: Any = self.documents[spot.document]
        for key in spot.way:
            node = node[key]
        match node:
            case {"$ref": str(reference)}:
                document, _, way = reference.partition("#/")
                keys = (key.replace("~1", "/").replace("~0", "~") for key in way.split("/"))
                return self.follow(Spot(document or spot.document, tuple(keys)))
        return spot, node

    def validator(self, schema: Spot) -> jsonschema.Draft202012Validator:
        """Judges values by the schema that stands there."""
        if schema not in self._validators:
            self._validators[schema] = jsonschema.Draft202012Validator(
                {"$ref": schema.reference},
                registry=self._registry,
                format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER,
            )
        return self._validators[schema]

    def responses(self, operation: Operation | None) -> Spot:
        """The answers that an operation has; without one, those of a request that names none."""
        if operation is None:
            return Spot("data.yaml", (OUTSIDE, "responses"))
        return operation.spot.below("responses")


CONTRACTS = Contracts({path.name: read_contract(path.name) for path in sorted(FOLDER.iterdir())})
