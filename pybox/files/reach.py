"""Reach: from a container's name to its files. Everything that this package needs from the record is asked for here.

running    /proc/PID/root, opened once and then verified: the pid may have been another's by now. What is below it is looked up
           by fd only, see place.py
stopped    the stack of its layers, held open for as long as the lock on its record (views.py)
"""

from __future__ import annotations

import os
from stat import S_ISDIR

from pybox import host, listing
from pybox.dirs import Dirs
from pybox.errors import StateError
from pybox.files import views
from pybox.host import read
from pybox.image.model import Image
from pybox.image.tree import DIRECTORY
from pybox.kernel.inputs import Inputs, TopEntry
from pybox.kernel.namespaces import FIRST_ID
from pybox.live import RUNNING, pidfd
from pybox.record import Record
from pybox.seen import Seen
from pybox.spec import Spec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import TracebackType

    from pybox.fastjson import Json

_KERNELS = frozenset(("proc", "sysfs", "cgroup", "cgroup2", "devpts", "mqueue"))


class Mounts(Record):
    """What is mounted in a running container, beside its root: device numbers and paths.

    Neither says it all: on btrfs files have other device numbers than their mount, and a directory above a mount may be renamed.
    """

    kernels: frozenset[int] = frozenset()  # the kernel's own file systems, and /dev
    others: frozenset[int] = frozenset()  # these and all volumes
    paths: frozenset[bytes] = frozenset()


class Reach:
    """A container whose files are within reach, until ``close``. ``upper`` is "" when its writable layer is in memory."""

    def __init__(self, given: Inputs, entry: listing.Entry) -> None:
        self.given = given
        self.identity = entry.identity
        self.image_id = str(entry.journal.get("image_id", ""))
        upper = f"{given.dirs.uppers}/{entry.identity}/u"
        self.upper = upper if os.path.isdir(upper) else ""
        self.groups = entry.groups
        args = entry.journal.get("args")
        self.command = " ".join(map(str, args)) if isinstance(args, list) else ""
        self.running = entry.status in RUNNING
        self.mounts = Mounts()
        self.root = self.userns = -1
        self._lock = -1
        self._held: views.Held | None = None
        self._disk: views.Held | None = None

    def __enter__(self) -> Reach:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Let go of everything."""
        if self._disk is not None:
            self._disk.close()
        if self._held is not None:
            self._held.close()
        else:
            for fd in (self.root, self.userns):
                if fd >= 0:
                    os.close(fd)
        if self._lock >= 0:
            os.close(self._lock)
        self.root = self.userns = self._lock = -1
        self._held = self._disk = None

    def open_upper(self) -> int:
        """Return an fd of the writable layer, -1 when it is in memory. Raises StepFailed, LimitError."""
        if not self.upper:
            return -1
        if not self.given.disk:
            return os.open(self.upper, DIRECTORY)
        # mounted once more: where it is mounted already is out of everybody's sight
        self._disk = self._disk or views.disk(self.given, self.identity)
        return os.open(".", DIRECTORY, dir_fd=self._disk.root)

    def open_running(self, entry: listing.Entry) -> None:
        """Take hold of the root of a running container. Raises StateError when it has ended meanwhile."""
        gone = StateError(f"container {self.identity} has just ended", "try again")
        fd = pidfd(entry)
        assert entry.pid is not None
        try:
            self.root = os.open(f"/proc/{entry.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            if os.readlink(f"/proc/{entry.pid}/ns/user") != os.readlink("/proc/self/ns/user"):
                self.userns = os.open(f"/proc/{entry.pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
            self.mounts = _mounts(Seen(entry.pid))
            from signal import pidfd_send_signal

            pidfd_send_signal(fd, 0)  # it is the same process still: what was opened by its number is its own
        except ProcessLookupError:
            raise gone from None
        except OSError as error:
            raise StateError(f"the files of container {self.identity} can't be opened: {error.strerror}") from None
        finally:
            os.close(fd)

    def open_stopped(self, entry: listing.Entry) -> None:
        """Take hold of the root of a container that does not run. Raises StateError when somebody is about to remove it."""
        self._lock = listing.hold(self.given.dirs, entry)
        self.open_ended()

    def open_ended(self) -> None:
        """The same for a container that the caller has seen end, and keeps from being removed."""
        self._held = views.container(self.given, self.identity)
        self.root, self.userns = self._held.root, self._held.userns


def reached(where: Dirs, wanted: str) -> Reach:
    """Find a container and take hold of its files; ``close`` the answer. Raises StateError, StepFailed."""
    entry = listing.find(where, wanted)
    reach = Reach(_given(where, entry), entry)
    try:
        if reach.running:
            reach.open_running(entry)
        elif entry.status in ("exited", "created") and reach.upper:
            reach.open_stopped(entry)
        else:
            raise StateError(f"container {reach.identity} is {entry.status}: its files are not there")
    except BaseException:
        reach.close()
        raise
    return reach


def just_ended(where: Dirs, identity: str, image: Image) -> Reach:
    """Take hold of the files of a container of an image, in the moment between its end and its undoing. Raises StepFailed."""
    journal: dict[str, Json] = {"image": image.name, "image_id": image.id, "layers": list(image.layers)}
    entry = listing.Entry(identity, "", "", "exited", None, journal, None)
    reach = Reach(_given(where, entry), entry)
    reach.open_ended()
    return reach


def _given(where: Dirs, entry: listing.Entry) -> Inputs:
    """Return what the plan of a view is made from."""
    facts = host.probe()
    layers = entry.journal.get("layers")
    found = tuple(str(layer) for layer in layers) if isinstance(layers, list) else ()
    name, number = str(entry.journal.get("image", "")), str(entry.journal.get("image_id", ""))
    try:
        mapped = facts.root and os.stat(f"{where.uppers}/{entry.identity}/u").st_uid == FIRST_ID
    except OSError:
        mapped = facts.root and entry.pid is not None and read(f"/proc/{entry.pid}/uid_map").split()[1:2] == [str(FIRST_ID)]
    return Inputs(
        spec=Spec(image=name or "none", uts="host", userns=mapped),
        facts=facts,
        image=Image(name, number, found),
        dirs=where,
        keep_upper=True,
        disk=os.path.exists(where.disk(entry.identity)),
        top=tuple(TopEntry(*top) for top in host.top_entries()) if number == "host" and not facts.root else (),
    )


def _mounts(seen: Seen) -> Mounts:
    kernels, others, paths, root = set(), set(), set(), 0
    for mount in seen.mounts():
        major, _, minor = mount.device.partition(":")
        device = os.makedev(int(major), int(minor))
        if mount.target == "/":
            root = device
        else:
            others.add(device)
            paths.add(os.fsencode(mount.target))
        if mount.fstype in _KERNELS or mount.target == "/dev":
            kernels.add(device)
    return Mounts(frozenset(kernels - {root}), frozenset(others - {root}), frozenset(paths))


def is_directory(fd: int) -> bool:
    """Return whether an fd, which may be O_PATH, is a directory's."""
    return S_ISDIR(os.fstat(fd).st_mode)
