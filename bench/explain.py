"""What does looking cost? A run that is recorded beside one that is not, and `pybox explain run` beside `pybox run`.

    explain.py --prefix DIR [--rounds N] [--write]

In one process a Recorder (explain/stepping.py) and a Runtime run the same job in turn: a recording is the clock read before and after
each step on the host; what the C walk notes of each row, it notes in any run. As commands, `run` is measured when it was typed before,
which is what it mostly was, and when it has to be planned, as `explain` must. As in bench.py a figure is the median over the rounds of
the ratio within one round.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import peers
from table import write

from bench import PYTHON, Failed, Server, enter_namespaces

BATCH, STARTS = 40, 6  # runs of one kind in a round: in process, as commands
ROWS = (  # (what, beside what, the most it may be)
    ("recorded, in process", "run, in process", 1.05),
    ("explain run", "run, planned", 1.5),
    ("explain run", "run, typed before", 1.5),
    ("explain --analyze run", "run, planned", None),
    ("report", "run, planned", None),
)


def serve(library: str) -> None:
    """Answer each line with {"run": [ms, ...], "recorded": [...]}: as many runs of both kinds, one after the other."""
    sys.path.append(library)
    from pybox import dirs
    from pybox.explain.stepping import Recorder
    from pybox.runtime import Options, Runtime
    from pybox.spec import Spec

    spec, options = Spec("busybox", ("/bin/true",), init=False), Options()
    kinds = {"run": Runtime(dirs.current()), "recorded": Recorder(dirs.current())}
    for line in sys.stdin:
        times: dict[str, list[float]] = {name: [] for name in kinds}
        for number in range(int(line)):
            for name in sorted(kinds, reverse=bool(number % 2)):
                begin = time.monotonic_ns()
                result = kinds[name].run(spec, options)
                times[name].append((time.monotonic_ns() - begin) / 1e6)
                assert result.ok
        print(json.dumps(times), flush=True)


def measure(prefix: Path, work: Path, rounds: int) -> dict[str, list[float]]:
    """Return the median milliseconds of each kind by round. Raises Failed."""
    tree = work / "busybox"
    peers.busybox_tree(tree)
    command = str(prefix / "bin/pybox")
    imported = subprocess.run([command, "import", "busybox", tree], capture_output=True, text=True)
    if imported.returncode:
        raise Failed(f"pybox import: {imported.stderr.strip()}")
    timer = Server(PYTHON, str(Path(__file__).with_name("timer.py")))
    inside = Server(PYTHON, str(Path(__file__).resolve()), "--serve", str(prefix / "lib/pybox"))
    words = ("run", "--rm", "busybox", "true")
    commands = {
        "run, typed before": words,
        # another word each time, so that no plan of it is kept
        "run, planned": ("run", "--rm", "-h", "n{n}", "busybox", "true"),
        "explain run": ("explain", *words),
        "explain --analyze run": ("explain", "--analyze", *words),
        "report": ("report", "-o", str(work / "report.html"), *words),
    }
    times: dict[str, list[float]] = {name: [] for name in ("run, in process", "recorded, in process", *commands)}
    for number in range(rounds + 1):
        inside.process.stdin.write(f"{BATCH}\n")  # type: ignore[union-attr]
        inside.process.stdin.flush()  # type: ignore[union-attr]
        both = json.loads(inside.process.stdout.readline())  # type: ignore[union-attr]
        taken = {"run, in process": both["run"], "recorded, in process": both["recorded"]}
        shift = number % len(commands)
        for name in (*list(commands)[shift:], *list(commands)[:shift]):
            taken[name] = timer.times(argv=[command, *commands[name]], count=STARTS)
        if number:  # the first round warms up
            for name, found in taken.items():
                times[name].append(statistics.median(found))
    return times


def table(times: dict[str, list[float]]) -> list[str]:
    """Return the rows of a Markdown table."""
    lines = ["| what | ms | beside | ms | ratio | may be |", "| --- | --- | --- | --- | --- | --- |"]
    for what, beside, most in ROWS:
        ratio = statistics.median(one / other for one, other in zip(times[what], times[beside], strict=True))
        first, second = (statistics.median(times[name]) for name in (what, beside))
        lines.append(f"| {what} | {first:.2f} | {beside} | {second:.2f} | {ratio:.2f} | {most or '-'} |")
    return lines


def main() -> int:
    if sys.argv[1:2] == ["--serve"]:
        serve(sys.argv[2])
        return 0
    parser = argparse.ArgumentParser(description="measure what looking at a run costs")
    parser.add_argument("--prefix", type=Path, required=True, help="where `make install` put pybox")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--write", action="store_true", help="also write bench/EXPLAIN.md")
    options = parser.parse_args()
    enter_namespaces()
    prefix = options.prefix.resolve()
    with peers.workplace(prefix) as work:
        lines = table(measure(prefix, work, options.rounds))
    print("\n".join(lines))
    if options.write:
        write("explain", "What looking costs", f"{options.rounds} rounds, load {os.getloadavg()[0]:.1f}", lines)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
