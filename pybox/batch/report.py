"""The report of a batch: one page that needs nothing else, no network and no script. A timeline, memory, CPU, what failed.

Up to two thousand jobs are drawn one by one; more are added up into slices of time, so that the page of a million jobs is as small
as that of a hundred, and is made in passes over the results, not from memory. All that comes from jobs is escaped.
"""

from __future__ import annotations

from heapq import heappush, heapreplace
from time import localtime, strftime

from pybox import page
from pybox.batch.chart import HEIGHT, TOP, Axes, Slices, chart, number_text
from pybox.batch.progress import duration
from pybox.batch.summary import STATES, Summary, called, number, starts, state_of
from pybox.page import escaped
from pybox.shown import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.batch.directory import Results

_SINGLE = 2000  # jobs that are drawn one by one
_LANE = 12  # units of height, at most, for each job that runs at once

_STYLE = """
:root{--timeout:#d98a00;--oom:#8e44ad;--cancelled:#7a8290;--skipped:#b3bac2}
@media(prefers-color-scheme:dark){:root{--timeout:#f0a830;--oom:#b97fd6;--cancelled:#8b949e;--skipped:#59616a}}
svg{width:100%;height:auto;display:block}svg text{fill:var(--dim);font:11px system-ui,sans-serif}.grid{stroke:var(--line)}
.plot{fill:var(--plot);stroke:none}td code{font:12px ui-monospace,monospace}
""" + "".join(f".{state}{{fill:var(--{state});background:var(--{state})}}" for state in STATES)


def write(path: str, title: str, summary: Summary, results: Results) -> None:
    """Write the page: it is there whole, or not at all."""
    page.write(path, _page(title, summary, results))


def _page(title: str, summary: Summary, results: Results) -> Iterator[str]:
    shown = escaped(title)
    yield f"{page.head(shown, _STYLE)}<h1>{shown}</h1>"
    if summary.last:
        yield f"<p>{strftime('%Y-%m-%d %H:%M:%S', localtime(summary.first))}, {duration(summary.span)}</p>"
    yield from _tiles(summary)
    if summary.last:
        axes = Axes(summary.first, max(summary.span, 0.001))
        yield from _timeline(axes, summary, results)
        yield from _memory(axes, summary, results)
        yield from _cpu(axes, summary, results)
    yield from _slowest(summary)
    yield from _failed(summary)


def _tiles(summary: Summary) -> Iterator[str]:
    tiles = [(str(summary.total), "jobs"), *((str(count), state) for state, count in summary.states.items() if count)]
    if summary.done < summary.total:
        tiles.append((str(summary.total - summary.done), "not run"))
    tiles += [(duration(summary.span), "wall"), (duration(summary.wall), "all jobs"), (duration(summary.cpu), "CPU")]
    if summary.peak:
        tiles.append((size(summary.peak), f"peak memory, {escaped(summary.peak_name)}"))
    yield page.tiles(tiles)


def _key(summary: Summary) -> str:
    drawn = [state for state in STATES if summary.states[state] and state != "skipped"]
    return "<p class=key>" + "".join(f"<i class={state}></i>{state}" for state in drawn) + "</p>"


# --- the timeline ------------------------------------------------------------------------------------------------------------


def _timeline(axes: Axes, summary: Summary, results: Results) -> Iterator[str]:
    yield "<h2>Timeline</h2>"
    if summary.done <= _SINGLE:
        rows = sorted(starts(results.rows()), key=lambda entry: entry[0])
        lanes, most = _lanes([(begin, end) for begin, end, _ in rows])
        height = max(1.0, min(_LANE, 480 / most))
        yield "<p>each bar is a job, each row a place in which one runs at a time</p>" + _key(summary)
        bars = []
        for lane, (begin, end, row) in zip(lanes, rows, strict=True):
            width = max(0.8, axes.wide(end - begin))
            told = f"{called(row)}: {state_of(row)}, {number_text(end - begin)} s, {size(int(number(row, 'memory_peak')))}"
            bars.append(
                f"<rect class={state_of(row)} x={axes.x(begin):.1f} y={TOP + lane * height:.1f} width={width:.1f} "
                f"height={height * 0.85:.1f}><title>{escaped(told)}</title></rect>"
            )
        yield from chart(axes, most * height, "", "", bars)
        return
    yield f"<p>how many of {summary.done} jobs ran at a time, by how they ended</p>" + _key(summary)
    by_state = {state: Slices(axes) for state in STATES}
    for begin, end, row in starts(results.rows()):
        by_state[state_of(row)].spread(begin, end, end - begin)
    shown = {state: slices.per_second() for state, slices in by_state.items() if any(slices.values)}
    top = max(map(sum, zip(*shown.values(), strict=True)), default=1.0) or 1.0
    floor = [0.0] * axes.slices
    bars = []
    for state, values in shown.items():
        for number_, value in enumerate(values):
            if value:
                bars.append(axes.bar(number_, floor[number_] / top, value / top, state))
                floor[number_] += value
    yield from chart(axes, HEIGHT, number_text(top), "jobs", bars)


def _lanes(spans: list[tuple[float, float]]) -> tuple[list[int], int]:
    """Return a row for each span, in the order of their begins, so that none covers another; and how many rows there are."""
    free: list[tuple[float, int]] = []  # (when, row): a heap of rows that end
    idle: list[int] = []
    lanes = []
    for begin, end in spans:
        if free and free[0][0] <= begin + 1e-6:
            lane = free[0][1]
            heapreplace(free, (end, lane))
        else:
            lane = len(free) + len(idle)
            heappush(free, (end, lane))
        lanes.append(lane)
    return lanes, max(1, len(free))


# --- memory and CPU ----------------------------------------------------------------------------------------------------------


def _memory(axes: Axes, summary: Summary, results: Results) -> Iterator[str]:
    if not summary.peak:
        return
    yield "<h2>Peak memory</h2>"
    if summary.done <= _SINGLE:
        yield "<p>each dot is a job, where it ended</p>"
        dots = []
        for _, end, row in starts(results.rows()):
            peak = number(row, "memory_peak")
            y = TOP + HEIGHT * (1 - peak / summary.peak)
            dots.append(
                f"<circle class={state_of(row)} cx={axes.x(end):.1f} cy={y:.1f} r=2.5 fill-opacity=.75>"
                f"<title>{escaped(called(row))}: {size(int(peak))}</title></circle>"
            )
        yield from chart(axes, HEIGHT, size(summary.peak), "", dots)
        return
    yield "<p>of the jobs that ended at a time: the largest, and the mean</p>"
    most, mean = Slices(axes), Slices(axes)
    count = Slices(axes)
    for _, end, row in starts(results.rows()):
        peak, place = number(row, "memory_peak"), axes.slice(end)
        most.values[place] = max(most.values[place], peak)
        mean.values[place] += peak
        count.values[place] += 1
    bars = [axes.bar(place, 0, peak / summary.peak, "plot' fill-opacity='.4") for place, peak in enumerate(most.values) if peak]
    for place, total in enumerate(mean.values):
        if total:
            bars.append(axes.bar(place, 0, total / count.values[place] / summary.peak, "plot"))
    yield from chart(axes, HEIGHT, size(summary.peak), "", bars)


def _cpu(axes: Axes, summary: Summary, results: Results) -> Iterator[str]:
    yield "<h2>CPU</h2><p>what the jobs used, each spread evenly over its time</p>"
    used = Slices(axes)
    for begin, end, row in starts(results.rows()):
        used.spread(begin, end, number(row, "cpu_user") + number(row, "cpu_system"))
    values = used.per_second()
    top = max(values) or 1.0
    bars = [axes.bar(place, 0, value / top, "plot") for place, value in enumerate(values) if value]
    yield from chart(axes, HEIGHT, number_text(top), "CPUs", bars)


# --- tables ------------------------------------------------------------------------------------------------------------------


def _slowest(summary: Summary) -> Iterator[str]:
    if summary.slowest():
        yield "<h2>Slowest</h2><table>"
        yield from (f"<tr><td>{escaped(name)}<td>{number_text(wall)} s" for wall, name in summary.slowest())
        yield "</table>"


def _failed(summary: Summary) -> Iterator[str]:
    if not summary.failures:
        return
    yield f"<h2>Not well: {summary.failed}</h2><div class=wide><table><tr><th>job<th>number<th>why<th>tried<th>last line of stderr"
    for failure in summary.failures:
        yield (
            f"<tr><td>{escaped(failure.name)}<td>{failure.index}<td>{escaped(failure.reason)}<td>{failure.attempts}"
            f"<td><code>{escaped(failure.words)}</code>"
        )
    yield "</table></div>"
    if summary.failed > len(summary.failures):
        yield f"<p>and {summary.failed - len(summary.failures)} more</p>"
