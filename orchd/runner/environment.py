"""An engine's environment: built, not inherited.

What a user has set for an engine of their own (``LLAMA_ARG_*``, a router's port) would change ours,
and what the daemon knows (its token) is none of an engine's business.
"""

from __future__ import annotations

from collections.abc import Mapping

from orchd.runner.allowed import CPU

_INHERITED = (
    "PATH",
    "HOME",
    "USER",
    "LANG",
    "LC_ALL",
    "TZ",
    "TMPDIR",
    "LD_LIBRARY_PATH",
    "CUDA_HOME",
    "CUDA_PATH",
    "XDG_CACHE_HOME",
    "HF_HOME",
    "HF_HUB_CACHE",
)


def build_environment(
    own: Mapping[str, str],
    engine: Mapping[str, str],
    pool: Mapping[str, str],
    device: str,
) -> dict[str, str]:
    """Merge ours, the engine's and the pool's, the later ones winning; then name the one device."""
    inherited = {name: own[name] for name in _INHERITED if name in own}
    # Empty means none: an engine on the CPU must not see a GPU by accident.
    visible = "" if device == CPU else device
    # By bus, as NVML and nvidia-smi count: what an engine logs as device 0 can be looked up there.
    own_cuda = {"CUDA_VISIBLE_DEVICES": visible, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    return {**inherited, **engine, **pool, **own_cuda}
