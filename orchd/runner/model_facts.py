"""What a model file's head means for memory: layers, heads, windows, states, weights.

Where a file leaves something open (which layers have a window, which layers of a hybrid model keep
a cache), the larger reading is taken; what is not reckoned at all is told in a note.

Sources: the GGUF specification's keys, and llama.cpp's ``llama-hparams`` for what files leave out:
the pattern of sliding windows by architecture, and the sizes of recurrent states.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from orchd.runner.gguf import Head, Value, Weights
from orchd.runner.gguf_cursor import ModelFileError

_LAYERS_MAX = 4096
_SIZE_MAX = 1 << 31
_STATE_ELEMENT_BYTES = 4
_WINDOW_PERIODS = {"gemma2": 2, "gpt-oss": 2, "cohere2": 4, "olmo2": 4, "exaone4": 4}
_WINDOW_PERIODS |= {"gemma3": 6, "gemma-embedding": 6}
"""Of so many layers in a row the last sees everything, the others only the window."""


@dataclass(frozen=True, slots=True)
class LayerCache:
    """What one layer keeps of one token, in elements."""

    key_size: int
    value_size: int
    is_windowed: bool = False
    """True where only the last ``window_tokens`` are kept."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """A model, as far as memory goes."""

    architecture: str
    embedding: int
    heads: int
    feed_forward: int
    """Widest inner row of one token: that of a dense layer, or of all experts that it passes."""
    vocabulary: int
    caches: tuple[LayerCache, ...]
    """By layer; 0 and 0 where a layer keeps none."""
    window_tokens: int
    state_bytes: int
    """What recurrent layers keep for each slot, however long its text."""
    weights: Weights
    notes: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        return len(self.caches)


def read_facts(heads: Sequence[Head]) -> ModelFacts:
    """Of all parts of a model, the first of which has the keys. Raises ModelFileError."""
    keys = _Keys(heads[0].values)
    layers = keys.number("block_count", most=_LAYERS_MAX)
    if layers < 1:
        raise ModelFileError(f"names no number of layers ({keys.architecture}.block_count)")
    weights = add_weights([head.weights for head in heads])
    states, notes = _read_states(keys, layers)
    caches = _read_caches(keys, layers, states)
    if weights.unknown_types:
        numbers = ", ".join(map(str, weights.unknown_types))
        notes = (*notes, f"tensor types {numbers} are not known to orchd: the file's size counts")
    return ModelFacts(
        architecture=keys.architecture,
        embedding=keys.number("embedding_length"),
        heads=max(keys.each("attention.head_count", layers), default=0),
        feed_forward=_feed_forward(keys, layers),
        vocabulary=weights.vocabulary or keys.number("vocab_size") or keys.tokens,
        caches=caches,
        window_tokens=keys.number("attention.sliding_window"),
        state_bytes=sum(states) * _STATE_ELEMENT_BYTES,
        weights=weights,
        notes=notes,
    )


def add_weights(parts: Sequence[Weights]) -> Weights:
    """All parts of a model as one."""
    unknown = {number for part in parts for number in part.unknown_types}
    return Weights(
        total_bytes=sum(part.total_bytes for part in parts),
        input_bytes=sum(part.input_bytes for part in parts),
        has_output=any(part.has_output for part in parts),
        vocabulary=max(part.vocabulary for part in parts),
        layer_bytes=_add_layers([part.layer_bytes for part in parts]),
        expert_bytes=_add_layers([part.expert_bytes for part in parts]),
        unknown_types=tuple(sorted(unknown)),
    )


def _add_layers(parts: Sequence[tuple[tuple[int, int], ...]]) -> tuple[tuple[int, int], ...]:
    sums: dict[int, int] = {}
    for part in parts:
        for layer, size_bytes in part:
            sums[layer] = sums.get(layer, 0) + size_bytes
    return tuple(sorted(sums.items()))


class _Keys:
    """The keys of the file's own architecture, held against what can be."""

    def __init__(self, values: Mapping[str, Value]) -> None:
        architecture = values.get("general.architecture")
        if not isinstance(architecture, str) or not architecture.isprintable():
            raise ModelFileError("names no architecture (general.architecture)")
        self.architecture = architecture
        self._values = values

    @property
    def tokens(self) -> int:
        tokens = self._values.get("tokenizer.ggml.tokens")
        return tokens if isinstance(tokens, int) else 0

    def get(self, name: str) -> Value | None:
        return self._values.get(f"{self.architecture}.{name}")

    def number(self, name: str, most: int = _SIZE_MAX) -> int:
        """A count or a size; 0 where the file does not say. Of an array, the largest."""
        value = self.get(name)
        if value is None:
            return 0
        return max((self._hold(name, item, most) for item in _items(value)), default=0)

    def each(self, name: str, layers: int) -> tuple[int, ...]:
        """One number for each layer, however the file writes it; empty where it does not."""
        value = self.get(name)
        if value is None:
            return ()
        if not isinstance(value, tuple):
            return (self._hold(name, value, _SIZE_MAX),) * layers
        if len(value) < layers:
            problem = f"has {len(value)} items for {layers} layers"
            raise ModelFileError(f"is damaged: {self.architecture}.{name} {problem}")
        return tuple(self._hold(name, item, _SIZE_MAX) for item in value[:layers])

    def _hold(self, name: str, value: object, most: int) -> int:
        if not isinstance(value, int) or not 0 <= value <= most:
            raise ModelFileError(f"is damaged: {self.architecture}.{name} is {value!r}")
        return int(value)


def _items(value: Value) -> tuple[object, ...]:
    return value if isinstance(value, tuple) else (value,)


def _feed_forward(keys: _Keys, layers: int) -> int:
    dense = keys.number("feed_forward_length")
    used = keys.number("expert_used_count")
    expert = keys.number("expert_feed_forward_length") or (dense if used else 0)
    # A recurrent layer's inner rows are as wide as a feed-forward's (llama.cpp: ssm_in).
    return max(dense, used * expert, 2 * keys.number("ssm.inner_size"))


# -- what layers keep of tokens ------------------------------------------------------------------


def _read_caches(keys: _Keys, layers: int, states: tuple[int, ...]) -> tuple[LayerCache, ...]:
    heads = keys.each("attention.head_count", layers) or (0,) * layers
    kv_heads = keys.each("attention.head_count_kv", layers) or heads
    embedding, most_heads = keys.number("embedding_length"), max(heads)
    usual = embedding // most_heads if most_heads else 0
    key = keys.number("attention.key_length") or usual
    # Multi-head latent attention: one latent row for all heads, and values are computed out of
    # it (llama.cpp keeps no V cache then; measured on build 11549).
    is_latent = keys.get("attention.key_length_mla") is not None
    value = 0 if is_latent else keys.number("attention.value_length") or usual
    near_key = keys.number("attention.key_length_swa") or key
    near_value = 0 if is_latent else keys.number("attention.value_length_swa") or value
    windowed = _windowed(keys, layers)
    keeping = _keeping(keys, layers)
    return tuple(
        LayerCache(
            kv_heads[n] * (near_key if windowed[n] else key) * keeping[n],
            kv_heads[n] * (near_value if windowed[n] else value) * keeping[n],
            windowed[n],
        )
        for n in range(layers)
    )


def _windowed(keys: _Keys, layers: int) -> tuple[bool, ...]:
    """Which layers see only the window; none where it is not known."""
    if not keys.number("attention.sliding_window"):
        return (False,) * layers
    pattern = keys.get("attention.sliding_window_pattern")
    if isinstance(pattern, tuple) and len(pattern) >= layers:
        return tuple(bool(item) for item in pattern[:layers])
    period = pattern if isinstance(pattern, int) and pattern > 0 else 0
    period = period or _WINDOW_PERIODS.get(keys.architecture, 1)
    return tuple(n % period < period - 1 for n in range(layers))


def _keeping(keys: _Keys, layers: int) -> tuple[bool, ...]:
    """Which layers keep a cache of their own, as far as it is not told by their heads."""
    interval = keys.number("full_attention_interval")
    shared = keys.number("attention.shared_kv_layers")
    return tuple(
        n < layers - shared and (not interval or (n + 1) % interval == 0) for n in range(layers)
    )


# -- what recurrent layers keep ------------------------------------------------------------------


def _read_states(keys: _Keys, layers: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Elements that each layer keeps for each slot, and what is to be said of it."""
    each = _state_elements(keys)
    notes: list[str] = []
    if keys.get("attention.indexer.head_count") is not None:
        notes.append("the cache of its indexer is not reckoned")
    is_recurrent = any(keys.get(name) is not None for name in _RECURRENT_KEYS)
    if not is_recurrent:
        return (0,) * layers, tuple(notes)
    kv_heads = keys.each("attention.head_count_kv", layers)
    kv_heads = kv_heads or keys.each("attention.head_count", layers)
    interval = keys.number("full_attention_interval")
    if interval:
        has_state = tuple((n + 1) % interval != 0 for n in range(layers))
    elif any(kv_heads) and not all(kv_heads):
        has_state = tuple(count == 0 for count in kv_heads)
    else:
        has_state = (True,) * layers
        if any(kv_heads):
            notes.append("a hybrid model: cache and state are counted for every layer")
    if not each:
        notes.append("the state of its recurrent layers is not reckoned")
    return tuple(each * has for has in has_state), tuple(notes)


_RECURRENT_KEYS = ("ssm.state_size", "wkv.head_size", "shortconv.l_cache")


def _state_elements(keys: _Keys) -> int:
    """Elements that a recurrent layer keeps for each slot."""
    inner, state = keys.number("ssm.inner_size"), keys.number("ssm.state_size")
    embedding = keys.number("embedding_length")
    if inner:
        rows = inner + 2 * keys.number("ssm.group_count") * state
        return max(keys.number("ssm.conv_kernel") - 1, 0) * rows + state * inner
    if head := keys.number("wkv.head_size"):
        return (keys.number("token_shift_count") or 2) * embedding + embedding * head
    return max(keys.number("shortconv.l_cache") - 1, 0) * embedding
