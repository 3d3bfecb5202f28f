"""The layer check finds each kind of violation planted in a small tree, and nothing in a clean one.

The trees are written into tmp_path; only the last tests read the repository's own orchd/.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from check_layers import PURE_STDLIB, check_tree
from rooms import ROOMS

REPOSITORY = Path(__file__).resolve().parents[2]

CLEAN = {
    "orchd/__init__.py": '"""Version."""\nfrom importlib.metadata import version\n',
    "orchd/errors.py": "from enum import StrEnum\n",
    "orchd/config/__init__.py": "",
    "orchd/config/model.py": "from pathlib import Path\nfrom ..errors import OrchdError\n",
    "orchd/config/load.py": "import os\nfrom . import model\nfrom orchd import __version__\n",
    "orchd/http1/__init__.py": "",
    "orchd/http1/sse.py": "import h11\nfrom http import HTTPStatus\n",
    "orchd/engines/__init__.py": "",
    "orchd/engines/adapter.py": "from collections.abc import Iterator\n",
    "orchd/engines/client.py": "import asyncio, h11\nfrom orchd.engines.adapter import Request\n",
    "orchd/engines/embedded_llamacpp.py": "import os\nimport xllamacpp\n",
    "orchd/serving/__init__.py": "",
    "orchd/serving/queue.py": "from uuid import UUID\nfrom orchd.engines import adapter\n",
    "orchd/serving/service.py": "import time\nfrom orchd.engines import client\n",
    "orchd/api/__init__.py": "",
    "orchd/api/wire.py": "import orjson\nfrom orchd.serving import queue\n",
    "orchd/api/tasks.py": "from orchd.engines.adapter import Request\nimport orchd.http1.sse\n",
    "orchd/runner/__init__.py": "",
    "orchd/runner/devices.py": "import pynvml\n",
    "orchd/runner/tether.py": "import ctypes\n",
    "orchd/runner/remains.py": "import os\n",
    "orchd/runner/guardian.py": "import json\nfrom orchd.runner.remains import kill\n",
    "orchd/runner/guard.py": "from orchd.runner.remains import read_process\n",
    "orchd/daemon.py": "import uvloop\nfrom orchd.api import tasks\nimport orchd.runner.devices\n",
    "orchd/cli.py": "import sys\nfrom orchd.daemon import main\n",
}


def plant(root: Path, **changes: str) -> Path:
    """Writes the clean tree with some files replaced; ``serving_queue=...`` names a module."""
    files = dict(CLEAN)
    for name, text in changes.items():
        files[f"orchd/{name.replace('_', '/', 1)}.py"] = text
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def findings(root: Path) -> list[str]:
    return [str(finding) for finding in check_tree(root)]


def test_a_clean_tree_has_no_finding(tmp_path: Path) -> None:
    assert findings(plant(tmp_path)) == []


BANNED = (
    "asyncio os time random logging socket subprocess threading signal select secrets io datetime "
    "tempfile shutil multiprocessing concurrent.futures ctypes urllib.request sys uuid"
)


@pytest.mark.parametrize("name", [*BANNED.split(), "uvloop", "pynvml", "xllamacpp", "requests"])
def test_a_pure_module_cannot_reach_clock_chance_or_world(tmp_path: Path, name: str) -> None:
    [found] = findings(plant(tmp_path, serving_queue=f"import {name}\n"))
    assert found.startswith(f"orchd/serving/queue.py:1: imports {name}: ")
    assert found.endswith(("[purity]", "[third party]"))


@pytest.mark.parametrize(
    ("line", "text"),
    [
        (1, "from time import monotonic\n"),
        (1, "from uuid import uuid4\n"),
        (1, "from urllib import request\n"),
        (2, "def f() -> None:\n    import time\n"),
        (3, "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import asyncio\n"),
        (1, "open('x')\n"),
        (1, "print('x')\n"),
        (2, "def f():\n    return input()\n"),
        (2, "from pathlib import Path\nPath('x').read_text()\n"),
        (1, "from orchd.serving import service\n"),
        (1, "from .service import Service\n"),
        (1, "from ..engines.client import Client\n"),
        (1, "from orchd import __version__\n"),
    ],
)
def test_an_impure_line_in_a_pure_module_is_found(tmp_path: Path, line: int, text: str) -> None:
    [found] = findings(plant(tmp_path, serving_queue=text))
    assert found.startswith(f"orchd/serving/queue.py:{line}: ")
    assert found.endswith(("[purity]", "[direction]"))


def test_a_package_is_pure_itself(tmp_path: Path) -> None:
    [found] = findings(plant(tmp_path, config___init__="from .load import read\n"))
    assert found.startswith("orchd/config/__init__.py:1: imports orchd.config.load: ")


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("serving_service", "from orchd.api import tasks\n"),
        ("serving_service", "from orchd.http1 import sse\n"),
        ("serving_service", "from orchd.runner import devices\n"),
        ("serving_service", "import orchd.runner.devices\n"),
        ("serving_service", "def f():\n    from ..runner import devices\n"),
        ("serving_service", "if TYPE_CHECKING:\n    from orchd.api.tasks import T\n"),
        ("runner_devices", "from orchd.serving import service\n"),
        ("runner_devices", "from orchd.api import wire\n"),
        ("config_load", "from orchd.engines import adapter\n"),
        ("errors", "from orchd.config import model\n"),
        ("api_tasks", "from orchd.engines import client\n"),
        ("api_tasks", "from orchd.runner import devices\n"),
        ("api_tasks", "import orchd.daemon\n"),
        ("ask", "from orchd.daemon import main\n"),
        ("cli", "from orchd.serving import queue\n"),
        ("runner_tether", "from orchd.errors import OrchdError\n"),
        ("runner_guardian", "from orchd.runner.devices import DeviceMonitor\n"),
        ("runner_guardian", "from orchd.engines.embedded_llamacpp import main\n"),
        ("engines_embedded_llamacpp", "from orchd.engines import adapter\n"),
        ("serving_service", "from orchd.serving import gone_away\nimport orchd.nowhere\n"),
    ],
)
def test_an_import_against_the_direction_is_found(tmp_path: Path, module: str, text: str) -> None:
    found = findings(plant(tmp_path, **{module: text}))
    assert [line for line in found if "[direction]" in line and module.split("_")[0] in line]


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("daemon", "import requests\n"),
        ("engines_client", "import xllamacpp\n"),
        ("engines_embedded_llamacpp", "import h11\n"),
        ("runner_tether", "import orjson\n"),
        ("api_tasks", "from h11 import Connection\n"),
    ],
)
def test_a_third_party_out_of_its_place_is_found(tmp_path: Path, module: str, text: str) -> None:
    [found] = findings(plant(tmp_path, **{module: text}))
    assert found.endswith("[third party]")


@pytest.mark.parametrize(
    "text",
    [
        "import importlib\nimportlib.import_module('orchd.daemon')\n",
        "from importlib import import_module as load\nload('orchd.daemon')\n",
        "__import__('orchd.daemon')\n",
        "import runpy\n",
        "exec('import orchd.daemon')\n",
    ],
)
def test_an_import_by_string_is_found_in_a_shell_too(tmp_path: Path, text: str) -> None:
    [found] = findings(plant(tmp_path, serving_service=text))
    assert found.endswith("[dynamic]")


@pytest.mark.parametrize("module", ["serving_helpers", "extra_thing", "extra", "api_v2/tasks"])
def test_a_module_unknown_to_the_table_is_found(tmp_path: Path, module: str) -> None:
    [found] = findings(plant(tmp_path, **{module: "import time\n"}))
    assert found.endswith("[unknown]")


def test_a_circle_is_reported_once(tmp_path: Path) -> None:
    root = plant(
        tmp_path,
        serving_dispatch="import math\nfrom .pace import a\n",
        serving_pace="from .queue import b\n",
        serving_queue="def f():\n    from orchd.serving.dispatch import c\n",
    )
    [found] = findings(root)
    circle = "orchd.serving.dispatch -> orchd.serving.pace -> orchd.serving.queue"
    assert found == (
        f"orchd/serving/dispatch.py:2: import circle: {circle} -> orchd.serving.dispatch [circle]"
    )


def test_a_module_of_301_lines_is_found_and_one_of_300_is_not(tmp_path: Path) -> None:
    assert findings(plant(tmp_path, cli="\n" * 300)) == []
    [found] = findings(plant(tmp_path, cli="\n" * 301))
    assert found == "orchd/cli.py:301: 301 lines, over 300 [size]"


def test_a_relative_import_beyond_the_root_is_found(tmp_path: Path) -> None:
    assert findings(plant(tmp_path, serving_service="from .... import anything\n"))


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPOSITORY / "tools" / "check_layers.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_exit_status_tells_clean_found_and_could_not_run(tmp_path: Path) -> None:
    clean = run(str(plant(tmp_path / "clean")))
    assert (clean.returncode, clean.stdout) == (0, "")
    dirty = run(str(plant(tmp_path / "dirty", serving_queue="import time\n")))
    assert (dirty.returncode, len(dirty.stdout.splitlines())) == (1, 1)
    broken = run(str(plant(tmp_path / "broken", serving_queue="import\n")))
    assert (broken.returncode, broken.stdout) == (2, "")
    assert "could not run" in broken.stderr
    assert run(str(tmp_path / "missing")).returncode == 2
    assert run("one", "two").returncode == 2


def test_the_table_agrees_with_itself() -> None:
    for name, room in ROOMS.items():
        named = {*room.imports, *room.imports_pure_of, *room.shells_import}
        assert named <= set(ROOMS), name
        kinds = [*room.pure, *room.shells, *room.alone]
        assert len(kinds) == len(set(kinds)), name
    assert {top.split(".")[0] for top in PURE_STDLIB} <= sys.stdlib_module_names


def test_this_repository_keeps_its_own_rule() -> None:
    assert findings(REPOSITORY) == []
