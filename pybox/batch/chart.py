"""Charts as SVG text: one time axis for all, and slices of time to add things up in."""

from __future__ import annotations

from time import localtime, strftime

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

WIDTH, HEIGHT, LEFT, TOP, FOOT = 1000, 140, 62, 8, 22  # units of the drawing
_SLICES = 200


class Axes:
    """Time from left to right."""

    slices = _SLICES

    def __init__(self, first: float, span: float) -> None:
        self.first, self.span = first, span  # seconds since the epoch, seconds

    def wide(self, seconds: float) -> float:
        """Return how wide a time is."""
        return seconds / self.span * (WIDTH - LEFT)

    def x(self, when: float) -> float:
        """Return where a moment is."""
        return LEFT + self.wide(when - self.first)

    def slice(self, when: float) -> int:
        """Return the number of the slice in which a moment is."""
        return min(_SLICES - 1, max(0, int((when - self.first) / self.span * _SLICES)))

    def bar(self, place: int, floor: float, height: float, kind: str) -> str:
        """Return the bar of a slice; floor and height are shares of the whole height."""
        wide = (WIDTH - LEFT) / _SLICES
        y = TOP + HEIGHT * (1 - floor - height)
        return f"<rect class='{kind}' x={LEFT + place * wide:.1f} y={y:.1f} width={wide:.1f} height={HEIGHT * height:.1f} />"


class Slices:
    """A number for each slice of time."""

    def __init__(self, axes: Axes) -> None:
        self._axes = axes
        self.values = [0.0] * _SLICES

    def spread(self, begin: float, end: float, amount: float) -> None:
        """Add an amount, spread evenly over a time."""
        axes = self._axes
        first, last = axes.slice(begin), axes.slice(end)
        if first == last:
            self.values[first] += amount
            return
        width = axes.span / _SLICES
        for place in range(first, last + 1):
            low, high = axes.first + place * width, axes.first + (place + 1) * width
            self.values[place] += amount * max(0.0, min(end, high) - max(begin, low)) / (end - begin)

    def per_second(self) -> list[float]:
        """Return the amounts by the length of a slice."""
        return [value * _SLICES / self._axes.span for value in self.values]


def number_text(value: float) -> str:
    """Return a number with three digits, and none more than it has."""
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def chart(axes: Axes, height: float, top: str, unit: str, marks: Iterable[str]) -> Iterator[str]:
    """Yield a drawing: marks over a grid, with the time below and the largest value at the left."""
    foot = TOP + height
    yield f"<svg viewBox='0 0 {WIDTH} {foot + FOOT:.0f}' role=img>"
    for part in range(5):
        seconds = axes.span * part / 4
        x = axes.x(axes.first + seconds)
        told = f"{number_text(seconds)} s" if axes.span < 120 else strftime("%H:%M:%S", localtime(axes.first + seconds))
        anchor = "end" if part == 4 else "start" if part == 0 else "middle"
        yield f"<line class=grid x1={x:.1f} x2={x:.1f} y1={TOP} y2={foot:.1f} />"
        yield f"<text x={x:.1f} y={foot + 15:.1f} text-anchor={anchor}>{told}</text>"
    if top:
        yield f"<line class=grid x1={LEFT} x2={WIDTH} y1={TOP} y2={TOP} /><line class=grid x1={LEFT} x2={WIDTH} y1={foot} y2={foot} />"
        yield f"<text x={LEFT - 6} y={TOP + 9} text-anchor=end>{top}</text><text x={LEFT - 6} y={foot} text-anchor=end>0 {unit}</text>"
    yield from marks
    yield "</svg>"
