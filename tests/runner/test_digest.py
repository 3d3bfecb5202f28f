"""Sidecars as the tools write them, whatever else may lie there, and who is believed."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchd.runner.digest import (
    Check,
    Plan,
    Sidecar,
    Unclear,
    explain_mismatch,
    plan_checks,
    read_sidecar,
)

NAME = "m.gguf"
A, B = "a1" * 32, "b2" * 32
OTHER = f"{B}  other.gguf"

HEX = st.text("0123456789abcdefABCDEF", min_size=64, max_size=64)
NAMES = st.text(
    st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=20
)


def escape(name: str) -> tuple[str, str]:
    """As coreutils does it: what stands in front of the line, and the name within."""
    escaped = name.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")
    return "\\" * (escaped != name), escaped


# -- what the tools write ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        A,
        A.upper(),
        f"{A}\n",
        f"\n  {A}  \r\n\n",
        f"{A}  \r\n",
        f"\ufeff{A}\n",
        f"{A}  {NAME}\n",
        f"{A.upper()} *{NAME}\n",
        f"{A} {NAME}",
        f"{A}\t{NAME}",
        f"{A}  {NAME}\r\n",
        f"{A}  ./{NAME}",
        f"{A}  -\n",
        f"{A} */home/u/models/{NAME}",
        f"SHA256 ({NAME}) = {A}\n",
        f"SHA256 (/models/{NAME}) = {A}\n",
        f"SHA256({NAME})= {A.upper()}\n",
        f"SHA2-256({NAME})= {A}\n",
        f"{OTHER}\n{A}  {NAME}\n{B} *x{NAME}\n",
        f"# published with the model\nSHA512 ({NAME}) = {B}{B}\nSHA256 ({NAME}) = {A}\n",
        f"{A}  {NAME}\n{A.upper()} *{NAME}\n{A}\n",
    ],
)
def test_each_way_to_write_it_is_read(text: str) -> None:
    assert read_sidecar(text.encode(), NAME) == A


@given(HEX, NAMES, st.sampled_from([" ", "*"]), st.lists(st.tuples(HEX, NAMES)))
def test_the_line_of_any_name_is_found_among_others(
    digest: str, name: str, mode: str, others: list[tuple[str, str]]
) -> None:
    lines = [(digest, name), *((its, n) for its, n in others if n not in (name, "-"))]
    listed, tagged = [], []
    for its, n in sorted(lines):
        front, escaped = escape(n)
        listed.append(f"{front}{its} {mode}{escaped}\n")
        tagged.append(f"{front}SHA256 ({escaped}) = {its}\n")
    assert read_sidecar("".join(listed).encode(), name) == digest.lower()
    assert read_sidecar("".join(tagged).encode(), name) == digest.lower()


@pytest.mark.parametrize(
    "name", [NAME, "a b  c.gguf", "*x.gguf", r"back\slash.gguf", "ü\nx (1).gguf"]
)
def test_the_real_sha256sum_is_understood(tmp_path: Path, name: str) -> None:
    content = name.encode()
    (tmp_path / name).write_bytes(content)
    for options in ([], ["-b"], ["--tag"]):
        said = subprocess.run(
            ["sha256sum", *options, "--", name], cwd=tmp_path, capture_output=True, timeout=30
        )
        assert read_sidecar(said.stdout, name) == hashlib.sha256(content).hexdigest(), said


# -- what else may lie there -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", f"holds no sha256 of {NAME}"),
        (b"\n\n", f"holds no sha256 of {NAME}"),
        (OTHER.encode(), f"holds no sha256 of {NAME}"),
        (A[:-1].encode(), f"holds no sha256 of {NAME}"),
        (f"{A}0".encode(), f"holds no sha256 of {NAME}"),
        (f"{A}{NAME}".encode(), f"holds no sha256 of {NAME}"),
        (f"SHA512 ({NAME}) = {A}{B}".encode(), f"holds no sha256 of {NAME}"),
        (f"SHA1 ({NAME}) = {A}".encode(), f"holds no sha256 of {NAME}"),
        (A.encode("utf-16"), f"holds no sha256 of {NAME}"),
        (b"\xff\xfe\x00" * 1000, f"holds no sha256 of {NAME}"),
        (b"<html>404</html>", f"holds no sha256 of {NAME}"),
        (f"{A}  {NAME}\n{B}  {NAME}".encode(), f"holds 2 different sha256 of {NAME}"),
        (f"{A}\n{B}".encode(), f"holds 2 different sha256 of {NAME}"),
        (f"{A}\n{B}  {NAME}".encode(), f"holds 2 different sha256 of {NAME}"),
    ],
)
def test_what_does_not_tell_is_unclear(content: bytes, reason: str) -> None:
    assert read_sidecar(content, NAME) == Unclear(reason)


TOKENS = st.sampled_from(
    [A, B.upper(), NAME, "SHA256 (", ") = ", "\\", "\n", "\r\n", " ", "*", "/", "\ufeff", "\x85"]
)


@given(st.binary(max_size=300) | st.lists(TOKENS).map(lambda parts: "".join(parts).encode()))
def test_whatever_lies_there_ends_in_a_digest_of_it_or_in_a_reason(content: bytes) -> None:
    match read_sidecar(content, NAME):
        case Unclear(reason):
            assert NAME in reason
        case digest:
            assert digest in (A, B) and digest.encode() in content.lower()


# -- who is believed ---------------------------------------------------------------------------

M = "/models/m.gguf"
PARTS = [f"/models/m-{n:05}-of-00003.gguf" for n in (1, 2, 3)]
BROKEN = Unclear("is no file")


@pytest.mark.parametrize(
    ("written", "beside", "expected"),
    [
        (A.upper(), None, Plan((Check(M, A, "the pool's sha256"),), ())),
        (A, A, Plan((Check(M, A, "the pool's sha256"),), ())),
        (A, BROKEN, Plan((Check(M, A, "the pool's sha256"),), ())),
        (
            *(A, B),
            Plan(
                (Check(M, A, "the pool's sha256"),),
                (
                    f"did not use {M}.sha256: it says b2b2b2b2b2b2…, and the pool's sha256, which"
                    " counts, a1a1a1a1a1a1…",
                ),
            ),
        ),
        (None, A, Plan((Check(M, A, f"{M}.sha256"),), ())),
        (None, BROKEN, Plan((), (f"did not check {M}: {M}.sha256 is no file",))),
        (
            *(None, None),
            Plan(
                (),
                (
                    f"did not check {M}: no sha256 is known for it; put it into {M}.sha256, or the"
                    " pool's sha256",
                ),
            ),
        ),
    ],
)
def test_the_pools_own_digest_counts_before_that_beside_the_model(
    written: str | None, beside: Sidecar, expected: Plan
) -> None:
    assert plan_checks(M, written, {M: beside}) == expected


def test_a_model_that_is_no_file_is_looked_at_only_where_the_pool_has_a_digest() -> None:
    assert plan_checks("an/id", None, {}) == Plan((), ())
    assert plan_checks("an/id", A, {}).checks == (Check("an/id", A, "the pool's sha256"),)


def test_each_part_has_its_own_and_the_pools_is_that_of_the_first() -> None:
    first, second, third = PARTS
    plan = plan_checks(first, A, {first: None, second: B, third: None})
    assert plan.checks == (
        Check(first, A, "the pool's sha256"),
        Check(second, B, f"{second}.sha256"),
    )
    mend = f"no sha256 is known for it; put it into {third}.sha256"
    assert plan.warnings == (f"did not check {third}: {mend}",)


def test_of_many_parts_that_are_not_checked_one_warning_tells() -> None:
    plan = plan_checks(PARTS[0], None, dict.fromkeys(PARTS))
    assert plan.checks == ()
    (warning,) = plan.warnings
    assert warning.startswith(f"did not check {PARTS[0]}: no sha256 is known for it; ")
    assert warning.endswith(" (nor were 2 more of its parts checked)")


def test_a_file_that_is_another_one_is_told_with_both_digests_and_the_mend() -> None:
    assert explain_mismatch(Check(M, A, f"{M}.sha256"), B) == (
        f"model {M} is not what it should be: its sha256 is b2b2b2b2b2b2…, and {M}.sha256 says"
        " a1a1a1a1a1a1…; fetch it anew, or mend the digest if that is what is wrong"
    )


def test_digests_that_begin_alike_are_shown_whole() -> None:
    slip = A[:-1] + "f"
    told = explain_mismatch(Check(M, slip, "the pool's sha256"), A)
    assert f"its sha256 is {A}, and the pool's sha256 says {slip}; " in told
    (warning,) = plan_checks(M, slip, {M: A}).warnings
    assert warning.endswith(f"it says {A}, and the pool's sha256, which counts, {slip}")
