"""The metrics lint finds each kind of fault planted in a clean page, and nothing in the page."""

from __future__ import annotations

import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from metrics_lint import MEDIA_TYPE, RULES, find_token, lint, read_rules

LINT = Path(__file__).resolve().parents[2] / "tools/metrics_lint.py"
TOKEN = "a-token-for-the-lint"
POOL = 'engine="llamacpp",engine_version="b1",pool_id="chat"'
REPLICA = f'{POOL},replica_id="chat-0"'
DEVICE = f'{REPLICA},device="GPU-0"'

CLEAN = f"""\
# HELP queue_depth Tasks that wait.
# TYPE queue_depth gauge
queue_depth{{{POOL},priority="interactive"}} 3
queue_depth{{{POOL},priority="batch"}} 0
# HELP tasks_enqueued_total Tasks admitted.
# TYPE tasks_enqueued_total counter
tasks_enqueued_total{{{REPLICA},priority="interactive"}} 12
# HELP tasks_rejected_total Tasks refused.
# TYPE tasks_rejected_total counter
tasks_rejected_total{{engine="none",reason="INVALID_PARAMS"}} 1
# HELP tokens_in_total Prompt tokens.
# TYPE tokens_in_total counter
tokens_in_total{{{REPLICA}}} 5
# HELP tokens_out_total Tokens generated.
# TYPE tokens_out_total counter
tokens_out_total{{{REPLICA}}} 5e3
# HELP gpu_utilization Share of the time.
# TYPE gpu_utilization gauge
gpu_utilization{{{DEVICE}}} 0.5
# HELP vram_used_bytes Bytes.
# TYPE vram_used_bytes gauge
vram_used_bytes{{{DEVICE}}} 9437184000
# HELP model_state 1 for the state.
# TYPE model_state gauge
model_state{{model_id="/m \\"x\\" \\\\ \\n.gguf",state="Active"}} 1
"""


def find(page: str | bytes) -> list[str]:
    return lint(page.encode() if isinstance(page, str) else page, read_rules(RULES))


def test_a_clean_page_has_no_finding() -> None:
    assert find(CLEAN) == []


def test_what_the_format_allows_is_no_fault() -> None:
    page = CLEAN.replace("# HELP queue", "# a remark\n\n#HELP no keyword\n# HELP   queue")
    page = page.replace("} 3\n", " , }   3 1700000000000\n").replace("} 12\n", "}\t1.2E+1\n")
    assert find(page) == []


def test_a_page_without_the_optional_series_and_one_without_samples() -> None:
    page = CLEAN.partition("# HELP model_state")[0]
    assert find(page) == []
    assert find("".join(line for line in CLEAN.splitlines(True) if line[0] == "#")) == []


def plant(old: str, new: str) -> str:
    assert old in CLEAN, old
    return CLEAN.replace(old, new, 1)


SUMMARY = """\
# HELP task_latency_seconds How long.
# TYPE task_latency_seconds summary
task_latency_seconds{quantile="0.99"} 1
task_latency_seconds_sum 1
task_latency_seconds_count 1
"""
HISTOGRAM = """\
# HELP waits How long.
# TYPE waits histogram
waits_bucket{le="+Inf"} 1
waits_sum 1
waits_count 1
"""
FORBIDDEN = (
    *("task_p95_seconds", "task_ms_p99", "decode_percentile", "deadlines_met_ratio"),
    *("tenant_tasks", "preemptions_total", "resumptions_total", "admission_share", "tasks_resumed"),
)
PLANTED = {
    "a name that is not ours": (CLEAN + "# HELP up U.\n# TYPE up gauge\nup 1\n", "up: no such ser"),
    "a series that is missing": (CLEAN.replace("queue_depth", "queue_deepness"), "is not there"),
    "a wrong type": (plant("queue_depth gauge", "queue_depth counter"), "is a counter, not a gau"),
    "no type": (plant("# TYPE queue_depth gauge\n", ""), "has no TYPE"),
    "no help": (plant("# HELP queue_depth Tasks that wait.\n", ""), "has no HELP"),
    "an empty help": (plant("Tasks that wait.", ""), "has no HELP"),
    "a second help": (plant("# TYPE queue", "# HELP queue_depth x\n# TYPE queue"), "a second HELP"),
    "a second type": (
        plant("# TYPE queue_depth gauge\n", "# TYPE queue_depth gauge\n" * 2),
        "a se",
    ),
    "a type that is none": (plant("depth gauge", "depth number"), "'number' is no type"),
    "a type that comes late": (
        plant("# TYPE queue_depth gauge\n", "").replace(
            "# HELP tasks_enq", "# TYPE queue_depth gauge\n# HELP tasks_enq"
        ),
        "after its samples",
    ),
    "a label too few": (plant(',priority="batch"', ""), "lacks the label priority"),
    "a label too many": (plant('reason="INV', 'host="a",reason="INV'), "has the label host"),
    "an empty label": (plant('reason="INVALID_PARAMS"', 'reason=""'), "is empty"),
    "a priority that is none": (plant('"batch"', '"urgent"'), "'urgent', not one of interactive"),
    "a state that is none": (plant('"Active"', '"Draft"'), "not one of Active, Retired"),
    "a utilization in percent": (plant("} 0.5", "} 50"), "50 is not within 0 and 1"),
    "a counter that sank": (plant("} 12", "} -1"), "-1 is not within"),
    "a counter that is no number": (plant("} 12", "} NaN"), "nan is not within"),
    "a counter beyond all": (plant("} 12", "} +Inf"), "inf is not within"),
    "more samples than allowed": (
        plant(
            'tokens_in_total{engine="llamacpp"',
            "".join(f'tokens_in_total{{{POOL},replica_id="r{n}"}} 1\n' for n in range(256))
            + 'tokens_in_total{engine="llamacpp"',
        ),
        "257 samples, more than 256",
    ),
    "a summary's quantiles": (CLEAN + SUMMARY, "the label quantile is forbidden"),
    "a histogram's buckets": (CLEAN + HISTOGRAM, "the label le is forbidden"),
    "a tenant": (plant('reason="INV', 'tenant_id="a",reason="INV'), "label tenant_id is forbidden"),
    "the same sample twice": (plant("} 12\n", f"}} 12\ntokens_in_total{{{REPLICA}}} 5\n"), "twice"),
    "a series in two places": (
        CLEAN + f'queue_depth{{{POOL.replace("chat", "code")},priority="batch"}} 0\n',
        "goes on after another",
    ),
    "a label twice": (plant('reason="INV', 'engine="x",reason="INV'), "stands there twice"),
    "a value that is none": (plant("} 12", "} twelve"), "'twelve' is no number"),
    "a number as Python writes it": (plant("} 12", "} 1_2"), "'1_2' is no number"),
    "no value": (plant("} 12", "}"), "'' is no number"),
    "a time that is none": (plant("} 12", "} 12 now"), "'now' is no timestamp"),
    "labels that do not end": (plant('"batch"}', '"batch"'), "is no number"),
    "an open quote": (plant('"batch"}', '"batch}'), "cannot read its labels"),
    "an escape that is none": (plant('"batch"', '"b\\a"'), "the unknown escape \\a"),
    "a name that is none": (plant("queue_depth{", "queue-depth{"), "is no number"),
    "no name": (plant("queue_depth{", "{"), "is no sample"),
    "a last line without an end": (CLEAN[:-1], "the last line has no end"),
    "a NUL": (plant("/m", "/\0"), "holds a NUL"),
    "nothing": ("", "queue_depth: is not there"),
} | {
    name: (f"{CLEAN}# HELP {name} X.\n# TYPE {name} gauge\n", "is forbidden") for name in FORBIDDEN
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_planted_fault_is_found(name: str) -> None:
    page, finding = PLANTED[name]
    found = find(page)
    assert any(finding in line for line in found), found
    assert all("\n" not in line for line in found)


def test_what_is_not_utf8_is_found() -> None:
    page = CLEAN.encode().replace(b"/m", b"/\xff")
    last = len(page.splitlines())
    assert find(page) == [f"line {last}: is not UTF-8 [format]"]


# -- as a command --------------------------------------------------------------------------------


def run(*arguments: str, page: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **more}
    return subprocess.run(
        # With the standard library alone: no site-packages.
        [sys.executable, "-E", "-S", str(LINT), *arguments],
        input=page,
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_exit_codes(tmp_path: Path) -> None:
    clean, faulty = tmp_path / "clean", tmp_path / "faulty"
    clean.write_text(CLEAN)
    faulty.write_text(plant("} 12", "} -1").replace("queue_depth gauge", "queue_depth counter"))
    done = run(str(clean))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert run("-", page=CLEAN).returncode == 0
    done = run(str(faulty))
    assert (done.returncode, done.stderr, len(done.stdout.splitlines())) == (1, "", 2)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("/nonexistent/page",), "cannot read /nonexistent/page"),
        (("http://127.0.0.1:1/metrics",), "cannot fetch http://127.0.0.1:1/metrics: [Errno"),
        (("http://[/metrics",), "metrics_lint: "),
        (("http://127.0.0.1:1/", "--token-file", "/nonexistent/token"), "cannot read /nonexistent"),
        (("-", "--rules", "/nonexistent/rules"), "cannot use the rules of /nonexistent/rules"),
        (("-", "--rules", str(LINT)), "cannot use the rules of"),
        ((), "usage: metrics_lint.py"),
    ],
)
def test_what_cannot_run_says_why(arguments: tuple[str, ...], problem: str) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert problem in done.stderr and "Traceback" not in done.stderr


class _Page(http.server.BaseHTTPRequestHandler):
    """Serves the clean page to who has the token; notes what it was asked with."""

    asked: list[str | None]

    def do_GET(self) -> None:
        self.asked.append(self.headers["Authorization"])
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/metrics")
            self.end_headers()
            return
        status = 200 if self.asked[-1] == f"Bearer {TOKEN}" else 401
        self.send_response(status)
        self.send_header("Content-Type", MEDIA_TYPE if self.path == "/metrics" else "text/html")
        self.end_headers()
        self.wfile.write(CLEAN.encode())

    def log_message(self, format: str, *arguments: object) -> None: ...


@pytest.fixture
def page_url() -> Iterator[str]:
    _Page.asked = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Page) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_url_is_asked_with_the_token(tmp_path: Path, page_url: str) -> None:
    kept = tmp_path / "state/orchd/token"
    kept.parent.mkdir(parents=True)
    kept.write_text(f"{TOKEN}\n")
    url = f"{page_url}/metrics"
    assert run(url, "--token-file", str(kept)).returncode == 0
    assert run(url, ORCHD_API_TOKEN=TOKEN).returncode == 0
    assert run(url, XDG_STATE_HOME=str(tmp_path / "state")).returncode == 0
    assert run(url, ORCHD_API_TOKEN=TOKEN, http_proxy="http://127.0.0.1:1").returncode == 0
    done = run(url)
    assert (done.returncode, done.stdout) == (2, "")
    assert "401" in done.stderr and "no token was found to send" in done.stderr
    done = run(url, ORCHD_API_TOKEN="another")
    assert (done.returncode, done.stdout) == (2, "")
    assert "401" in done.stderr and "the token sent is not its own" in done.stderr
    assert _Page.asked == [f"Bearer {TOKEN}"] * 4 + [None, "Bearer another"]


def test_a_page_of_another_kind_and_one_that_moved(page_url: str) -> None:
    done = run(f"{page_url}/index", ORCHD_API_TOKEN=TOKEN)
    assert done.returncode == 1
    assert done.stdout == f"Content-Type: 'text/html', not {MEDIA_TYPE!r} [format]\n"
    assert run(f"{page_url}/moved", ORCHD_API_TOKEN=TOKEN).returncode == 2
    assert len(_Page.asked) == 2


def test_the_daemons_token_is_for_this_machine_alone() -> None:
    environ = {"ORCHD_API_TOKEN": TOKEN}
    assert find_token("http://127.0.0.1:8642/metrics", None, environ) == TOKEN
    assert find_token("http://[::1]/metrics", None, environ) == TOKEN
    for host in ("example.org", "127.0.0.1.example.org", "localhost@example.org"):
        assert find_token(f"http://{host}/metrics", None, environ) is None


def test_rules_may_be_others(tmp_path: Path) -> None:
    told = json.loads(RULES.read_text())
    told["series"]["model_state"]["max_samples"] = 0
    rules = tmp_path / "rules.json"
    rules.write_text(json.dumps(told))
    done = run("-", "--rules", str(rules), page=CLEAN)
    assert done.stdout == "model_state: 1 samples, more than 0 [cardinality]\n"
