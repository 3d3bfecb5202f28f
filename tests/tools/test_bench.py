"""The benchmark's reckoning: percentiles, the kernel's files, verdicts, both forms of a report."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest
from benchmark.__main__ import describe_run, measure_one
from benchmark.admission import time_bare_us
from benchmark.bars import BARS, Verdict
from benchmark.figures import MachineTicks, find_percentile, read_kib, read_machine_ticks, share_pct
from benchmark.ground import FULL, BenchError, Found, Ground
from benchmark.kernel import Noise, read_cpu_ns, read_memory
from benchmark.queue_cost import time_steps_us
from benchmark.report import Report
from benchmark.rows import MEASUREMENTS, Measurement
from benchmark.streams import Asked, DaemonSide, EngineSide, Story
from loopback import EngineDoor

ENGINE = EngineSide(EngineDoor(1, "key"))
TWO_TOKENS = [
    b'data: {"content":"","tokens_predicted":0}\n\n',
    b'data: {"content":"1000000000","tokens_predicted":1}\n\ndata: {"cont',
    b'ent":"1000002000"',
    b',"tokens_predicted":2}\n\ndata: {"content":"","stop":true,"tokens_predicted":2}\n\n',
]


def test_a_percentile_is_one_of_the_samples() -> None:
    samples = [float(n) for n in range(200, 0, -1)]
    assert (find_percentile(samples, 99), find_percentile(samples, 50)) == (198.0, 100.0)
    assert (find_percentile(samples, 100), find_percentile([7.0], 1)) == (200.0, 7.0)


def test_steal_and_work_are_read_from_the_machines_first_line() -> None:
    stat = "cpu  10 20 30 400 50 6 7 80 9 9\ncpu0 1 1 1 1 1 1 1 1 1 1\n"
    assert read_machine_ticks(stat) == MachineTicks(steal=80, busy=73, total=603)
    assert (share_pct(1, 4), share_pct(0, 0)) == (25.0, 0.0)


def test_memory_is_read_by_its_name() -> None:
    assert read_kib("VmRSSX:\t 9 kB\nVmRSS:\t  2048 kB\n", "VmRSS") == 2048
    memory = read_memory(os.getpid())
    assert 0 < memory.pss_mib <= memory.rss_mib


def test_cpu_time_is_that_of_the_process_named() -> None:
    before_ns = read_cpu_ns(os.getpid())
    while read_cpu_ns(os.getpid()) == before_ns:
        sum(range(1000))
    with pytest.raises(OSError):
        read_cpu_ns(2**22 + 1)


def test_every_row_has_one_measurement() -> None:
    assert sorted(key for one in MEASUREMENTS for key in one.keys) == sorted(BARS)


def test_a_bar_is_met_at_its_bound() -> None:
    most, least = BARS["ready_ms"], BARS["admit_vs_h11"]
    assert (most.judge(300), most.judge(300.1)) == (Verdict.MET, Verdict.MISSED)
    assert (least.judge(0.6), least.judge(0.59)) == (Verdict.MET, Verdict.MISSED)
    assert (str(most), str(least)) == ("<= 300", ">= 0.6")


def make_report(*asked: str, **figures: float) -> Report:
    report = Report({"python": "3"}, asked, dict(figures))
    report.makers = dict.fromkeys(asked, "start")
    report.noise["start"] = Noise(9.0, 12.345, 50.0, 3.0)
    return report


def test_the_exit_code_is_that_of_the_worst_verdict_asked_for() -> None:
    assert make_report("ready_ms", ready_ms=1.0).exit_code == 0
    assert make_report("ready_ms", ready_ms=301.0).exit_code == 1
    assert make_report("ready_ms", "idle_rss_mib", ready_ms=301.0).exit_code == 2
    assert make_report("ready_ms", ready_ms=1.0, idle_rss_mib=99.0).exit_code == 0


def test_a_program_gets_every_key_and_what_it_takes_to_judge() -> None:
    report = make_report("ready_ms", "idle_rss_mib", ready_ms=123.456)
    report.raw["start"] = {"ready_cpu_ms": 98.765432}
    report.faults["idle"] = "the daemon ended by itself"
    told = json.loads(json.dumps(report.to_json()))
    assert {key: told[key] for key in BARS if told[key] is not None} == {"ready_ms": 123.5}
    assert told.keys() == {*BARS, "verdicts", "bars", "raw", "noise", "faults", "run"}
    assert told["verdicts"]["ready_ms"] == "met"
    assert told["verdicts"]["idle_rss_mib"] == "could not be measured"
    assert told["verdicts"]["admit_vs_h11"] == "not asked for"
    assert told["raw"] == {"start": {"ready_cpu_ms": 98.77}}
    assert told["noise"] == {
        "start": {"before_pct": 9.0, "steal_pct": 12.35, "busy_pct": 50.0, "span_s": 3.0}
    }
    assert (told["bars"]["ready_ms"], told["run"]) == ("<= 300", {"python": "3"})


def test_people_get_a_line_for_each_figure_asked_for() -> None:
    report = make_report("ready_ms", "idle_rss_mib", ready_ms=1234.5)
    report.raw["start"] = {"ready_cpu_ms": 98.765432}
    report.faults["idle"] = "the daemon ended by itself"
    lines = list(report.list_lines())
    assert re.match(r"idle_rss_mib +- MiB +<= 40 +could not be measured", lines[1])
    assert re.match(r"ready_ms +1234 ms +<= 300 +MISSED +12\.3 % ", lines[2])
    assert lines[3:] == [
        "",
        "start (steal 12.3 %, machine busy 50 %, before it 9 %, 3 s): ready_cpu_ms 98.8",
        "idle: could not be measured: the daemon ended by itself",
        "python 3",
    ]


def test_a_measurement_that_cannot_be_made_leaves_the_others_be(tmp_path: Path) -> None:
    def fail(_: Ground) -> Found:
        raise BenchError("no C compiler")

    def find(_: Ground) -> Found:
        return Found({"ready_ms": 1.0}, {"ready_cpu_ms": 2.0})

    report = Report({}, ("idle_rss_mib", "ready_ms"))
    ground = Ground(replace(FULL, look_s=0.0), tmp_path, tmp_path)
    measure_one(report, Measurement("idle", ("idle_rss_mib",), fail), ground)
    measure_one(report, Measurement("start", ("ready_ms",), find), ground)
    assert (report.faults, report.figures) == ({"idle": "no C compiler"}, {"ready_ms": 1.0})
    assert report.raw == {"start": {"ready_cpu_ms": 2.0}}
    assert report.noise.keys() == {"idle", "start"} and report.noise["start"].span_s > 0
    assert report.exit_code == 2


def test_a_run_names_the_versions_that_it_measured() -> None:
    run = describe_run(FULL)
    assert {"orchd", "h11", "uvloop", "python", "kernel"} <= run.keys()
    assert run["scale"] == "full"


def test_a_story_tells_its_tokens_wherever_it_was_cut() -> None:
    story = Story(999_000_000_000, TWO_TOKENS, [10**12 + n * 10**6 for n in range(4)])
    assert story.count_tokens(ENGINE, Asked("", 2)) == 2
    assert story.first_token_s(ENGINE) == pytest.approx(1.001)
    assert story.list_gaps_ms() == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    "tokens, pieces",
    [(3, TWO_TOKENS), (2, TWO_TOKENS[:3]), (2, [TWO_TOKENS[1], TWO_TOKENS[3]]), (1, [b""])],
    ids=["too few", "cut off", "two in one event", "nothing"],
)
def test_a_story_that_is_not_whole_is_no_figure(tokens: int, pieces: list[bytes]) -> None:
    with pytest.raises(BenchError, match=f"{tokens} tokens brought"):
        Story(0, pieces).count_tokens(ENGINE, Asked("", tokens))


def test_a_refused_task_is_no_figure() -> None:
    side = DaemonSide(1)
    refused = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 2\r\n\r\n{}"
    assert side.follow(refused[:-1]) is None
    with pytest.raises(BenchError, match="did not admit"):
        side.follow(refused)


def test_h11_writes_what_the_daemon_wrote() -> None:
    request = ENGINE.ask(Asked("Once", 1)).replace(b"Connection: close\r\n", b"")
    answer = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}"
    assert time_bare_us(request, answer, 3) > 0
    with pytest.raises(AssertionError, match="another answer"):
        time_bare_us(request, answer.replace(b": 2", b":2"), 3)


def test_the_queue_is_as_long_after_its_steps() -> None:
    assert time_steps_us(9, 50) > 0
