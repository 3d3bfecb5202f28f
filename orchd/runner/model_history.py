"""Which model a pool serves, and which it has served before.

The configuration names one; a reload brings another, or the same one afresh. Invariant: exactly one
is ``Active``; of those that were replaced the last few are kept as ``Retired``, each once.
"""

from __future__ import annotations

from dataclasses import replace

from orchd.config.model import PoolConfig

KEPT = 4
"""Retired models for each pool."""


class ModelHistory:
    """One pool's models."""

    def __init__(self, configured: PoolConfig) -> None:
        self.configured = configured
        self.active = configured
        """How the pool is configured, with the model that is active."""
        self.retired: tuple[str, ...] = ()
        """The models that were replaced, the newest last."""

    @property
    def is_configured(self) -> bool:
        """True where the active model is the one that a start of the daemon brings."""
        return self.active.model == self.configured.model

    def configure(self, model_ref: str | None) -> PoolConfig:
        """The pool's configuration with that model; None is the active one.

        What the configuration says of its own model in particular is not true of another.
        """
        if model_ref is None:
            return self.active
        if model_ref == self.configured.model:
            return self.configured
        return replace(self.configured, model=model_ref, vram_mib=None, sha256=None)

    def activate(self, config: PoolConfig) -> None:
        """That one is active now, and the one before is retired, where they differ."""
        models = [model for model in self.retired if model != config.model]
        if self.active.model != config.model:
            models.append(self.active.model)
        self.retired = tuple(models[-KEPT:])
        self.active = config
