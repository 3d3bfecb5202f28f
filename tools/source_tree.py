"""Reads the sources under orchd/ as they are written: modules, their imports, circles among them.

Nothing here knows a rule; tools/check_layers.py holds those.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Import:
    """One imported thing: ``from module import name``, or ``import module`` with name None."""

    line: int
    module: str
    name: str | None

    def __str__(self) -> str:
        return self.module if self.name is None else f"{self.module}.{self.name}"


@dataclass(frozen=True, slots=True)
class Module:
    """One source file. ``room`` and ``local`` are the keys under which the table knows it."""

    name: str
    path: str
    text: str
    tree: ast.Module
    is_package: bool

    @property
    def room(self) -> str:
        """The entry right under orchd/; ``__init__`` for orchd itself."""
        parts = self.name.split(".")
        return parts[1] if len(parts) > 1 else "__init__"

    @property
    def local(self) -> str:
        """The name inside the room; a room that is one file bears its own."""
        rest = self.name.split(".")[1:]
        if self.is_package:
            rest.append("__init__")
        return rest[0] if len(rest) == 1 else ".".join(rest[1:])


def read_modules(root: Path) -> dict[str, Module]:
    """Parses everything under root/orchd. Raises OSError, SyntaxError or ValueError."""
    package = root / "orchd"
    if not package.is_dir():
        raise FileNotFoundError(f"no folder {package}")
    modules = {}
    for file in sorted(package.rglob("*.py")):
        path = file.relative_to(root)
        is_package = path.name == "__init__.py"
        name = ".".join(path.parent.parts if is_package else path.with_suffix("").parts)
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text, filename=str(path))
        modules[name] = Module(name, path.as_posix(), text, tree, is_package)
    return modules


def list_imports(module: Module) -> Iterator[Import]:
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(node.lineno, alias.name, None)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                # One dot is the module's own package: for a package that is itself (PEP 328).
                up = node.level - 1 if module.is_package else node.level
                parts = module.name.split(".")
                source = ".".join([*parts[: max(len(parts) - up, 0)], *filter(None, [source])])
            for alias in node.names:
                yield Import(node.lineno, source, alias.name)


def resolve(item: Import, modules: Mapping[str, Module]) -> str:
    """The module of orchd that is meant: ``from package import x`` may name a module or a value."""
    full = str(item)
    return full if full in modules else item.module


def find_circles(modules: Mapping[str, Module]) -> Iterator[tuple[str, ...]]:
    """A shortest circle through each module that is the first, by name, of some circle."""
    edges = {
        module.name: [resolve(item, modules) for item in list_imports(module)]
        for module in modules.values()
    }
    for start in edges:
        paths: deque[tuple[str, ...]] = deque([(start,)])
        seen: set[str] = set()
        while paths:
            path = paths.popleft()
            if start in edges.get(path[-1], ()):
                yield (*path, start)
                break
            for target in edges.get(path[-1], ()):
                if target > start and target not in seen:
                    seen.add(target)
                    paths.append((*path, target))
