"""Bars on a logarithmic axis, as SVG that reads in light and dark. No library: a bar is a rectangle."""

from __future__ import annotations

import math
from dataclasses import dataclass
from html import escape

WIDTH, LABEL, RIGHT, BAR, GAP, TITLE = 720, 150, 90, 22, 10, 36
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 } .title { font-weight: 600 } .tick { font-size: 11px; fill: #59636e }
.bar { fill: #6e7781 } .first { fill: #0969da } line { stroke: #d1d9e0 } .paper { fill: #ffffff }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc } .tick { fill: #9198a1 } .bar { fill: #818b98 } .first { fill: #4493f8 } line { stroke: #3d444d } .paper { fill: #0d1117 }
}
"""


@dataclass(frozen=True)
class Panel:
    """One set of bars: (name, value above 0)."""

    title: str
    unit: str
    bars: list[tuple[str, float]]


def draw(panels: list[Panel]) -> str:
    """Return the panels below one another. The first bar of each is ours."""
    body, top = [], 0
    for panel in panels:
        drawn, height = _panel(panel, top)
        body += drawn
        top += height
    size = f'viewBox="0 0 {WIDTH} {top}" width="{WIDTH}" height="{top}"'
    title = escape("; ".join(panel.title for panel in panels))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n<title>{title}</title>\n<style>{STYLE}</style>'
    return "\n".join([head, f'<rect class="paper" width="{WIDTH}" height="{top}"/>', *body, "</svg>", ""])


def _panel(panel: Panel, top: int) -> tuple[list[str], int]:
    values = [value for _, value in panel.bars]
    low = math.floor(math.log10(min(values)))
    high = max(low + 1, math.ceil(math.log10(max(values))))
    scale = (WIDTH - LABEL - RIGHT) / (high - low)
    bottom = top + TITLE + len(values) * (BAR + GAP)
    out = [f'<text class="title" x="8" y="{top + 22}">{escape(panel.title)} ({panel.unit}, each line ten times the last)</text>']
    for power in range(low, high + 1):
        x = LABEL + (power - low) * scale
        out.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top + TITLE - 4}" y2="{bottom}"/>')
        out.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 14}" text-anchor="middle">{10.0**power:g}</text>')
    for row, (name, value) in enumerate(panel.bars):
        y = top + TITLE + row * (BAR + GAP)
        width = max(1.0, (math.log10(value) - low) * scale)
        out.append(f'<text x="{LABEL - 8}" y="{y + 16}" text-anchor="end">{escape(name)}</text>')
        out.append(f'<rect class="{"bar" if row else "first"}" x="{LABEL}" y="{y}" width="{width:.1f}" height="{BAR}"/>')
        shown = f"{value:.0f}" if value >= 100 else f"{value:.1f}"
        out.append(f'<text x="{LABEL + width + 6:.1f}" y="{y + 16}">{shown} {panel.unit}</text>')
    return out, bottom - top + 30
