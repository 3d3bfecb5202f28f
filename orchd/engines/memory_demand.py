"""What an engine takes of its device's memory, as a value.

An adapter reads it out of a pool's configuration; the runner puts it together with the model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

DeviceKind = Literal["gpu", "cpu"]


@dataclass(frozen=True, slots=True)
class Companion:
    """A further model file that the engine loads onto the device beside the pool's model."""

    what: str
    """For the user: ``draft model``."""
    path: str
    has_cache: bool
    """True where it generates, and so keeps a cache for every slot."""


@dataclass(frozen=True, slots=True)
class MemoryDemand:
    """What an engine does with the memory of one device, as far as its configuration decides it.

    The model itself, its layers and its weights, is not in here: who reckons puts both together.
    """

    ctx_tokens: int
    """For each slot."""
    slots: int
    batch_tokens: int
    """How many tokens are computed at once; work space is reserved for them."""
    key_type: str = "f16"
    value_type: str = "f16"
    """ggml's names of the types that the cache is kept in."""
    layers_on_device: int | None = None
    """None: all of them. Otherwise the last so many; the others stay in the host's memory."""
    expert_layers_on_host: int = 0
    """Of the first so many layers, the experts stay in the host's memory."""
    is_input_on_device: bool = True
    """False where the table of tokens stays in the host's memory."""
    is_cache_on_device: bool = True
    unpacks_cache: bool = False
    """True where a cache of a smaller type is unpacked to f16, a layer at a time, to be read."""
    cell_tokens: int = 256
    """A slot's context is rounded up to so many tokens."""
    cache_step_bytes: int = 1
    """The cache of all slots is rounded up to so many bytes."""
    element_bytes: int = 4
    """Of a number in a batch's work space."""
    output_bytes: int = 4
    """Of the work space for one slot's next token, for each word of the vocabulary."""
    has_masks: bool = True
    """True where it writes out who sees whom in a batch."""
    is_attention_fused: bool = True
    """False where the scores of all heads are written out (no flash attention)."""
    keeps_windows_only: bool = True
    """True where layers with a sliding window keep no more than the window."""
    fixed: tuple[tuple[str, int], ...] = ()
    """What it takes whatever the model, each with its bytes."""
    unread: tuple[tuple[str, int], ...] = ()
    """What is allowed for instead of a model of which nothing is known."""
    companions: tuple[Companion, ...] = ()
    notes: tuple[str, ...] = ()
    """What of its configuration is not in the reckoning, for the user."""
    total_fraction: float | None = None
    """Where it takes that share of the card's whole memory, whatever the model. Of an engine whose
    models come from a hub: only where the model is not here yet, so that nothing is known of it."""
    is_hub_usual: bool = True
    """False where its flags lead to another place than a hub's usual cache, or to a revision."""
    takes_all: bool = False
    """True where it fills whatever it is given, so that measuring it teaches nothing."""
