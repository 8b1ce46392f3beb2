"""Pages of HTML: one file that needs nothing else, no network and no script. What all of them share: escaping, colours, writing.

Colours come in pairs, for light and for dark, and follow what the reader has asked of the browser. All text of a page goes through
``escaped``: it may come from a container.
"""

from __future__ import annotations

from html import escape

from pybox.shown import visible
from pybox.whole import replacing

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2024;--dim:#5b6470;--line:#d8dce0;--ok:#2f9e62;--failed:#d33f49;--plot:#2f6fd0}
@media(prefers-color-scheme:dark){:root{--bg:#14171a;--fg:#e4e7ea;--dim:#99a1aa;--line:#343a40;--ok:#3fb878;--failed:#ef6069;
--plot:#6aa2f5}}
body{background:var(--bg);color:var(--fg);font:15px/1.5 system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem;overflow-wrap:anywhere}h2{font-size:1.05rem;margin:2rem 0 .4rem}p{margin:.2rem 0;color:var(--dim)}
.tiles{display:flex;flex-wrap:wrap;gap:.6rem;margin:1rem 0}.tile{border:1px solid var(--line);border-radius:8px;padding:.4rem .9rem}
.tile b{display:block;font-size:1.25rem}.tile span{color:var(--dim);font-size:.85rem}
.key i{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .35em 0 1em}.key i:first-child{margin-left:0}
table{border-collapse:collapse;width:100%;font-size:.9rem}th{text-align:left;color:var(--dim);font-weight:500}
th,td{padding:.3rem .8rem .3rem 0;border-bottom:1px solid var(--line);vertical-align:top;overflow-wrap:anywhere}
.wide{overflow-x:auto}
"""


def escaped(text: str) -> str:
    """Return a text for HTML, also for an attribute in quotes; what is not printable is shown as its escape."""
    return escape(visible(text), quote=True)


def head(title: str, style: str) -> str:
    """Return the beginning of a page, up to its body; ``title`` is escaped already."""
    meta = "<meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
    return f"<!doctype html><html lang=en><head>{meta}<title>{title}</title><style>{STYLE}{style}</style></head>"


def tiles(pairs: Iterable[tuple[str, str]]) -> str:
    """Return boxes of (value, what it is), escaped already."""
    return (
        f"<div class=tiles>{''.join(f'<div class=tile><b>{value}</b><span>{what}</span></div>' for value, what in pairs)}</div>"
    )


def write(path: str, parts: Iterable[str]) -> None:
    """Write a page: it is there whole, or as it was before. What is no plain file, a pipe or /dev/null, is written to. Raises OSError."""
    with replacing(path) as fd, open(fd, "w", encoding="utf-8", errors="backslashreplace", closefd=False) as file:
        file.writelines(parts)
