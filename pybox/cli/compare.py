"""`pybox diff --host CONTAINER`: the container beside its host, and what they still share."""

from __future__ import annotations

import json

from pybox.cli.options import Option, parse_anywhere
from pybox.cli.table import FORMAT, form, table, visible
from pybox.contrast import Contrast, contrast
from pybox.errors import SpecError
from pybox.listing import find
from pybox.live import held, not_running

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.dirs import Dirs

_COMPARE = (Option(("--host",), "", "compare with the host, not with the image"), FORMAT)


def compare(where: Dirs, words: list[str]) -> int:
    """Print a running container beside its host. Raises SpecError, StateError."""
    parsed = parse_anywhere(_COMPARE, words)
    kind = form(parsed, "table", "json")
    if len(parsed.rest) != 1:
        raise SpecError("diff", " ".join(parsed.rest), "must be --host CONTAINER", "`pybox ps` lists those that run")
    with held(where, parsed.rest[0]) as live:
        found = contrast(live)
        if not live.still():
            raise not_running(find(where, live.identity))
    print(json.dumps(found.to_json(), indent=2) if kind == "json" else text(found))
    return 0


def text(found: Contrast) -> str:
    """Return the comparison for people."""
    rows = [("", "host", found.identity, "means")]
    rows += [(row.what, visible(row.host), visible(row.container), visible(row.means)) for row in found.rows]
    return f"{table(rows)}\n\nstill shared with the host: {visible(', '.join(found.shared))}"
