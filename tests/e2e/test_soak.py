"""The whole tool, on a daemon with a defect: it finds it, tells what led there, and cleans up.

A daemon without one is soaked for longer, in a step of its own of tools/test.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from soaking.__main__ import build_parser, main
from soaking.processes import list_marked

from tests.fakes.planted import DEFECTS

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 240


@pytest.mark.parametrize(
    ("defect", "broken"), [("cursor-off-by-one", "ends_once"), ("sudden-death", "speaks")]
)
def test_a_defect_is_found(tmp_path: Path, demo_model: Path, defect: str, broken: str) -> None:
    command = [str(ROOT / "tools" / "soak"), "--seconds", "60", "--seed", "5", "--json"]
    plot = tmp_path / "plot.svg"
    command += ["--plant", defect, "--plot", str(plot)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert ended.returncode == 1, ended.stderr
    told = json.loads(ended.stdout)
    assert told["seed"] == 5 and not told["verdicts"][broken]["kept"]
    assert told["breaches"][0]["steps"], "nothing led there"
    assert plot.read_text().startswith("<svg")
    kept = Path(ended.stderr.rpartition(" ")[2].strip())
    try:
        assert (kept / "daemon.log").exists() and (kept / "journal").exists()
        assert list_marked(kept) == []
    finally:
        shutil.rmtree(kept)


def test_the_help_names_every_defect(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # So wide that no name is parted.
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit):
        main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ", ".join(DEFECTS) in text
    assert build_parser().parse_args([]).seconds == 60
