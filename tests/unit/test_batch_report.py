"""The summary and the report of a batch, made from results that nobody had to run for."""

from __future__ import annotations

import itertools
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pybox.batch import report
from pybox.batch.chart import Axes, Slices
from pybox.batch.directory import Results, last_line
from pybox.batch.progress import Rate, duration, trouble
from pybox.batch.report import _lanes
from pybox.batch.summary import Summary
from pybox.jobs.job import Job
from pybox.result import Result

JOB = Job("host", ["true"])
EVIL = "<script>alert(1)</script>\x1b]0;x\x07&\"'"


def results_of(*found: Result) -> Results:
    """Return results as a batch without a directory keeps them."""
    results = Results(lambda result: None)
    for result in found:
        results.note(JOB, result)
    return results


def result(index: int, reason: str = "exit", code: int = 0, **more: object) -> Result:
    """Return a job that ended at second 1000 + its index, after two seconds."""
    fields: dict[str, object] = {
        "index": index,
        "name": f"j{index}",
        "ended": 1000.0 + index,
        "wall": 2.0,
        "cpu_user": 1.0,
        **more,
    }
    return Result("", "host", (), reason, code, **fields)  # type: ignore[arg-type]


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Where a report goes."""
    return tmp_path / "report.html"


def written(page: Path, *found: Result, title: str = "jobs") -> str:
    """Write the report of some results."""
    results = results_of(*found)
    report.write(str(page), title, Summary(results, len(found), 1000), results)
    results.release()
    return page.read_text()


def test_the_summary_adds_up() -> None:
    results = results_of(
        result(0, memory_peak=5), result(1, "oom", 137, memory_peak=9), result(2, "signal", 139, signal=11, stderr=b"a\nlast\n\n"),
        result(3, "skipped", 125, error="because", ended=None, wall=0.0, cpu_user=0.0), result(4, wall=7.0, attempts=2),
    )  # fmt: skip
    summary = Summary(results, 6, 10)
    results.release()
    assert {state: count for state, count in summary.states.items() if count} == {"ok": 2, "failed": 1, "oom": 1, "skipped": 1}
    assert (summary.done, summary.failed, summary.total) == (5, 3, 6)
    assert (summary.peak, summary.peak_name, summary.cpu, summary.retried) == (9, "j1", 4.0, 1)
    assert (summary.first, summary.last) == (997.0, 1004.0) and summary.slowest()[0] == (7.0, "j4")
    assert [(failure.name, failure.reason, failure.words) for failure in summary.failures] == [
        ("j1", "out of memory", ""), ("j2", "signal 11", "last"), ("j3", "because", ""),
    ]  # fmt: skip


def test_the_last_result_of_a_job_counts() -> None:
    results = results_of(result(1, code=1), result(0), result(1))
    summary = Summary(results, 2, 10)
    results.release()
    assert summary.states["ok"] == summary.done == 2


class _Strict(HTMLParser):
    """Notes the tags of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        assert not any(name.startswith("on") or name in ("src", "href") for name, _ in attrs), attrs


def test_the_report_escapes_all_that_comes_from_jobs_and_needs_nothing_else(page: Path) -> None:
    text = written(page, result(0, name=EVIL), result(1, code=1, name=EVIL, stderr=EVIL.encode()), title=EVIL)
    assert "<script" not in text and "\x1b" not in text and "alert(1)" in text
    assert not re.search(r"https?://|@import|url\(", text)
    parser = _Strict()
    parser.feed(text)
    assert "script" not in parser.tags and parser.tags.count("svg") == 2


def test_the_report_of_thousands_of_jobs_is_no_larger_than_that_of_hundreds(page: Path) -> None:
    few = len(written(page, *(result(n, code=n % 2, memory_peak=n) for n in range(1000))))
    many = written(page, *(result(n, code=n % 7 == 0, memory_peak=n) for n in range(10_000)))
    assert len(many) < few and many.count("<rect") < 2000


def test_a_report_of_nothing_that_ran_is_a_page_too(page: Path) -> None:
    assert "because" in written(page, result(0, "skipped", 125, error="because", ended=None, wall=0.0))


def test_no_bar_covers_another() -> None:
    spans = [(n * 0.1, n * 0.1 + 1 + n % 3) for n in range(200)]
    lanes, most = _lanes(spans)
    assert max(lanes) + 1 == most
    for lane in set(lanes):
        mine = [span for span, its in zip(spans, lanes, strict=True) if its == lane]
        assert all(end <= begin + 1e-5 for (_, end), (begin, _) in itertools.pairwise(mine))


def test_slices_share_an_amount_by_time() -> None:
    slices = Slices(Axes(0.0, 200.0))
    slices.spread(0.5, 2.5, 8.0)
    assert [round(value, 6) for value in slices.values[:4]] == [2.0, 4.0, 2.0, 0.0]
    slices.spread(199.9, 200.0, 1.0)
    assert sum(slices.values) == pytest.approx(9.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.21, "0.21s"), (12.4, "12s"), (59.9, "1m00s"), (185, "3m05s"), (7620, "2h07m"), (3 * 86400 + 4 * 3600, "3d04h")],
)
def test_a_duration_is_for_people(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_rate_is_that_of_the_last_half_minute() -> None:
    rate = Rate()
    for now, done in ((0.0, 0), (10.0, 1000), (100.0, 1090), (110.0, 1100)):
        rate.mark(now, done)
    assert rate.per_second == 1.0


def test_what_a_job_said_is_harmless_on_a_terminal() -> None:
    assert trouble(result(0, code=3, name=EVIL)) == "<script>alert(1)</script>\\x1b]0;x\\x07&\"': exit status 3"
    assert last_line(b"x\n" + b"\xff last \n\n") == "\ufffd last"
