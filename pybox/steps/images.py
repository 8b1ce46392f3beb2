"""Steps on images beside the one that is the root: ``--mount type=image``, and views of containers that do not run."""

from __future__ import annotations

from pybox.steps.mounts import MountOverlay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.seen import Seen


class ShowLayers(MountOverlay):
    """Show the layers of an image as one tree. Without a writable layer it can't be changed by anybody, whatever the mount's flags.

    Overlayfs wants two layers or more, so then an empty one lies on top.
    """

    shown_at: str = ""  # the place in the container

    def describe(self) -> str:
        count = f"{len(self.lower_dirs)} layer{'s' * (len(self.lower_dirs) != 1)}"
        return f"stack {count}{' and a writable one' if self.upper else ', read-only,'} on {self.target}"

    def options(self) -> str:
        """Return the options of overlayfs, perhaps without a writable layer."""
        if self.upper:
            return super().options()
        return f"lowerdir={':'.join(self.lower_dirs)}" + (",userxattr" if self.userxattr else "")

    def check(self, seen: Seen) -> bool:
        found = seen.mount(self.shown_at)
        return found is not None and found.fstype == "overlay"
