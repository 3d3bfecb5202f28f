"""Checks that every module under orchd/ keeps to its room: purity and the direction of imports.

The table in ``rooms`` is the rule and its documentation; the code here only applies it. Sources are
parsed, never imported, so a broken module cannot hide a finding. An import counts wherever it
stands: at the top, in a function, or under TYPE_CHECKING.

Exit status: 0 clean, 1 findings (one line each on stdout), 2 could not run.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rooms import ROOMS, Room
from source_tree import Import, Module, find_circles, list_imports, read_modules, resolve

# fmt: off
# An allow-list, because a list of what is banned forgets the next way to reach a clock or a file.
PURE_STDLIB = {
    "__future__", "abc", "array", "base64", "binascii", "bisect", "collections",
    "contextlib", "copy", "dataclasses", "decimal", "difflib", "enum", "errno",
    "fractions", "functools", "hashlib", "heapq", "hmac", "html", "ipaddress",
    "itertools", "json", "keyword", "math", "numbers", "operator", "pathlib", "re",
    "shlex", "statistics", "string", "struct", "textwrap", "tomllib", "types", "typing",
    "unicodedata", "urllib.parse", "zlib",
}
# fmt: on
# Modules that mix both: these names are pure, so they are imported by name.
PURE_NAMES = {
    "codecs": ("IncrementalDecoder", "getincrementaldecoder"),
    "http": ("HTTPMethod", "HTTPStatus"),
    "signal": ("Signals",),
    "uuid": ("UUID",),
}
PURE_THIRD_PARTY = ("h11", "orjson")  # bytes in, values out
IO_BUILTINS = ("open", "print", "input", "breakpoint")
# fmt: off
PATH_IO = {
    "absolute", "chmod", "cwd", "exists", "expanduser", "glob", "hardlink_to", "home",
    "is_dir", "is_file", "iterdir", "lstat", "mkdir", "open", "read_bytes", "read_text",
    "readlink", "rename", "resolve", "rglob", "rmdir", "samefile", "stat", "symlink_to",
    "touch", "unlink", "walk", "write_bytes", "write_text",
}
# fmt: on
DYNAMIC = ("__import__", "import_module", "exec", "eval")
MAX_LINES = 300


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    path: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def kind_of(module: Module) -> str | None:
    """``pure``, ``shell``, ``alone``, or None where the table does not know the module."""
    room = ROOMS.get(module.room)
    if room is None:
        return None
    if module.local in room.alone:
        return "alone"
    if module.local in room.shells:
        return "shell"
    # A package's own __init__ runs whenever one of its modules is imported, so it has to be pure.
    is_room_itself = module.is_package and module.local == "__init__"
    return "pure" if module.local in room.pure or is_room_itself else None


def check_direction(module: Module, item: Import, modules: Mapping[str, Module]) -> str | None:
    """What is wrong with an import of orchd's own, if anything."""
    name = resolve(item, modules)
    target = modules.get(name)
    if target is None:
        return f"imports {name}, which is not there [direction]"
    room = ROOMS[module.room]
    if kind_of(module) == "alone":
        if kind_of(target) == "alone" and target.room == module.room:
            return None
        return f"imports {name}: this module runs alone, with none of orchd but such [direction]"
    is_shell = kind_of(module) == "shell"
    is_allowed = (
        target.room in (module.room, *room.imports)
        or (target.room in room.imports_pure_of and kind_of(target) == "pure")
        or (is_shell and target.room in (*room.shells_import, "__init__"))
    )
    if not is_allowed:
        return f"imports {name}: {module.room} may import {describe(room)} [direction]"
    if kind_of(module) == "pure" and kind_of(target) != "pure":
        return f"imports {name}: a pure module imports only pure modules [purity]"
    return None


def describe(room: Room) -> str:
    """The table's line in words, for a message."""
    allowed = [
        *room.imports,
        *(f"{name} (pure modules)" for name in room.imports_pure_of),
        *(f"{name} (from shells)" for name in room.shells_import),
    ]
    return ", ".join(allowed) or "nothing of orchd"


def check_outside(module: Module, item: Import) -> str | None:
    """What is wrong with an import from the standard library or from a third party, if anything."""
    room = ROOMS[module.room]
    top = item.module.split(".")[0]
    if top == "runpy" or str(item) in ("importlib.import_module", "importlib.__import__"):
        return f"imports {item}: it loads code that no check can see [dynamic]"
    if top not in sys.stdlib_module_names:
        allowed = room.third_party
        if kind_of(module) == "alone":
            allowed = room.alone[module.local]
        elif kind_of(module) == "pure":
            allowed = tuple(name for name in allowed if name in PURE_THIRD_PARTY)
        if top in allowed:
            return None
        words = ", ".join(allowed) or "none"
        return f"imports {item}: third parties allowed in this module: {words} [third party]"
    if kind_of(module) != "pure":
        return None
    is_listed = any(name in PURE_STDLIB for name in (top, item.module, str(item)))
    if is_listed or item.name in PURE_NAMES.get(item.module, ()):
        return None
    return f"imports {item}: not on the list of what a pure module may import [purity]"


def check_calls(module: Module, imports: Iterable[Import]) -> Iterator[Finding]:
    """Imports by string anywhere; IO by builtin or by a path's method in a pure module."""
    has_paths = any(item.module == "pathlib" for item in imports)
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.Call):
            continue
        match node.func:
            case ast.Name(id=name) if name in DYNAMIC:
                what = f"calls {name}(): an import or code that no check can see [dynamic]"
            case ast.Attribute(attr=name) if name in ("import_module", "__import__"):
                what = f"calls {name}(): an import that no check can see [dynamic]"
            case ast.Name(id=name) if kind_of(module) == "pure" and name in IO_BUILTINS:
                what = f"calls {name}(): a pure module does no IO [purity]"
            case ast.Attribute(attr=name) if (
                kind_of(module) == "pure" and has_paths and name in PATH_IO
            ):
                what = f"calls .{name}() beside pathlib: a pure module touches no file [purity]"
            case _:
                continue
        yield Finding(module.path, node.lineno, what)


def check_module(module: Module, modules: Mapping[str, Module]) -> Iterator[Finding]:
    lines = len(module.text.splitlines())
    if lines > MAX_LINES:
        yield Finding(module.path, MAX_LINES + 1, f"{lines} lines, over {MAX_LINES} [size]")
    if kind_of(module) is None:
        unknown = "not in the table of tools/check_layers.py: put it in a room on purpose [unknown]"
        yield Finding(module.path, 1, unknown)
        return
    imports = list(list_imports(module))
    for item in imports:
        is_ours = item.module.split(".")[0] == "orchd"
        what = check_direction(module, item, modules) if is_ours else check_outside(module, item)
        if what is not None:
            yield Finding(module.path, item.line, what)
    yield from check_calls(module, imports)


def check_tree(root: Path) -> list[Finding]:
    """Every finding under root/orchd, by path and line."""
    modules = read_modules(root)
    findings = [finding for module in modules.values() for finding in check_module(module, modules)]
    for circle in find_circles(modules):
        first = modules[circle[0]]
        line = min(i.line for i in list_imports(first) if resolve(i, modules) == circle[1])
        words = " -> ".join(circle)
        findings.append(Finding(first.path, line, f"import circle: {words} [circle]"))
    return sorted(set(findings))


def main(argv: list[str]) -> int:
    if len(argv) > 1 or (argv and argv[0].startswith("-")):
        print("usage: check_layers.py [ROOT]", file=sys.stderr)
        return 2
    root = Path(argv[0]) if argv else Path(__file__).resolve().parent.parent
    try:
        findings = check_tree(root)
    except (OSError, SyntaxError, ValueError) as fault:
        print(f"check_layers: could not run: {fault}", file=sys.stderr)
        return 2
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
