"""orchd: one workstation's NVIDIA GPUs as a dependable local LLM service."""

__version__ = "0.1.0"
