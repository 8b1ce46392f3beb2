"""`pybox doctor`: what this host can do for pybox, found by doing it, and how to mend the rest. (facts: teaching.md 3.2)

    item         Item and Report: what is said, in text and in JSON
    session      what the probes share, and doctor's own journalled place on the host
    trial        a throw-away process in which something is done for real
    kernel, namespaces, rights, groups, system, files, sizes, runs
                 the probes: for each matter a function that tries it and returns ``judge_...`` of what it saw. Judges are pure

Configuration is read only to explain a refusal: a kernel that was built with CONFIG_USER_NS may still refuse them.
"""

from __future__ import annotations

from pybox.doctor.item import Item, Report
from pybox.errors import PyboxError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.dirs import Dirs
    from pybox.doctor.item import Purpose
    from pybox.doctor.session import Host
    from pybox.doctor.table import Probe


def examine(where: Dirs, purpose: Purpose = "run", only: str = "") -> Report:
    """Try everything, or the one item asked for. Changes nothing that lasts. Raises SpecError for an item that does not exist."""
    try:
        from pybox import native  # noqa: F401
    except ImportError as error:
        from pybox.doctor.without import judge_missing_extension

        return Report((judge_missing_extension(str(error)),), purpose)
    from pybox.doctor.session import opened
    from pybox.doctor.table import PROBES

    wanted = tuple(probe for probe in PROBES if only in ("", probe.id))
    if not wanted:
        from difflib import get_close_matches

        names = [probe.id for probe in PROBES]
        near = get_close_matches(only, names, 1, 0.5)
        raise SpecError("doctor", only, "no such item", f"did you mean {near[0]}?" if near else "one of " + " ".join(names))
    with opened(where) as host:
        return Report(tuple(tried(probe, host) for probe in wanted), purpose, bool(only))


def tried(probe: Probe, host: Host) -> Item:
    """Run one probe; one that stumbles itself is a failed item, not the end of doctor."""
    try:
        return probe.run(host)
    except (OSError, PyboxError) as error:
        message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.filename else str(error)
        hint = error.hint if isinstance(error, PyboxError) else None
        return Item(
            probe.id,
            probe.id,
            "fail",
            "tried it, but the trial itself stumbled",
            message,
            "the knowledge whether it works: take it for broken",
            hint or f"strace -f pybox doctor {probe.id}   (and report what it shows)",
            ("run",),
        )
