"""The plan: everything a run will do, before anything is done. A pure function of its inputs; the index is everybody's key.

explain prints it, C walks it and reports an index, an error names that entry, the journal stores what it leaves, gc undoes it.
This function is the table of contents of a container: read it first, then the room of each line.
"""

from __future__ import annotations

from pybox.kernel import cgroup, command, credentials, namespaces
from pybox.kernel.inputs import Inputs
from pybox.lowering import Table
from pybox.record import Record
from pybox.steps.base import ChildStep, HostStep, Step
from pybox.steps.claim import ClaimState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.native import Program


class Plan(Record):
    """What is done on the host before the clone, and what in the new process after it (the first of these is the clone)."""

    prepare: tuple[HostStep, ...]
    inside: tuple[ChildStep, ...]
    effective: tuple[tuple[str, str], ...]  # (limit asked for, what enforces it)
    groups: tuple[tuple[str, str], ...]  # (controller, directory)

    def steps(self) -> Iterator[tuple[int, str, Step]]:
        """Yield (number, side, step), numbered through both sides from 1."""
        for number, step in enumerate((*self.prepare, *self.inside), 1):
            yield number, "host" if number <= len(self.prepare) else "inside", step

    def leaves(self) -> tuple[tuple[str, str], ...]:
        """Return what undoing needs, in the order of the steps: the journal."""
        return tuple(entry for step in self.prepare for entry in step.leaves())

    def lower(self) -> Program:
        """Turn the inside steps into what C walks."""
        table = Table()
        for step in self.inside:
            step.lower(table)
        return table.program()


def make(given: Inputs) -> Plan:
    """Plan a run. Raises SpecError or LimitError for what can't be; touches nothing."""
    from pybox.kernel import rootfs  # an exec makes none, and does not pay for it

    effective = (*cgroup.effective(given), *rootfs.effective(given))
    groups = cgroup.groups(given)
    prepare = (
        ClaimState(f"{given.dirs.state}/CONTAINER-ID"),
        *rootfs.prepare(given),
        *cgroup.prepare(given),
        *namespaces.prepare(given),
    )
    # a root user namespace hides the host's ids, so the host's layers are stacked before it is entered
    early, late = (rootfs.stack(given), ()) if given.mapped_by_root else ((), rootfs.stack(given))
    inside = (
        *namespaces.birth(given, "cgroup" if any(controller == "" for controller, _ in groups) else None),
        *cgroup.steps(given),
        *early,
        *namespaces.citizenship(given),
        *namespaces.steps(given),
        *late,
        *rootfs.steps(given),
        *credentials.steps(given),
        *command.steps(given),
        *credentials.last_steps(given),
        *command.last_steps(given),
    )
    return Plan(prepare, inside, effective, groups)
