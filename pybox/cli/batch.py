"""`pybox batch`: jobs from a file."""

from __future__ import annotations

import os
import sys

from pybox.batch.directory import Directory, Results
from pybox.batch.plan import Batch, check
from pybox.batch.progress import duration, open_progress
from pybox.batch.source import FORMATS, Source
from pybox.batch.summary import Summary
from pybox.cli.options import Option, Parsed, parse_anywhere
from pybox.cli.table import size, table, visible
from pybox.errors import SpecError
from pybox.jobs.budget import of_the_box
from pybox.jobs.many import parallelism
from pybox.text import parse_env
from pybox.units import parse_int

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.batch.going import Going
    from pybox.batch.progress import Progress
    from pybox.dirs import Dirs
    from pybox.fastjson import Json
    from pybox.result import Result

BATCH = (
    Option(("-j", "--parallel"), "", "most jobs at once (four for each CPU)", "N"),
    Option(("-o", "--output"), "", "a new directory for results; without it output is passed on when a job ends", "DIR"),
    Option(("--resume",), "", "go on in DIR: run what has not ended well"),
    Option(("--retries",), "", "run a job that does not end with 0 again, so often", "N"),
    Option(("--report",), "", "write a page with a timeline", "FILE.html"),
    Option(("--format",), "", "toml, jsonl or csv, where the name does not say", "FORMAT"),
    Option(("--dry-run",), "", "check the file, and run nothing"),
    Option(("-q", "--quiet"), "", "no progress and no summary"),
    Option(("--image",), "", "the image of jobs that name none", "IMAGE"),
    Option(("--command",), "", "the command of jobs that have none; for a CSV with {column} in it", "TEXT"),
    Option(("-e", "--env"), "", "a variable, as --command", "NAME=VALUE", True),
    Option(("-v", "--volume"), "", "a file or directory of the host, as --command", "SRC:DST[:ro]", True),
    Option(("-m", "--memory"), "", "memory of jobs that say nothing", "BYTES"),
    Option(("--cpus",), "", "CPUs of jobs that say nothing", "NUMBER"),
    Option(("--pids-limit",), "", "processes of jobs that say nothing", "NUMBER"),
    Option(("--timeout",), "", "time of jobs that say nothing", "SECONDS"),
)
_FAILURES = 20  # lines in the summary
_IN_REPORT = 1000


def batch(where: Dirs, words: list[str]) -> int:
    """Run the jobs of a file."""
    parsed = parse_anywhere(BATCH, words)
    if len(parsed.rest) != 1:
        raise SpecError("batch", " ".join(parsed.rest), "must be FILE.toml, FILE.jsonl, FILE.csv or -")
    format, output, report = parsed.one("format"), parsed.one("output"), parsed.one("report")
    if format not in (None, *FORMATS):
        raise SpecError("format", format, "must be " + " or ".join(FORMATS))
    if parsed.has("resume") and output is None:
        raise SpecError("resume", "", "needs -o DIR", "the directory with the results of the run that goes on")
    number = parsed.one("parallel")
    most = parallelism("auto" if number is None else parse_int("parallel", number, 1, 10_000) or 1)
    retries = parse_int("retries", parsed.one("retries"), 0, 1000) or 0
    if report is not None:
        _writable(report)
    found = check(Source(parsed.rest[0], format), _defaults(parsed), of_the_box(), where)
    if parsed.has("dry-run"):
        print(f"{found.count} jobs, {len(found.needs)} of them with needs: batch {found.digest[:16]}")
        return 0
    results = Results(_pass_on) if output is None else Directory(output, found, parsed.has("resume"))
    try:
        return _run(found, results, most, retries, parsed, words)
    finally:
        results.release()


def _defaults(parsed: Parsed) -> dict[str, Json]:
    """Return what the command line says for all jobs."""
    found: dict[str, Json] = {}
    for key in ("image", "command", "memory", "cpus", "pids-limit", "timeout"):
        value = parsed.one(key)
        if value is not None:
            found[key.replace("-", "_")] = value
    env = [pair for pair in map(parse_env, parsed.all("env")) if pair]
    if env:
        found["env"] = dict(env)
    if parsed.all("volume"):
        found["volumes"] = tuple(parsed.all("volume"))
    return found


def _writable(path: str) -> None:
    """Refuse a report that can't be written, before hours of jobs are run for it."""
    folder = os.path.dirname(path) or "."
    if os.path.isdir(path) or not os.path.isdir(folder) or not os.access(folder, os.W_OK):
        raise SpecError("report", path, "can't be written there")


def _pass_on(result: Result) -> None:
    """Give the output of a job to our own streams, in one piece."""
    for stream, data in ((sys.stdout, result.stdout), (sys.stderr, result.stderr)):
        if data:
            stream.buffer.write(data)
            stream.buffer.flush()


# --- running -----------------------------------------------------------------------------------------------------------------


class _Interrupts:
    """The first signal stops the batch, the second one ends pybox: its containers die with it, and the next pybox clears up."""

    def __init__(self, going: Going, progress: Progress) -> None:
        from signal import SIG_IGN, SIGHUP, SIGINT, SIGTERM, getsignal, signal

        self.signal = 0
        self._going, self._progress = going, progress
        for number in (SIGINT, SIGTERM, SIGHUP):
            if getsignal(number) != SIG_IGN:  # as nohup wants it
                signal(number, self._come)

    def _come(self, number: int, frame: object) -> None:
        from threading import Thread

        if self.signal:
            self._progress.close()
            os._exit(128 + number)
        self.signal = number
        # not in here: the thread that we interrupt may hold the locks that it takes
        Thread(target=self._going.stop, daemon=True).start()


def _run(found: Batch, results: Results, most: int, retries: int, parsed: Parsed, words: list[str]) -> int:
    from pybox.batch.going import Going

    quiet, report = parsed.has("quiet"), parsed.one("report")
    going = Going(found, results, most, retries)
    if isinstance(results, Directory) and parsed.has("resume") and not quiet:
        well, otherwise, never = results.before()
        sys.stderr.write(f"{well} of {found.count} jobs have ended well; again: {otherwise}, not yet run: {never}\n")
    progress = open_progress(sys.stderr, going.counts, quiet)
    interrupts = _Interrupts(going, progress)
    try:
        for result in going.results():
            progress.ended(result)
    finally:
        progress.close()
    if report is not None or not quiet:
        summary = Summary(results, found.count, _IN_REPORT if report else _FAILURES)
        if not quiet:
            sys.stderr.write("\n".join(_told(summary, going.counts.before)) + "\n")
        if report is not None:
            from pybox.batch.report import write

            write(report, found.source.name, summary, results)
    if interrupts.signal:
        sys.stderr.write(_hint(parsed, words))
        return 128 + interrupts.signal
    return 0 if going.counts.well == found.count else 1


def _hint(parsed: Parsed, words: list[str]) -> str:
    from shlex import join

    if parsed.one("output") is None:
        return "interrupted; with -o DIR it could go on\n"
    words = words if parsed.has("resume") else ["--resume", *words]
    return f"interrupted; to go on: {join(['pybox', 'batch', *words])}{' <INPUT' if '-' in parsed.rest else ''}\n"


def _told(summary: Summary, before: int) -> Iterator[str]:
    """Yield the lines of the summary."""
    counts = [f"{count} {state}" for state, count in summary.states.items() if count]
    if summary.done < summary.total:
        counts.append(f"{summary.total - summary.done} not run")
    yield f"{summary.total} jobs: {', '.join(counts)}" + (f" ({before} of them before)" if before else "")
    peak = f", peak memory {size(summary.peak)} ({visible(summary.peak_name)})" if summary.peak else ""
    retried = f", {summary.retried} run more than once" if summary.retried else ""
    yield f"wall {duration(summary.span)}, jobs {duration(summary.wall)}, CPU {duration(summary.cpu)}{peak}{retried}"
    if summary.slowest() and summary.total > 1:
        yield "slowest: " + ", ".join(f"{visible(name)} {wall:.3g}s" for wall, name in summary.slowest())
    if summary.failures:
        rows = [
            [visible(failure.name), visible(failure.reason), visible(failure.words)[:100]]
            for failure in summary.failures[:_FAILURES]
        ]
        yield ""
        yield table([["JOB", "WHY", "LAST LINE OF STDERR"], *rows])
        if summary.failed > len(rows):
            yield f"and {summary.failed - len(rows)} more"
