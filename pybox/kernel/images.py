"""Images shown inside beside the root: ``--mount type=image``. overlayfs.rst

Each is stacked while the host is in sight and then treated like any other source of a mount. A writable one has its changes in
memory, and they are gone with the container, as in podman.
"""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.kernel import rootfs
from pybox.kernel.inputs import Inputs
from pybox.spec import Mount
from pybox.steps.base import ChildStep
from pybox.steps.images import ShowLayers
from pybox.steps.places import MakeDirectory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def steps(given: Inputs, number: int, mount: Mount) -> Iterator[ChildStep]:
    """Yield the stacking of the mount with this number; the place is ``place(number)``."""
    target = place(number)
    yield MakeDirectory(target)
    below = yield from rootfs.layers(given, given.stacks[number], f"{target}l")
    plain = not given.facts.root
    if mount.read_only:
        yield MakeDirectory("scratch/empty")
        yield ShowLayers(("scratch/empty", *below), "", "", target, userxattr=plain, shown_at=mount.target)
        return
    if given.mapped_by_root or (plain and not given.facts.tmpfs_user_xattr):
        reason = "with --userns as root" if given.mapped_by_root else "for a plain user before Linux 6.6"
        raise SpecError("mount", mount.image, f"a writable image is not there {reason}", "leave rw out")
    for part in ("u", "w"):
        yield MakeDirectory(f"{target}{part}")
    upper = (f"{target}u", f"{target}w")
    yield ShowLayers(below, *upper, target, userxattr=plain, throw_away=False, shown_at=mount.target)


def place(number: int) -> str:
    """Return where it is stacked, relative to the store."""
    return f"scratch/i{number}"
