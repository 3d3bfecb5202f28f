"""orchd: one workstation's NVIDIA GPUs as a dependable local LLM service."""

from importlib.metadata import version

__version__ = version("orchd")
