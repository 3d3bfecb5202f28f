"""orchd.service: what systemd makes of it, and that it is in step with the daemon.

systemd-analyze asks for no running systemd. Where it is not there, only what needs it is skipped.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from orchd.config.model import ServerConfig
from orchd.config.places import SYSTEM_CONFIG
from orchd.daemon import STOP_S

UNIT = Path(__file__).parents[1] / "orchd.service"
EXPOSURE_MAX = 3.0


def read_unit() -> dict[str, list[str]]:
    """The keys of [Service], each with its values in order."""
    service = UNIT.read_text().partition("[Service]")[2].partition("[Install]")[0]
    settings: dict[str, list[str]] = {}
    for name, value in re.findall(r"^(\w+)=(.*)$", service, re.MULTILINE):
        settings.setdefault(name, []).append(value)
    return settings


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze on PATH")
    return subprocess.run([program, *arguments], capture_output=True, text=True)


def edit(folder: Path, old: str, new: str) -> Path:
    """A copy of the unit with one change."""
    text = UNIT.read_text()
    assert text.count(old) == 1, old
    copy = folder / UNIT.name
    copy.write_text(text.replace(old, new))
    return copy


def test_systemd_finds_nothing_to_say() -> None:
    done = analyze("verify", str(UNIT))
    # It also reads what the unit refers to, where the machine's own may be at fault.
    told = (done.stdout + done.stderr).splitlines()
    assert [line for line in told if UNIT.name in line] == []


def test_systemd_would_find_what_it_does_not_know(tmp_path: Path) -> None:
    done = analyze("verify", str(edit(tmp_path, "ProtectClock=yes", "ProtectClocks=yes")))
    assert "ProtectClocks" in done.stderr


def measure_exposure(unit: Path) -> float:
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    found = re.search(r"Overall exposure level for \S+ ([0-9.]+)", done.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze cannot judge a file: {done.stderr.strip()}")
    return float(found[1])


def test_it_exposes_little() -> None:
    assert measure_exposure(UNIT) <= EXPOSURE_MAX


def test_the_exposure_is_that_of_the_file(tmp_path: Path) -> None:
    without = edit(tmp_path, "CapabilityBoundingSet=\n", "")
    assert measure_exposure(without) > measure_exposure(UNIT)


def test_the_stop_is_given_the_time_that_it_can_take() -> None:
    (allowed_s,) = read_unit()["TimeoutStopSec"]
    assert int(allowed_s) > ServerConfig().stop_grace_s + STOP_S


def test_what_the_daemon_relies_on() -> None:
    unit = read_unit()
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) > 0
    # SIGTERM is for the daemon alone, and an engine's end is the daemon's to see.
    assert (unit["KillMode"], unit["OOMPolicy"]) == (["mixed"], ["continue"])
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["LoadCredential"] == ["orchd-token:/etc/orchd/token"]
    assert unit["ExecStart"][0].endswith(f"orchd serve --config {SYSTEM_CONFIG}")


def test_what_is_kept_from_the_engines() -> None:
    unit = read_unit()
    assert (unit["User"], unit["CapabilityBoundingSet"]) == (["orchd"], [""])
    assert unit["NoNewPrivileges"] == ["yes"]
    assert (unit["ProtectSystem"], unit["ProtectHome"]) == (["strict"], ["tmpfs"])
    assert (unit["IPAddressDeny"], unit["IPAddressAllow"]) == (["any"], ["localhost"])


def test_the_gpus_can_be_reached() -> None:
    unit = read_unit()
    assert unit["DevicePolicy"] == ["closed"]
    groups = {device.split()[0] for device in unit["DeviceAllow"]}
    names = ("", "-frontend", "ctl", "-uvm", "-modeset", "-caps")
    assert groups == {f"char-nvidia{name}" for name in names}
    # CUDA writes code and runs it; a private /dev has no GPU; the driver's files are in /proc.
    for name in ("MemoryDenyWriteExecute", "PrivateDevices", "ProcSubset"):
        assert name not in unit
