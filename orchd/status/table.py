"""Draws how a daemon stands: a line of all, its GPUs, its pools, their replicas."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from orchd.status.cells import (
    GAP,
    Cell,
    Color,
    Row,
    Style,
    cut,
    indent,
    lay_out,
    measure,
    natural_widths,
    paint_line,
)
from orchd.status.standing import Device, Pool, Rates, Replica, Standing

_GIB = 1 << 30
_BAR_MOST, _BAR_LEAST = 24, 6
_NAME, _MODEL, _REPLICA = 1, 1, 0
"""The columns that give way where it is narrow."""
_COLORS = {
    **dict.fromkeys(("ok", "ready"), Color.GREEN),
    **dict.fromkeys(("degraded", "starting", "placing", "loading", "stopping"), Color.YELLOW),
    **dict.fromkeys(("unavailable", "backoff", "down"), Color.RED),
}


def draw(standing: Standing, rates: Rates, where: str, style: Style) -> list[str]:
    """Every line; ``where`` is the address that was asked."""
    lines = [_draw_summary(standing, rates, where, style), ""]
    lines += _draw_devices(standing, style)
    if standing.pools:
        lines += ["", *_draw_pools(standing.pools, style)]
        lines += ["", *_draw_replicas(standing, rates, style)]
    return lines


def _draw_summary(standing: Standing, rates: Rates, where: str, style: Style) -> str:
    words = f"orchd {standing.version} on {where}: {standing.status}"
    if rates and standing.can_serve:
        words += f", {sum(rates.values()):.1f} tokens/s"
    return paint_line(words, _COLORS.get(standing.status, Color.BOLD), style)


def _heads(*names: str, right: Sequence[str] = ()) -> Row:
    return [Cell(name, Color.BOLD, name in right) for name in names]


# -- GPUs --------------------------------------------------------------------------------------


def _draw_devices(standing: Standing, style: Style) -> Iterator[str]:
    if not standing.devices:
        yield from indent(standing.devices_reason or "no NVIDIA GPU", style)
        return
    heads = _heads("DEVICE", "NAME", "VRAM", "BUSY", right=["BUSY"])
    rows = [heads, *(_device_row(device, None, style) for device in standing.devices)]
    if (bar := _choose_bar(rows, style)) is not None:
        rows = [heads, *(_device_row(device, bar, style) for device in standing.devices)]
    head, *lines = lay_out(rows, _NAME, style)
    yield head
    for device, line in zip(standing.devices, lines, strict=True):
        yield line
        if device.reason is not None:
            yield from indent(device.reason, style)


def _choose_bar(rows: Sequence[Row], style: Style) -> int | None:
    """How long a bar beside the figures can be; None where it would be too short to tell much."""
    if style.columns is None:
        return None
    left = style.columns - sum(natural_widths(rows)) - GAP * len(rows[0])
    return None if left < _BAR_LEAST else min(left, _BAR_MOST)


def _device_row(device: Device, bar: int | None, style: Style) -> Row:
    figures = "-"
    if device.total_bytes is not None and device.free_bytes is not None:
        used_bytes = max(device.total_bytes - device.free_bytes, 0)
        figures = f"{used_bytes / _GIB:.1f} of {device.total_bytes / _GIB:.1f} GiB"
        if bar is not None:
            shown = draw_bar(used_bytes, device.reserved_bytes, device.total_bytes, bar, style)
            figures = f"{shown}{' ' * GAP}{figures}"
    busy = "-" if device.utilization is None else f"{device.utilization}%"
    name = Cell(device.name or device.device or "not known", Color.RED if device.reason else None)
    return [Cell(device.label), name, Cell(figures), Cell(busy, is_right=True)]


def draw_bar(
    used_bytes: int, reserved_bytes: int, total_bytes: int, width: int, style: Style
) -> str:
    """What is in use, then what is promised beyond that, then what is free."""
    used_mark, promised_mark, free_mark = "█▒░" if style.has_blocks else "#+."
    total_bytes = max(total_bytes, 1)
    used = min(round(width * used_bytes / total_bytes), width)
    held = min(round(width * max(used_bytes, reserved_bytes) / total_bytes), width)
    return used_mark * used + promised_mark * (held - used) + free_mark * (width - held)


# -- pools and replicas ------------------------------------------------------------------------


def _draw_pools(pools: Sequence[Pool], style: Style) -> Iterator[str]:
    rows = [_heads("POOL", "MODEL", "ENGINE", "QUEUED")]
    for pool in pools:
        queued = ", ".join(f"{depth} {priority}" for priority, depth in pool.queued)
        model = pool.model.rpartition("/")[2]
        rows.append([Cell(pool.pool_id), Cell(model), Cell(pool.engine), Cell(queued)])
    head, *lines = lay_out(rows, _MODEL, style)
    yield head
    for pool, line in zip(pools, lines, strict=True):
        yield line
        for note in pool.notes:
            yield from indent(note, style)


def _draw_replicas(standing: Standing, rates: Rates, style: Style) -> Iterator[str]:
    labels = {gpu.device: gpu.label for gpu in standing.devices if gpu.device is not None}
    replicas = [(pool, replica) for pool in standing.pools for replica in pool.replicas]
    numbers = ("SLOTS", "TOKENS/S", "RESTARTS")
    rows = [_heads("REPLICA", "STATE", "DEVICE", *numbers, right=numbers)]
    rows += [_replica_row(replica, labels, rates) for _, replica in replicas]
    head, *lines = lay_out(rows, _REPLICA, style)
    yield head
    for (pool, replica), line in zip(replicas, lines, strict=True):
        yield line
        if replica.model is not None and replica.model != pool.model:
            yield from indent(f"has the model {replica.model}", style)
        if replica.reason is not None:
            yield from indent(replica.reason, style)


def _replica_row(replica: Replica, labels: Mapping[str, str], rates: Rates) -> Row:
    where = "CPU" if replica.device == "cpu" else labels.get(replica.device or "", replica.device)
    rate = rates.get(replica.replica_id)
    numbers = (
        f"{replica.slots_busy} of {replica.slots_total}" if replica.slots_total else "-",
        "-" if rate is None or not replica.slots_total else f"{rate:.1f}",
        str(replica.restarts),
    )
    return [
        Cell(replica.replica_id),
        Cell(replica.state, _COLORS.get(replica.state)),
        Cell(where or "-"),
        *(Cell(number, is_right=True) for number in numbers),
    ]


def cut_to_height(lines: Sequence[str], rows: int, style: Style) -> list[str]:
    """At most so many lines, the last of them telling how many there are beyond."""
    if len(lines) <= rows:
        return list(lines)
    told = f"{style.ellipsis} {len(lines) - rows + 1} more lines"
    width = measure(told) if style.columns is None else style.columns
    return [*lines[: rows - 1], cut(told, width, style.ellipsis)]
