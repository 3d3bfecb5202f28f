"""Checks a Prometheus text exposition against ci/metrics.lint.json.

    python tools/metrics_lint.py (URL|FILE|-) [--token-file F] [--rules RULES]

The rules list the series there are to be, each with its type, its labels and how many samples it
may have, and what there must not be. Without ``--token-file``, a URL on this machine is asked with
the daemon's own token: ``$ORCHD_API_TOKEN``, else the one that the daemon has made; no other host
is ever sent that.

Exit status: 0 clean, 1 findings (one line each on stdout), 2 could not run.
"""

from __future__ import annotations

import argparse
import http.client
import json
import math
import os
import re
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any

from exposition_text import Exposition, Family, read_exposition

RULES = Path(__file__).resolve().parents[1] / "ci/metrics.lint.json"
MEDIA_TYPE = "text/plain; version=0.0.4; charset=utf-8"
TIMEOUT_S = 30
MAX_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class SeriesRule:
    """What one series is to be."""

    type: str
    labels: tuple[str, ...]
    max_samples: int
    is_optional: bool = False
    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """The only values that a label may have, where they are few."""
    range: tuple[float, float] = (-math.inf, math.inf)
    """Of a sample's value, both ends included."""


@dataclass(frozen=True)
class Rules:
    """The whole of ci/metrics.lint.json."""

    series: Mapping[str, SeriesRule]
    forbidden_names: tuple[str, ...]
    """Regular expressions; each forbids a name in which it is found."""
    forbidden_labels: tuple[str, ...]
    """Likewise, for the names of labels."""


class CannotRunError(Exception):
    """The page or the rules cannot be had; the message says why."""


def read_rules(path: Path) -> Rules:
    """Raises CannotRunError where they are not what they should be."""
    try:
        told = json.loads(path.read_text())
        series = {
            name: SeriesRule(
                rule["type"],
                tuple(rule["labels"]),
                int(rule["max_samples"]),
                bool(rule.get("optional", False)),
                {label: tuple(values) for label, values in rule.get("values", {}).items()},
                _read_range(rule),
            )
            for name, rule in told["series"].items()
        }
        names, labels = told["forbidden"]["names"], told["forbidden"]["labels"]
        for pattern in (*names, *labels):
            re.compile(pattern)
        return Rules(series, tuple(names), tuple(labels))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, re.error) as error:
        raise CannotRunError(f"cannot use the rules of {path}: {error!r}") from error


def _read_range(rule: Mapping[str, Any]) -> tuple[float, float]:
    """An end that is null is open; a counter begins at 0."""
    low, high = rule.get("range", [0 if rule["type"] == "counter" else None, None])
    return (
        -math.inf if low is None else float(low),
        sys.float_info.max if high is None else float(high),
    )


# -- the checks ----------------------------------------------------------------------------------


def lint(page: bytes, rules: Rules) -> list[str]:
    """Every finding, in words: breaches of the format by line, then series by series."""
    found = read_exposition(page)
    findings = [f"line {line}: {problem} [format]" for line, problem in found.faults]
    for family in found.families.values():
        findings += _check_forbidden(family, rules)
        findings += _check_described(family)
        rule = rules.series.get(family.name)
        if rule is None:
            findings.append(f"{family.name}: no such series is allowed [unknown]")
        else:
            findings += _check_series(family, rule)
    findings += _find_missing(found, rules)
    return findings


def _check_forbidden(family: Family, rules: Rules) -> Iterator[str]:
    for pattern in rules.forbidden_names:
        if re.search(pattern, family.name):
            yield f"{family.name}: a name with {pattern!r} is forbidden [forbidden]"
    labels = {label for sample in family.samples for label, _ in sample.labels}
    for label in sorted(labels):
        for pattern in rules.forbidden_labels:
            if re.search(pattern, label):
                yield f"{family.name}: the label {label} is forbidden [forbidden]"


def _check_described(family: Family) -> Iterator[str]:
    if not family.help:
        yield f"{family.name}: has no HELP [help]"
    if family.type is None:
        yield f"{family.name}: has no TYPE [type]"


def _check_series(family: Family, rule: SeriesRule) -> Iterator[str]:
    name = family.name
    if family.type not in (None, rule.type):
        yield f"{name}: is a {family.type}, not a {rule.type} [type]"
    if len(family.samples) > rule.max_samples:
        yield f"{name}: {len(family.samples)} samples, more than {rule.max_samples} [cardinality]"
    for sample in family.samples:
        where = f"{name} in line {sample.line}"
        labels = dict(sample.labels)
        missing = [label for label in rule.labels if label not in labels]
        extra = [label for label in labels if label not in rule.labels]
        if missing:
            yield f"{where}: lacks the label {', '.join(missing)} [labels]"
        if extra:
            yield f"{where}: has the label {', '.join(extra)} [labels]"
        for label, value in labels.items():
            if label in rule.labels and not value:
                yield f"{where}: the label {label} is empty, which is to lack it [labels]"
            allowed = rule.values.get(label)
            if allowed is not None and value not in allowed:
                words = ", ".join(allowed)
                yield f"{where}: {label} is {value[:40]!r}, not one of {words} [values]"
        low, high = rule.range
        if not low <= sample.value <= high:
            yield f"{where}: {sample.value:g} is not within {low:g} and {high:g} [values]"


def _find_missing(found: Exposition, rules: Rules) -> Iterator[str]:
    for name, rule in rules.series.items():
        if name not in found.families and not rule.is_optional:
            yield f"{name}: is not there [missing]"


# -- where a page comes from ---------------------------------------------------------------------


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Whoever redirects would be sent the token of another."""

    def redirect_request(self, *args: object) -> None:
        return None


def fetch(url: str, token: str | None) -> tuple[bytes, str]:
    """The page and its media type. Raises CannotRunError."""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_S) as answer:
            page = answer.read(MAX_BYTES + 1)
            media_type = answer.headers.get("Content-Type", "")
    except urllib.error.HTTPError as error:
        with error:
            hint = _explain_token(token) if error.code == HTTPStatus.UNAUTHORIZED else ""
            raise CannotRunError(f"{url} answered {error.code} {error.reason}{hint}") from error
    except urllib.error.URLError as error:
        raise CannotRunError(f"cannot fetch {url}: {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise CannotRunError(f"cannot fetch {url}: {error}") from error
    if len(page) > MAX_BYTES:
        raise CannotRunError(f"{url} has more than {MAX_BYTES} bytes")
    return page, media_type


def _explain_token(token: str | None) -> str:
    problem = "no token was found to send" if token is None else "the token sent is not its own"
    return f"; {problem}: say where the right one is with --token-file"


def find_token(url: str, token_file: Path | None, environ: Mapping[str, str]) -> str | None:
    """What to ask the URL with, if anything. Raises CannotRunError."""
    if token_file is not None:
        try:
            return token_file.read_text().strip()
        except (OSError, ValueError) as error:
            raise CannotRunError(f"cannot read {token_file}: {error}") from error
    try:
        host = urllib.parse.urlsplit(url).hostname
    except ValueError as error:
        raise CannotRunError(f"cannot fetch {url}: {error}") from error
    if host not in ("localhost", "127.0.0.1", "::1"):
        return None
    if token := environ.get("ORCHD_API_TOKEN"):
        return token
    state = environ.get("XDG_STATE_HOME") or Path(environ.get("HOME") or "/") / ".local/state"
    try:
        return (Path(state) / "orchd/token").read_text().strip()
    except (OSError, ValueError):
        return None


def read_source(source: str, token_file: Path | None) -> tuple[bytes, str | None]:
    """The page, and its media type where it came over HTTP. Raises CannotRunError."""
    if source == "-":
        return sys.stdin.buffer.read(), None
    if source.startswith(("http://", "https://")):
        return fetch(source, find_token(source, token_file, os.environ))
    try:
        return Path(source).read_bytes(), None
    except (OSError, ValueError) as error:
        raise CannotRunError(f"cannot read {source}: {error}") from error


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="metrics_lint.py", description=(__doc__ or "")[:70])
    parser.add_argument("source", metavar="URL|FILE|-", help="where the exposition is")
    parser.add_argument(
        "--token-file",
        type=Path,
        metavar="F",
        help="holds the API token (default, on this machine alone: $ORCHD_API_TOKEN, else the token"
        " that the daemon has made)",
    )
    parser.add_argument(
        "--rules", type=Path, default=RULES, metavar="F", help="default: ci/metrics.lint.json"
    )
    options = parser.parse_args(argv)
    try:
        rules = read_rules(options.rules)
        page, media_type = read_source(options.source, options.token_file)
    except CannotRunError as error:
        print(f"metrics_lint: {error}", file=sys.stderr)
        return 2
    findings = lint(page, rules)
    if media_type not in (None, MEDIA_TYPE):
        findings.insert(0, f"Content-Type: {media_type!r}, not {MEDIA_TYPE!r} [format]")
    for finding in findings:
        print(finding)
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
