"""Ready: all that a launch needs, and nothing of how it came about. Plain data, so it can be kept for the next pybox (plans.py)."""

from __future__ import annotations

from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.fastjson import Json
    from pybox.native import Program
    from pybox.planner import Planned, Planner
    from pybox.steps.base import HostStep


class Ready(Record):
    """A plan that is ready to launch: two equal runs differ in nothing but the container's id and their fds."""

    program: Program
    prepare: tuple[HostStep, ...]  # to be done on the host before the clone
    effective: tuple[tuple[str, str], ...]  # (limit asked for, what enforces it)
    groups: tuple[tuple[str, str], ...]  # (controller, directory)
    words: tuple[str, ...]  # the command
    image: tuple[str, str, tuple[str, ...]]  # name, id, layers
    owner: tuple[int, int] | None  # the ids of the command on the host, where pybox may give something to them
    init: bool  # pybox-init is process 1
    holder: bool  # a user namespace is to be made, which pybox-init holds until it is entered
    returns_network: bool  # another container may have it afterwards, see kernel/namespaces.py
    asked: dict[str, Json]  # the Spec as JSON, for the journal
    keep: bool  # as in Inputs: the writable layer is looked at after the run
    managed: bool

    def leaves(self) -> tuple[tuple[str, str], ...]:
        """Return what undoing needs, in the order of the steps: the journal."""
        return tuple(entry for step in self.prepare for entry in step.leaves())

    def planned(self, planner: Planner) -> Planned:
        """Return it with its plan, for a message that names a step. Raises what planning raises."""
        from pybox.specjson import from_json

        return planner.plan(from_json(self.asked), self.keep, self.managed)
