"""What the README shows is what orchd is: its configurations, its drop-in, its symptoms.

Its commands are run in tests/e2e/test_readme.py.
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from benchmark.bars import BARS

from orchd.config.model import Config
from orchd.config.validate import validate
from tests.readme import HOME, README, ROOT, Block, read_blocks

BLOCKS = read_blocks()


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def test_a_block_is_all_that_stands_between_two_fences() -> None:
    blocks = read_blocks("# A\n```sh\n# not B\nls\n```\n## C\n```\n```\n")
    assert blocks == [Block(0, "A", "sh", "# not B\nls\n"), Block(1, "C", "", "")]


def test_every_block_has_a_language_that_some_test_is_for() -> None:
    run = {"sh", "python", "json", "text"}
    read = {"toml", "ini", "yaml"}
    assert {block.language for block in BLOCKS} == run | read


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_a_configuration_is_valid(block: Block) -> None:
    assert isinstance(validate(tomllib.loads(block.text)), Config)


def test_the_first_configuration_is_the_least() -> None:
    least = of("toml")[0].text.splitlines()
    assert least[0] == "[[pools]]"
    for n in range(1, len(least)):
        document = tomllib.loads("\n".join(least[:n] + least[n + 1 :]))
        assert not isinstance(validate(document), Config), least[n]


def test_the_costs_are_those_that_are_measured() -> None:
    row = r"^\| `(\w+)` \| [\d.]+ \S+ \| (.=? [\d.]+) \| (.*) \|$"
    rows = re.findall(row, README.read_text(), re.MULTILINE)
    assert rows == [(key, str(bar), bar.about) for key, bar in BARS.items()]


def test_systemd_takes_the_drop_in(tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on PATH")
    (block,) = of("ini")
    shutil.copy(ROOT / "orchd.service", tmp_path)
    drop_in = tmp_path / "orchd.service.d" / "override.conf"
    drop_in.parent.mkdir()

    def complain(text: str) -> list[str]:
        drop_in.write_text(text)
        done = subprocess.run(
            [program, "verify", str(tmp_path / "orchd.service")], capture_output=True, text=True
        )
        told = (done.stdout + done.stderr).splitlines()
        return [line for line in told if drop_in.name in line]

    assert complain(block.text) == []
    assert complain(block.text.replace("BindReadOnlyPaths", "BindReadOnlyPath"))


def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    (block,) = of("yaml")
    assert block.text.count(HOME) == 1
    text = block.text.replace(HOME, str(tmp_path))
    (job,) = yaml.safe_load(text)["scrape_configs"]
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("no promtool on PATH; read as YAML alone")
    token = Path(job["authorization"]["credentials_file"])
    token.parent.mkdir(parents=True)
    token.write_text("a-token")
    (tmp_path / "prometheus.yml").write_text(text)
    done = subprocess.run(
        [program, "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_one_sees_is_what_orchd_says() -> None:
    said = {
        node.value
        for path in (ROOT / "orchd").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }
    table = README.read_text().partition("| you see |")[2].partition("\n\n")[0]
    symptoms = [line.split(" | ")[0] for line in table.splitlines()[2:]]
    assert len(symptoms) > 15
    words = [word for line in symptoms for word in re.findall("`([^`]+)`", line)]
    assert len(words) > 25
    assert [w for w in words if not any(w.removeprefix(": ") in text for text in said)] == []


def test_what_it_points_to_is_there() -> None:
    targets = re.findall(r"\]\((?!https:)([^)#]+)\)", README.read_text())
    assert len(targets) > 4
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_each_module_has_its_place_on_the_map() -> None:
    told = (ROOT / "CONTRIBUTING.md").read_text()
    tree = told.partition("```\norchd/\n")[2].partition("```")[0]
    rows = dict(re.findall(r"^  (\w+)/(.*(?:\n {10}.*)*)", tree, re.MULTILINE))
    paths = [path.relative_to(ROOT / "orchd") for path in (ROOT / "orchd").rglob("*.py")]
    assert len(paths) > 100

    def is_told(path: Path) -> bool:
        if path.stem == "__init__" or f"{path}`" in told or f"`{path.name}`" in told:
            return True
        row = rows.get(path.parent.name, "") if path.parent.name else tree
        return path.stem in re.findall(r"\w+", row)

    assert [str(path) for path in paths if not is_told(path)] == []
