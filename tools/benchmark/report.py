"""What a run has come to, for people as a table and for programs as one JSON object.

The object has the keys of ``BARS`` on top, each with its figure, or null where there is none.
Beside them, by key: ``verdicts``, ``bars``; by measurement: ``raw`` (what the figures were made of,
units in the names), ``noise`` (steal and the machine's load meanwhile and before, in percent of all
its processors, and how long it took), ``faults`` (why it could not be made); and ``run``: versions,
machine, scale and time.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import asdict, dataclass, field

from benchmark.bars import BARS, Verdict
from benchmark.kernel import Noise


def show(value: float) -> str:
    """Three digits, or more where it has them before the point."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


@dataclass(slots=True)
class Report:
    """Filled in as the measurements end."""

    run: Mapping[str, object]
    asked: Collection[str]
    """Keys."""
    figures: dict[str, float] = field(default_factory=dict)
    raw: dict[str, dict[str, float]] = field(default_factory=dict)
    noise: dict[str, Noise] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)
    """Of measurements; what else they are made of is by the same names."""
    makers: dict[str, str] = field(default_factory=dict)
    """By key, the measurement that found the figure."""

    def verdict(self, key: str) -> Verdict:
        if key not in self.asked:
            return Verdict.UNASKED
        return BARS[key].judge(self.figures[key]) if key in self.figures else Verdict.FAILED

    @property
    def exit_code(self) -> int:
        """0 all that was asked for is met, 1 a bar is missed, 2 something could not be measured."""
        verdicts = {self.verdict(key) for key in self.asked}
        if Verdict.FAILED in verdicts:
            return 2
        return 1 if Verdict.MISSED in verdicts else 0

    def to_json(self) -> dict[str, object]:
        return {
            **{key: self._rounded(key) for key in BARS},
            "verdicts": {key: str(self.verdict(key)) for key in BARS},
            "bars": {key: str(bar) for key, bar in BARS.items()},
            "raw": {
                name: {key: float(f"{value:.4g}") for key, value in values.items()}
                for name, values in self.raw.items()
            },
            "noise": {
                name: {key: round(value, 2) for key, value in asdict(noise).items()}
                for name, noise in self.noise.items()
            },
            "faults": self.faults,
            "run": dict(self.run),
        }

    def _rounded(self, key: str) -> float | None:
        return float(f"{self.figures[key]:.4g}") if key in self.figures else None

    def list_lines(self) -> Iterator[str]:
        """The table, and below it what its figures were made of."""
        form = "{:<24} {:>9} {:<4} {:>8}  {:<21} {:>6}  {}"
        yield form.format("figure", "", "", "bar", "verdict", "steal", "what")
        for key, bar in BARS.items():
            verdict = self.verdict(key)
            if verdict is Verdict.UNASKED:
                continue
            noise = self.noise.get(self.makers.get(key, ""))
            steal = "" if noise is None else f"{noise.steal_pct:.1f} %"
            figure = show(self.figures[key]) if key in self.figures else "-"
            shown = str(verdict).upper() if verdict is Verdict.MISSED else str(verdict)
            yield form.format(key, figure, bar.unit, str(bar), shown, steal, bar.about)
        yield ""
        for name, values in self.raw.items():
            noise = self.noise[name]
            load = f"steal {noise.steal_pct:.1f} %, machine busy {noise.busy_pct:.0f} %"
            load += f", before it {noise.before_pct:.0f} %"
            made = ", ".join(f"{key} {show(value)}" for key, value in values.items())
            yield f"{name} ({load}, {noise.span_s:.0f} s): {made}"
        for name, fault in self.faults.items():
            yield f"{name}: could not be measured: {fault}"
        yield ", ".join(f"{key} {value}" for key, value in self.run.items())
