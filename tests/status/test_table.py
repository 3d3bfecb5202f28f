"""The table, as a person sees it."""

from __future__ import annotations

import pytest

from orchd.status.cells import Style, measure
from orchd.status.standing import read_standing
from orchd.status.table import cut_to_height, draw, draw_bar
from tests.status.health import GIB, health, pool, replica

REASON = "exited with code 1: no more memory; tries again in 4 s"
STANDING = read_standing(
    health(
        pool(
            replica(slots_busy=3),
            replica(
                "chat-1", device=None, state="backoff", slots_total=0, restarts=2, reason=REASON
            ),
        ),
        pool(replica("b-0", device="cpu", model="/models/new.gguf"), pool_id="b", queue={}),
    )
)
RATES = {"chat-0": 42.25, "b-0": 0.0}


def test_a_file_gets_all_of_it_and_no_decoration() -> None:
    assert draw(STANDING, RATES, "127.0.0.1:8642", Style()) == [
        "orchd 0.1.0 on 127.0.0.1:8642: ok, 42.2 tokens/s",
        "",
        "DEVICE  NAME                     VRAM             BUSY",
        "GPU 0   NVIDIA GeForce RTX 3090  6.0 of 24.0 GiB   97%",
        "GPU 1   NVIDIA GeForce RTX 3090  -                   -",
        "  has fallen off the bus",
        "",
        "POOL  MODEL                            ENGINE           QUEUED",
        "chat  llama-3-8b-instruct.Q4_K_M.gguf  llamacpp b11434  3 interactive, 0 batch",
        "b     llama-3-8b-instruct.Q4_K_M.gguf  llamacpp b11434",
        "",
        "REPLICA  STATE    DEVICE   SLOTS  TOKENS/S  RESTARTS",
        "chat-0   ready    GPU 0   3 of 4      42.2         0",
        "chat-1   backoff  -            -         -         2",
        f"  {REASON}",
        "b-0      ready    CPU     0 of 4       0.0         0",
        "  has the model /models/new.gguf",
    ]


def test_a_terminal_gets_bars_and_colors() -> None:
    lines = draw(STANDING, RATES, "a:1", Style(80, has_color=True, has_blocks=True))
    assert lines[0] == "\x1b[32morchd 0.1.0 on a:1: ok, 42.2 tokens/s\x1b[0m"
    # A quarter in use, and half of it promised.
    assert "██████▒▒▒▒▒▒░░░░░░░░░░░░  6.0 of 24.0 GiB" in lines[3]
    assert "\x1b[31mbackoff\x1b[0m" in lines[13]


@pytest.mark.parametrize("columns", [20, 30, 44, 60, 72, 80, 200])
def test_no_line_wraps_and_no_bar_is_cut_through(columns: int) -> None:
    style = Style(columns, has_blocks=True)
    lines = draw(STANDING, RATES, "127.0.0.1:8642", style)
    assert max(map(measure, lines)) <= columns
    bars = [line for line in lines if set(line) & set("█▒░")]
    for line in bars:
        assert "GiB" in line, "a bar is there only where the figures beside it are"
    assert bool(bars) == (columns >= 64)
    assert "4 s" in "".join(lines).replace("  ", " "), "a reason is whole, however narrow it is"


@pytest.mark.parametrize(
    ("used", "reserved", "total", "bar"),
    [
        (0, 0, 8, "........"),
        (4, 0, 8, "####...."),
        (2, 6, 8, "##++++.."),
        (6, 2, 8, "######.."),
        (8, 8, 8, "########"),
        (9, 99, 8, "########"),
        (0, 0, 0, "........"),
    ],
)
def test_a_bar_has_what_is_used_and_what_is_promised(
    used: int, reserved: int, total: int, bar: str
) -> None:
    assert draw_bar(used * GIB, reserved * GIB, total * GIB, 8, Style(80)) == bar


def test_without_a_gpu_it_is_said_why() -> None:
    blind = read_standing(health(devices=[], devices_reason="no NVIDIA driver is installed"))
    assert draw(blind, {}, "a:1", Style())[2:] == ["  no NVIDIA driver is installed"]
    assert draw(blind, {}, "a:1", Style())[0] == "orchd 0.1.0 on a:1: ok"


def test_one_that_cannot_serve_has_no_speed() -> None:
    down = read_standing(health(pool(replica()), status="unavailable"))
    assert draw(down, {"chat-0": 0.0}, "a:1", Style())[0] == "orchd 0.1.0 on a:1: unavailable"


def test_a_screen_that_is_too_low_says_how_much_more_there_is() -> None:
    assert cut_to_height(list("abcd"), 4, Style(80)) == list("abcd")
    assert cut_to_height(list("abcd"), 3, Style(80)) == ["a", "b", "~ 2 more lines"]
