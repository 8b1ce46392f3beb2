"""The first step of every plan. In a file of its own, because a run that was typed before needs no other step of the host's."""

from __future__ import annotations

from pybox.paths import is_file
from pybox.steps.base import Desk, HostStep

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.seen import Seen


class ClaimState(HostStep):
    """Claim the container's id: mkdir is atomic, so of two who want the same id one gets it. The directory holds the journal.

    A lock on it says that its owner lives; the kernel lets go of the lock whatever way the owner dies. state.py does it.
    """

    call: ClassVar[str] = "mkdir"
    man: ClassVar[str] = "flock(2)"
    path: str

    def describe(self) -> str:
        return f"claim {self.path} and write the journal"

    def calls(self) -> tuple[str, ...]:
        return (f'mkdir("{self.path}", 0700)',)

    def apply(self, desk: Desk) -> None:
        """Nothing left to do: the journal, which lists this step, is in it already."""

    def check(self, seen: Seen) -> bool:
        return is_file(f"{seen.named(self.path)}/journal")
