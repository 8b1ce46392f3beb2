"""`pybox report`: one page about one run, to be handed in or attached. Evidence in, HTML out; no script, nothing to load.

It begins with the steps of the plan, each with its time as a bar and, opened, with its lesson and its system calls; then come what
the container has of its own, what it is made of, what it may use, and what it still shares with its host. At the end is all of the
plan as JSON. Every text passes ``_Page.text``: redacted first, then escaped.
"""

from __future__ import annotations

import json
from time import localtime, strftime

from pybox import page
from pybox.contrast import SAME
from pybox.kernel.usage import UNLIMITED
from pybox.page import escaped
from pybox.shown import size
from pybox.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from pybox.explain.evidence import Evidence, Group, Layer
    from pybox.explain.redact import Redactor
    from pybox.fastjson import Json

_LONGEST = 200  # characters of a title: a command may be a script
_SIDES = {"host": "On the host, before there is a process", "inside": "In the new process, between clone and exec"}
_STYLE = """
:root{--files:#2f6fd0;--process:#8a55c7;--rights:#c2571a;--host:#2a8a5f}
@media(prefers-color-scheme:dark){:root{--files:#6aa2f5;--process:#b98af0;--rights:#f0935a;--host:#4fc48f}}
.b-files{fill:var(--files);background:var(--files)}.b-process{fill:var(--process);background:var(--process)}
.b-rights{fill:var(--rights);background:var(--rights)}.b-host{fill:var(--host);background:var(--host)}
h3{font-size:.9rem;font-weight:500;color:var(--dim);margin:1rem 0 .3rem}code,pre,.mono{font:12.5px/1.5 ui-monospace,monospace}
nav a,a{color:var(--plot)}nav{display:flex;flex-wrap:wrap;gap:.2rem 1rem;margin:.8rem 0}
.steps{list-style:none;margin:0;padding:0}.steps li{border-bottom:1px solid var(--line)}
summary{cursor:pointer}summary:focus-visible{outline:2px solid var(--plot);outline-offset:1px}
.steps summary,.axis{display:grid;grid-template-columns:2.2rem minmax(14rem,2fr) 3fr 5.2rem 4.6rem;gap:0 .6rem;align-items:center}
.steps summary{list-style:none;padding:.12rem 0}.steps summary::-webkit-details-marker{display:none}
.steps summary:hover{background:color-mix(in srgb,var(--line) 40%,transparent)}
.no,.took,.mark{color:var(--dim);font-size:.82rem;text-align:right;font-variant-numeric:tabular-nums}.mark{text-align:left}
.what{overflow-wrap:anywhere}.what::before{content:"▸ ";color:var(--dim)}details[open] .what::before{content:"▾ "}
.bar{width:100%;height:12px;display:block}
.lane{background-image:linear-gradient(to right,var(--line) 1px,transparent 1px);background-size:25% 100%;border-right:1px solid var(--line)}
.ticks{grid-column:3;display:flex;justify-content:space-between;color:var(--dim);font-size:.75rem}.bad{color:var(--failed);font-weight:600}
.more{padding:.3rem 0 .8rem 2.8rem;max-width:75ch}.more p{color:var(--fg)}
pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:.4rem 0;padding:.5rem .7rem;border:1px solid var(--line);border-radius:6px}
.stack{list-style:none;margin:0;padding:0;display:grid;gap:4px}
.stack li{border:1px solid var(--line);border-left:6px solid var(--files);border-radius:6px;padding:.35rem .8rem}
.stack li.own{border-style:dashed;border-left-style:solid;border-left-color:var(--host)}
.stack .row{display:flex;flex-wrap:wrap;justify-content:space-between;gap:0 1rem}
.stack code,.tree code{color:var(--dim);overflow-wrap:anywhere}
.tree,.tree ul{list-style:none;margin:0;padding:0 0 0 1rem;border-left:1px solid var(--line)}.tree{padding-left:.6rem}
.tree table{margin:.2rem 0 .6rem;width:auto}.tree td{border:0;padding:.05rem 1.2rem .05rem 0}
.gauge{width:100%;max-width:16rem;height:10px;display:block}.gauge .all{fill:var(--line)}
.unfold th,.unfold td{min-width:6.8rem}.shared{margin:0;padding-left:1.2rem}.same{color:var(--dim)}.num{font-variant-numeric:tabular-nums}
@media(max-width:720px){body{margin:1rem auto}.axis .ticks{grid-column:2}
.steps summary,.axis{grid-template-columns:1.9rem 1fr 4.2rem}.steps .lane{grid-column:2;grid-row:2}.more{padding-left:1.9rem}
.mark{grid-column:3;grid-row:2;text-align:right}
.unfold tr{display:block;border-bottom:1px solid var(--line);padding:.3rem 0}.unfold td,.unfold tbody th{display:block;border:0;padding:0}
.unfold tbody th{color:var(--fg)}.unfold thead,.unfold .none{display:none}
.unfold td:not([data-of=""])::before{content:attr(data-of) ": ";color:var(--dim)}}
@media print{details>summary{break-inside:avoid}}
"""


def html(found: Evidence, redactor: Redactor, now: float) -> Iterator[str]:
    """Yield the page, piece by piece."""
    yield from _Page(found, redactor).parts(now)


def document(found: Evidence) -> dict[str, Json]:
    """Return what is embedded as JSON: the plan with its times, and the result."""
    return {
        "schema": "pybox.report/1",
        "id": found.identity,
        "steps": list(found.steps),
        "effective": dict(found.effective),
        "contrast": None if found.contrast is None else found.contrast.to_json(),
        "result": found.result,
    }


class _Page:
    def __init__(self, found: Evidence, redactor: Redactor) -> None:
        self.found = found
        self.redactor = redactor
        times = [(float(str(step["at_us"])), float(str(step["took_us"]))) for step in found.steps if "at_us" in step]
        self.span = max((at + took for at, took in times), default=0.0)  # microseconds
        self.slow = sorted((took for _, took in times), reverse=True)[:3]

    def text(self, text: object) -> str:
        """Return a text as it may stand in the page."""
        return escaped(self.redactor.text(str(text)))

    def parts(self, now: float) -> Iterator[str]:
        found = self.found
        whole = self.redactor.text(found.title)  # before it is cut: half of a value is still told
        title = escaped(whole if len(whole) <= _LONGEST else f"{whole[:_LONGEST]}…")
        yield f"{page.head(title, _STYLE)}<body><header><h1>{title}</h1>"
        made = strftime("%Y-%m-%d %H:%M:%S %z", localtime(now))
        yield f"<p>container <code>{self.text(found.identity)}</code>, seen {made} by pybox {VERSION}</p>"
        yield self.tiles()
        sections = [
            ("steps", "Steps", self.steps()),
            ("namespaces", "Namespaces", self.namespaces()),
            ("layers", "Layers", self.stack()),
            ("use", "Limits and use", self.used()),
            ("groups", "Control groups", self.tree()),
            ("host", "Beside its host", self.beside()),
            ("shared", "Still shared with the host", self.shared()),
            ("command", "What was asked for", self.command()),
            ("plan", "The plan as JSON", self.plan()),
        ]
        yield "<nav aria-label='on this page'>" + "".join(f"<a href='#{name}'>{words}</a>" for name, words, _ in sections)
        yield "</nav></header><main>"
        yield from (f"<p class=note>{self.text(note)}</p>" for note in found.notes)
        for name, words, inner in sections:
            yield f"<section aria-labelledby={name}><h2 id={name}>{words}</h2>"
            yield from inner
            yield "</section>"
        if not self.redactor.keep:
            yield "<p>Values of variables and home directories are left out; <code>--no-redact</code> keeps them.</p>"
        yield "</main></body></html>\n"

    def tiles(self) -> str:
        found, result = self.found, self.found.result or {}
        boxes = [(self.text(found.ended.partition(":")[0]), "ended" if found.result or found.failed else "status")]
        if self.span:
            shown = sum(step.get("ok") is True for step in found.steps)
            boxes += [(_time(self.span), "to make it"), (f"{shown} of {len(found.steps)}", "steps shown by the kernel")]
        elif found.steps:
            boxes.append((str(len(found.steps)), "steps"))
        wall, peak = result.get("wall"), result.get("memory_peak")
        if isinstance(wall, (int, float)):
            boxes.append((_time(wall * 1e6), "it ran"))
        if isinstance(peak, int):
            boxes.append((size(peak), "peak memory"))
        failed = f"<p class=bad>{self.text(found.ended)}</p>" if found.failed else ""
        return page.tiles(boxes) + failed

    # --- the steps -----------------------------------------------------------------------------------------------------------

    def steps(self) -> Iterator[str]:
        if not self.found.steps:
            yield "<p>not known</p>"
            return
        yield "<p>Open one for why it is there and the system calls it is made of."
        yield " A bar is when it was done, from the first step to the start of the command.</p>" if self.span else "</p>"
        if self.span:
            used = dict.fromkeys(str(step["about"]) for step in self.found.steps)
            yield "<p class=key>" + "".join(f"<i class=b-{word}></i>{word}" for word in used) + "</p>"
            ticks = "".join(f"<span>{_time(self.span * part / 4)}</span>" for part in range(5))
            yield f"<div class=axis aria-hidden=true><div class=ticks>{ticks}</div></div>"
        side = ""
        for step in self.found.steps:
            if step["side"] != side:
                yield "</ol>" if side else ""
                side = str(step["side"])
                yield f"<h3>{_SIDES[side]}</h3><ol class=steps>"
            yield self.step(step)
        yield "</ol>"

    def step(self, step: dict[str, Json]) -> str:
        number, calls = step["number"], step["calls"]
        took, mark = "", "not reached" if self.span else ""
        bar = "<span class=lane></span>"
        if "at_us" in step:
            at, lasted = float(str(step["at_us"])), float(str(step["took_us"]))
            x, wide = at / self.span * 1000, max(3.0, lasted / self.span * 1000)
            bar = (
                "<span class=lane><svg class=bar viewBox='0 0 1000 12' preserveAspectRatio=none aria-hidden=true>"
                f"<rect class=b-{step['about']} x={min(x, 997):.1f} y=1 width={wide:.1f} height=10 /></svg></span>"
            )
            took = f"<b>{_time(lasted)}</b>" if lasted in self.slow else _time(lasted)
            mark = "" if step["ok"] is None else "shown" if step["ok"] else "<span class=bad>not shown</span>"
        elif number == self.found.failed:
            mark = "<span class=bad>failed</span>"
        lesson = "".join(f"<p>{self.text(' '.join(part.split()))}</p>" for part in str(step["lesson"]).split("\n\n"))
        shown = "\n".join(self.text(call) for call in calls) if isinstance(calls, list) else ""
        return (
            f"<li id=step-{number}><details><summary><span class=no>{number}</span><span class=what>{self.text(step['describe'])}</span>"
            f"{bar}<span class=took>{took}</span><span class=mark>{mark}</span></summary><div class=more>{lesson}"
            f"{f'<pre>{shown}</pre>' if shown else ''}<p>Read <code>{self.text(step['man'])}</code></p></div></details></li>"
        )

    # --- what it has, is made of, may use, and shares ------------------------------------------------------------------------

    def namespaces(self) -> Iterator[str]:
        yield "<p>Two processes are in the same one if the inode numbers are the same: <code>ls -l /proc/PID/ns</code></p>"
        yield self.compared("namespace", lambda what: what.endswith(" namespace"))

    def beside(self) -> Iterator[str]:
        yield self.compared("", lambda what: not what.endswith(" namespace"))

    def compared(self, name: str, wanted: Callable[[str], bool]) -> str:
        """Return those lines of the comparison with the host that are wanted; what is the same is dimmed, and says so in words too."""
        if self.found.contrast is None:
            return "<p>nobody could look</p>"
        rows = [
            (
                self.text(row.what.removesuffix(" namespace")),
                self.text(row.host),
                f"<span class=same>{SAME}</span>" if row.container == SAME else self.text(row.container),
                self.text(row.means),
            )
            for row in self.found.contrast.rows
            if wanted(row.what)
        ]
        return self.table((name, "host", "container", "what it means"), rows)

    def shared(self) -> Iterator[str]:
        if self.found.contrast is None:
            yield "<p>nobody could look</p>"
            return
        yield "<p>A container is a process of the host: what nothing takes away from it, it shares.</p><ul class=shared>"
        yield from (f"<li>{self.text(line)}</li>" for line in self.found.contrast.shared)
        yield "</ul>"

    def stack(self) -> Iterator[str]:
        most = max((layer.size or 0 for layer in self.found.layers), default=0)
        yield "<p>A file is looked for from the top. Only the top is written to; what is below is shared by all containers.</p>"
        yield "<ol class=stack>"
        for number, layer in enumerate(self.found.layers):
            yield self.layer(layer, most, own=number == 0)
        yield "</ol>"

    def layer(self, layer: Layer, most: int, own: bool) -> str:
        name = f"<code>{self.text(layer.digest[:19])}</code>" if layer.digest else ""
        takes = size(layer.size) if layer.size is not None else ""
        share = layer.size / most if layer.size and most else None
        where = f"<code>{self.text(layer.path)}</code>" if layer.path not in ("", "/") else ""
        return (
            f"<li{' class=own' * own}><div class=row><b>{self.text(layer.what)}</b><span class=num>{takes}</span></div>"
            f"<div class=row>{name}{where}</div>{_gauge(share) if share is not None else ''}</li>"
        )

    def used(self) -> Iterator[str]:
        rows = [
            (
                self.text(use.what),
                self.text(use.used),
                self.text(use.limit) or "<span class=same>no limit</span>",
                _gauge(use.share),
            )
            for use in self.found.used
        ]
        yield (self.table(("", "used", "limit", "share"), rows) if rows else "<p>nobody has counted, and nothing is limited</p>")
        if self.found.effective:
            yield "<p>Enforced by: " + self.text("; ".join(f"{option} {how}" for option, how in self.found.effective)) + "</p>"

    def tree(self) -> Iterator[str]:
        if not self.found.groups:
            yield "<p>None of its own"
            yield ": without a limit a run in the foreground needs none.</p>" if self.found.contrast else ".</p>"
            return
        if self.span:
            yield "<p>As the kernel showed them just before the command began.</p>"
        yield "<ul class=tree>"
        yield from self.branch("", [(group.path.strip("/").split("/"), group) for group in self.found.groups])
        yield "</ul>"

    def branch(self, above: str, below: Sequence[tuple[list[str], Group]]) -> Iterator[str]:
        for name in dict.fromkeys(parts[0] for parts, _ in below):
            inner = [(parts[1:], group) for parts, group in below if parts[0] == name]
            here = f"{above}/{name}"
            if len({parts[0] if parts else "" for parts, _ in inner}) == 1 and inner[0][0]:
                yield from self.branch(here, inner)  # nothing branches off here: one line for all of it
                continue
            group = next((group for parts, group in inner if not parts), None)
            controller = f" <span class=same>{self.text(group.controller or 'cgroup2')}</span>" if group else ""
            yield f"<li><code>{self.text(here)}</code>{controller}"
            if group and group.files:
                yield "<table>" + "".join(
                    f"<tr><td><code>{self.text(file)}</code></td><td class='mono num'>{self.text(_limit(value))}</td></tr>"
                    for file, value in group.files
                )
                yield "</table>"
            deeper = [pair for pair in inner if pair[0]]
            if deeper:
                yield "<ul>"
                yield from self.branch("", deeper)
                yield "</ul>"
            yield "</li>"

    def command(self) -> Iterator[str]:
        rows = [(self.text(what), f"<span class=mono>{self.text(value)}</span>") for what, value in self.found.facts]
        for name, value in self.found.env:
            rows.append(("variable", f"<span class=mono>{self.text(name)}={escaped(self.redactor.value(value))}</span>"))
        yield self.table(("", ""), rows)

    def plan(self) -> Iterator[str]:
        shown = escaped_json(self.redactor, document(self.found))
        yield f"<details><summary>{len(self.found.steps)} steps, with their lessons and times</summary><pre id=json>{shown}</pre></details>"

    def table(self, names: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
        """Return a table of cells that are escaped already. On a narrow page each row is a block of its own."""

        def cell(name: str, inner: str) -> str:
            return f'<td data-of="{name}">{inner}</td>' if inner else "<td class=none></td>"

        top = "".join(f"<th scope=col>{name}</th>" for name in names)
        body = "".join(f"<tr><th scope=row>{row[0]}</th>{''.join(map(cell, names[1:], row[1:]))}</tr>" for row in rows)
        return f"<table class=unfold><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def escaped_json(redactor: Redactor, value: dict[str, Json]) -> str:
    """Return JSON for a <pre>: redacted string by string, so that it stays JSON."""
    from html import escape

    def clean(value: Json) -> Json:
        if isinstance(value, str):
            return redactor.text(value)
        if isinstance(value, dict):
            return {name: clean(entry) for name, entry in value.items()}
        return [clean(entry) for entry in value] if isinstance(value, (list, tuple)) else value

    return escape(json.dumps(clean(value), indent=2), quote=False)


def _gauge(share: float | None) -> str:
    if share is None:
        return ""
    return (
        f"<svg class=gauge viewBox='0 0 100 6' preserveAspectRatio=none role=img aria-label='{share:.0%}'><rect class=all width=100 height=6 />"
        f"<rect class=b-files width={max(0.5, share * 100):.1f} height=6 /></svg>"
    )


def _limit(value: str) -> str:
    """Return what a file of a group says; v1 has a number for no limit."""
    return f"{value} (no limit)" if value.isdigit() and int(value) >= UNLIMITED else value


def _time(microseconds: float) -> str:
    if microseconds < 999.5:
        return f"{microseconds:.0f} µs"
    return f"{microseconds / 1000:.3g} ms" if microseconds < 999_500 else f"{microseconds / 1e6:.3g} s"
