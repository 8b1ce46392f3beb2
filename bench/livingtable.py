"""The tables of living.py, and where they are written to."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import plot
from many import Crowd
from table import piped

MB = 1e6
KEEPER_BAR, EXEC_BAR, PS_BAR = 0.4, 1.3, 100.0  # MB, x, ms
TITLES = {"pybox": "pybox", "podman": "podman (crun)", "docker": "docker", "uml": "User Mode Linux", "qemu": "QEMU microvm"}
BEGIN, END = "<!-- measured by make bench-living -->", "<!-- end -->"


@dataclass(frozen=True)
class Held:
    """What idle servers of one kind hold together, in bytes; the times to the first answer in milliseconds."""

    servers: int
    own: int  # PSS of the server's own processes; a machine's: all of it
    keepers: dict[str, int]  # PSS of who looks after them, by program
    kernel: int  # charged to the control group as kernel memory
    charged: int  # kernel memory and what processes hold, as the control group counts it
    daemons: dict[str, int]  # PSS, once for all
    guest: int  # of ``own``: the machine's own memory
    starts: list[float]

    @property
    def looked_after(self) -> int:
        """The PSS of all who look after them."""
        return sum(self.keepers.values())

    @property
    def total(self) -> int:
        """Everything."""
        return self.own + self.looked_after + self.kernel + sum(self.daemons.values())


@dataclass(frozen=True)
class Report:
    """What was measured. ``starts`` and ``execs``: milliseconds by contender and round."""

    host: str
    machines: dict[str, str]
    held: dict[str, Held]
    starts: dict[str, list[list[float]]]
    execs: dict[str, list[list[float]]]
    crowds: dict[str, Crowd]
    absent: dict[str, str]
    retried: dict[str, int]

    def title(self, name: str) -> str:
        """Return what a kind is called in a table."""
        return TITLES.get(name, name) + (f", {self.machines[name]}" if name in self.machines else "")

    def memory(self) -> str:
        """Return the table of memory."""
        servers = max((held.servers for held in self.held.values()), default=0)
        rows = [
            [
                "MB for each server",
                "its processes",
                "looker-after",
                "kernel",
                "sum",
                f"{servers} servers, with daemons",
                "to pybox",
            ]
        ]
        ours = self.held.get("pybox")
        for name, held in self.held.items():
            each = [value / held.servers / MB for value in (held.own, held.looked_after, held.kernel)]
            ratio = f"{held.total / ours.total:.1f} x" if ours else "-"
            row = [self.title(name), *(f"{value:.2f}" for value in each), f"{sum(each):.2f}", f"{held.total / MB:.1f}", ratio]
            if name in self.machines:
                row[2] = "-"
            rows.append(row)
        notes = []
        for name, held in self.held.items():
            parts = [f"{program} {size / held.servers / MB:.3f}" for program, size in held.keepers.items()]
            parts += [f"{program} {size / MB:.1f} once for all" for program, size in held.daemons.items()]
            if held.guest:
                parts.append(f"the machine's own memory {held.guest / held.servers / MB:.1f}, the rest is the program")
            charged = f"the control group was charged {held.charged / held.servers / MB:.2f} for each"
            again = f"; {self.retried[name]} boots hung and were tried again" if self.retried.get(name) else ""
            notes.append(f"- {TITLES.get(name, name)}: {', '.join([*parts, charged])}{again}.")
        if ours:
            adds = ours.looked_after / ours.servers / MB
            notes.append(f"- Bar: pybox's looker-after at most {KEEPER_BAR} MB: {adds:.3f} MB, {_verdict(adds <= KEEPER_BAR)}.")
        return piped(rows) + "\n\n" + "\n".join(notes)

    def _ratios(self, samples: dict[str, list[list[float]]], reference: str, what: str) -> list[list[str]]:
        rows = [[what, "median", "quartiles", f"to {reference}", "quartiles", "samples"]]
        for name, taken in samples.items():
            values = sorted(value for batch in taken for value in batch)
            if not values:
                continue
            pairs = zip(taken, samples.get(reference, []), strict=False)
            ratios = [statistics.median(ours) / statistics.median(theirs) for ours, theirs in pairs if ours and theirs]
            row = [self.title(name), f"{statistics.median(values):.1f} ms", _quartiles(values, 1)]
            row += [f"{statistics.median(ratios):.2f} x", _quartiles(ratios, 2)] if ratios else ["-", "-"]
            rows.append([*row, str(len(values))])
        return rows

    def start(self) -> str:
        """Return the table of the time to the first answer."""
        return piped(self._ratios(self.starts, "pybox", "start to first answer"))

    def execute(self) -> str:
        """Return the table of one more command."""
        rows = self._ratios(self.execs, "pybox run", "one more command")
        said = ""
        found = next((row for row in rows if row[0] == "pybox exec"), None)
        if found and found[3] != "-":
            reached = float(found[3].split()[0]) <= EXEC_BAR
            said = f"\n\n- Bar: pybox exec at most {EXEC_BAR} x a foreground run: {found[3]}, {_verdict(reached)}."
        return piped(rows) + said

    def many(self) -> str:
        """Return the table of the crowds."""
        rows = [["many", "containers", "start, s", "each, ms", "listed", "ps, ms of CPU", "stop, s", "rm, s", "errors", "left"]]
        for name, crowd in self.crowds.items():
            times = [f"{crowd.start:.1f}", f"{crowd.start / crowd.count * 1000:.0f}", str(crowd.listed), f"{crowd.ps:.0f}"]
            ends = [f"{crowd.stop:.2f}", f"{crowd.remove:.2f}", str(len(crowd.errors)), ", ".join(crowd.left) or "nothing"]
            rows.append([TITLES.get(name, name), str(crowd.count), *times, *ends])
        notes = [f"- {name}: {error}" for name, crowd in self.crowds.items() for error in crowd.errors[:3]]
        ours = self.crowds.get("pybox")
        if ours:
            reached = _verdict(ours.ps < PS_BAR and not ours.errors and not ours.left and ours.listed == ours.count)
            notes.append(f"- Bar: {ours.count} containers without error, ps under {PS_BAR:g} ms, nothing left: {reached}.")
        return piped(rows) + "\n\n" + "\n".join(notes)

    def markdown(self) -> str:
        """Return bench/LIVING.md."""
        head = (
            "# What a living container costs\n\nWritten by `make bench-living BENCH=--write`; explained in `docs/why-not-vms.md`."
        )
        missing = "".join(f"\n{name} was not measured: {why}\n" for name, why in self.absent.items())
        return "\n\n".join([head, self.host, self.memory(), self.start(), self.execute(), self.many()]) + f"\n{missing}"

    def drawing(self) -> str:
        """Return the plot as SVG."""
        names = [name for name in self.held if statistics.median(self.held[name].starts or [0]) > 0]
        servers = max((held.servers for held in self.held.values()), default=0)
        starts = {
            name: [value for batch in self.starts.get(name, []) for value in batch] or self.held[name].starts for name in names
        }
        panels = [
            plot.Panel(
                f"Memory of {servers} idle web servers", "MB", [(TITLES[name], self.held[name].total / MB) for name in names]
            ),
            plot.Panel("Start to first answer", "ms", [(TITLES[name], statistics.median(starts[name])) for name in names]),
        ]
        return plot.draw(panels)

    def write(self, bench: Path, docs: Path) -> None:
        """Write the tables and the plot; the page in docs/ gets its own between two marks."""
        (bench / "LIVING.md").write_text(self.markdown())
        (docs / "why-not-vms.svg").write_text(self.drawing())
        page = docs / "why-not-vms.md"
        before, _, rest = page.read_text().partition(BEGIN)
        _, _, after = rest.partition(END)
        page.write_text(f"{before}{BEGIN}\n{self.host}\n\n{self.memory()}\n\n{self.start()}\n{END}{after}")


def _quartiles(values: list[float], digits: int) -> str:
    low, _, high = statistics.quantiles(values, n=4) if len(values) > 1 else values * 3
    return f"{low:.{digits}f}-{high:.{digits}f}"


def _verdict(reached: bool) -> str:
    return "ok" if reached else "missed"
