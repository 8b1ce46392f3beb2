"""The bars and the table that shows them."""

from __future__ import annotations

import os
import statistics
from dataclasses import dataclass
from pathlib import Path

OURS = ("bare", "limits", "init", "held", "threads", "command")


@dataclass(frozen=True)
class Bar:
    """One promise: ``who`` takes at most ``must`` times what ``reference`` takes (at least, where more is better)."""

    what: str
    who: str
    reference: str
    must: float | None
    aim: float | None
    more_is_better: bool = False

    def verdict(self, ratio: float) -> str:
        """Say whether the bar is reached."""
        reached = [bar is not None and (ratio >= bar if self.more_is_better else ratio <= bar) for bar in (self.must, self.aim)]
        if self.must is not None and not reached[0]:
            return "missed"
        if reached[1]:
            return "ok, aim too"
        return "-" if self.must is None and self.aim is None else "ok" if self.must is not None else "aim missed"


BARS = (
    Bar("pybox.run: no limits, no init", "bare", "floor", 1.5, 1.2),
    Bar("  with memory, pids, captured output", "limits", "floor", 2.0, 1.6),
    Bar("  the same with init", "init", "floor", 2.6, 2.0),
    Bar("  no limits, process holds 2 GB", "held", "bare", 1.15, 1.0),
    Bar("pybox run --rm busybox true", "command", "runc", 0.7, 0.5),
    Bar("  the same", "command", "podman", 0.1, 0.1),
    Bar("  the same", "command", "python", 2.2, None),
    Bar("  the same", "command", "lxc-execute", None, 1.0),
    Bar("  the same", "command", "crun", None, None),
    Bar("  the same", "command", "bwrap", None, None),
    Bar("8 threads at once, jobs/s", "threads", "floors", 0.6, 0.85, more_is_better=True),
)

NAMES = {
    "floor": "floor (C, one after the other)",
    "floors": "floor, two copies at once",
    "bare": "pybox.run, no limits, no init",
    "limits": "pybox.run, memory, pids, capture",
    "init": "pybox.run, the same with init",
    "held": "pybox.run, no limits, holding 2 GB",
    "threads": "pybox.run, no limits, 8 threads",
    "command": "pybox run --rm busybox true",
    "python": "/usr/bin/python3 -I -S -c pass",
    "podman": "podman run --network none",
}


class Report:
    """What was measured, as plain text and as markdown. ``samples``: by contender and round, milliseconds or jobs per second."""

    def __init__(self, host: str, samples: dict[str, list[list[float]]], absent: dict[str, str]) -> None:
        self.host = host
        self.absent = absent
        self.rounds = {name: [statistics.median(batch) for batch in taken] for name, taken in samples.items()}
        self.samples = {name: sorted(value for batch in taken for value in batch) for name, taken in samples.items()}

    def _unit(self, name: str) -> str:
        return "jobs/s" if name in ("floors", "threads") else "ms"

    def _median(self, name: str) -> str:
        if name in self.absent:
            return "-"
        value = statistics.median(self.samples[name])
        return f"{value:.0f} jobs/s" if self._unit(name) == "jobs/s" else f"{value:.2f} ms"

    def bars(self) -> list[list[str]]:
        """Return the rows of the bars, the header first."""
        rows = [["what", "median", "ratio", "quartiles", "to", "must", "aim", "verdict"]]
        for bar in BARS:
            must, aim = ("-" if value is None else f"{value:g} x" for value in (bar.must, bar.aim))
            gone = next((name for name in (bar.who, bar.reference) if name in self.absent), None)
            if gone:
                why = f"{'pybox' if gone in OURS else gone} {self.absent[gone].partition(':')[0]}"
                rows.append([bar.what, self._median(bar.who), "-", "-", bar.reference, must, aim, why])
                continue
            ratios = [ours / theirs for ours, theirs in zip(self.rounds[bar.who], self.rounds[bar.reference], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            spread = f"{low:.2f}-{high:.2f}"
            rows.append([bar.what, self._median(bar.who), f"{middle:.2f}", spread, bar.reference, must, aim, bar.verdict(middle)])
        return rows

    def contenders(self) -> list[list[str]]:
        """Return a row for each contender, the header first, with the tenth and the ninetieth percentile."""
        rows = [["contender", "median", "p10", "p90", "samples"]]
        for name, values in self.samples.items():
            at = (values[len(values) // 10], values[len(values) * 9 // 10])
            rows.append([NAMES.get(name, name), self._median(name), *(f"{value:.2f}" for value in at), str(len(values))])
        return rows

    def missing(self) -> str:
        """Return a line for each contender that was not measured."""
        return "".join(f"\n{NAMES.get(name, name)}: {why}\n" for name, why in self.absent.items())

    def text(self) -> str:
        """Return both tables in aligned columns."""
        return f"{self.host}\n\n{_aligned(self.bars())}\n\n{_aligned(self.contenders())}\n{self.missing()}"

    def markdown(self) -> str:
        """Return bench/RESULTS.md."""
        head = "# How fast pybox launches\n\nWritten by `make bench BENCH=--write`; the rows are explained in `bench/bench.py`."
        return f"{head}\n\n{self.host}\n\n{piped(self.bars())}\n\n{piped(self.contenders())}\n{self.missing()}"


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)


def piped(rows: list[list[str]]) -> str:
    """Return rows as a table in markdown, the header first."""
    lines = ["| " + " | ".join(cell.strip().replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def write(target: str, title: str, how: str, lines: list[str]) -> None:
    """Write what `make bench-TARGET BENCH=--write` has measured to bench/TARGET.md, in capitals. ``how``: how often, of what."""
    machine = f"{os.cpu_count()} CPUs, Linux {os.uname().release}"
    head = f"# {title}\n\n`make bench-{target} BENCH=--write`, {machine}, {how}\n\n"
    Path(__file__).with_name(f"{target.upper()}.md").write_text(head + "\n".join(lines) + "\n")
