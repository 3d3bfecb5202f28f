"""The pools of the daemon under soak, as data: what each is there to show.

All but the real one have fake engines. Invariant: no fault is aimed at a pool that ``is_spared``,
nor at its card, so whatever goes wrong there has come over from a neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["fake", "openai", "real"]

NEED_MIB, TAKES_MIB = 300, 820
"""Of the fake models: what there is to load, and what an engine then holds of its card, which is
what is reckoned from the file too: what is promised does not change when it is measured."""
LARGE_MIB, LARGE_TAKES_MIB = 900, 1400
CARDS_GIB = (4.0, 4.0, 4.0, 2.0)
HURT_CARDS = (0, 1, 3)
"""Those that vanish, lie and fill up."""


@dataclass(frozen=True, slots=True)
class Pool:
    """One pool."""

    pool_id: str
    share: int
    """Of the tasks, beside those of the others."""
    kind: Kind = "fake"
    cards: tuple[int, ...] = ()
    """Where it may go; none: the CPU."""
    replicas: int = 1
    slots: int = 2
    interactive: int = 16
    batch: int = 24
    """The bounds of its queue."""
    is_large: bool = False
    """On its card there is no room for two."""
    is_reloaded: bool = True
    is_spared: bool = False
    env: tuple[tuple[str, str], ...] = ()

    @property
    def is_fake(self) -> bool:
        """Its engine speaks llama.cpp's own protocol, keeps a journal and signs its tokens."""
        return self.kind == "fake"


POOLS = (
    Pool("pair", 4, cards=(0, 1), replicas=2, slots=4),
    Pool("beside", 3, cards=(0, 1), slots=3),
    Pool("floating", 2, cards=(0, 1)),
    Pool("within", 2, cards=(3,), is_large=True),
    # One slot and never reloaded, so that the order of its generations is that of its grants.
    Pool("ordered", 3, cards=(2,), slots=1, interactive=5, batch=5, is_reloaded=False),
    Pool("spared", 3, cards=(2,), interactive=8, batch=8, is_reloaded=False, is_spared=True),
    Pool("family", 2, env=(("FAKE_GRANDCHILD", "1"), ("FAKE_STRAY", "1"))),
    Pool("foreign", 2, kind="openai", is_reloaded=False),
    Pool("real", 1, kind="real", interactive=4, batch=4),
)
BY_ID = {pool.pool_id: pool for pool in POOLS}
HURT = tuple(pool for pool in POOLS if not pool.is_spared)
