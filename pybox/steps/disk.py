"""The steps of a writable layer that is a file system of its own: ext4 in a sparse file, by a loop device (loop.py).

It limits the layer where the store's file system has no project quotas (quota.py). The file is the container's ``disk``, beside
the empty directories that it is mounted over; it is mounted in the mount namespaces of the container and of views (files/views.py)
only, so the host never sees the mount, and it goes with them.
"""

from __future__ import annotations

import errno as errnos
import os

from pybox import loop
from pybox.errors import LimitError
from pybox.steps.base import ChildStep, Desk, HostStep, flags_text, quote
from pybox.steps.hostside import MakeUpper

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

    from pybox.lowering import Table
    from pybox.seen import Seen

_BLOCK = 4096  # bytes
_FEATURES = "ext_attr,dir_index,filetype,extent,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"
# No journal: it would be written to the store's file system, which has its own. As many inodes as blocks, so that small files
# don't run out of them; the tables take room in the file only once they are used (lazy_itable_init, and noinit_itable below).
MAKE = f"mkfs.ext4 -q -F -m 0 -b {_BLOCK} -i {_BLOCK} -I 256 -O none,{_FEATURES} -E lazy_itable_init=1,nodiscard".split()
_CHECK = ("e2fsck", "-f", "-y")
FLAGS = ("MS_NODEV", "MS_NOATIME")
OPTIONS = "discard,noinit_itable"  # what is deleted gives its room back to the store
_PLACES = ("/usr/local/sbin", "/usr/sbin", "/sbin")  # that the PATH of a plain shell lacks
PACKAGE = "apt-get install e2fsprogs"
LOOPS = "modprobe loop   (in a container of another engine: give that the host's loop devices)"


def needed(size: int) -> int:
    """Return how large a disk must be for so many bytes of files: ext4 wants a 16th for inodes, and a 50th (16 MB at most) for itself."""
    blocks = -(-size // _BLOCK)
    total = (blocks + min(blocks // 49 + 1, 4096) + 10) * 16 // 15
    return (total + total // 8192 + 4) * _BLOCK  # four in each group of 32768: bitmaps and copies of its head


class MakeDisk(MakeUpper):
    """Make the writable layer a file system of its own, so that it can hold so many bytes and no more: ext4 in a file.

    The file has no blocks but those that are written, so a large limit costs nothing. It has no name until it is whole.
    """

    call: ClassVar[str] = "linkat"
    man: ClassVar[str] = "mke2fs(8)"
    size: int = 0  # bytes

    def describe(self) -> str:
        return f"make the writable layer {self.path}, with a file system of {self.size} bytes in it"

    def calls(self) -> tuple[str, ...]:
        return (
            *super().calls(),
            f'openat(AT_FDCWD, "{self.path}", O_RDWR|O_TMPFILE|O_CLOEXEC, 0600)',
            f"ftruncate(<disk>, {needed(self.size)})",
            f"execve({MAKE[0]})",
            'linkat(AT_FDCWD, "/proc/self/fd/<disk>", <dir>, "disk", AT_SYMLINK_FOLLOW)',
        )

    def apply(self, desk: Desk) -> None:
        super().apply(desk)
        path = desk.named(self.path)
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # "." and not the path: u and w, as they are now, become the first directories of the disk
            file = os.open(".", os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=folder)
            try:
                os.ftruncate(file, needed(self.size))
                _tool((*MAKE, "-d", path, f"/proc/self/fd/{file}"), file)
                os.link(f"/proc/self/fd/{file}", "disk", dst_dir_fd=folder, follow_symlinks=True)
            finally:
                os.close(file)
        except OSError as error:
            raise LimitError(
                f"cannot enforce --storage-size: a disk in {path}: {error.strerror}", remedy(str(error.strerror))
            ) from None
        finally:
            os.close(folder)

    def check(self, seen: Seen) -> bool:
        return super().check(seen) and os.stat(f"{seen.named(self.path)}/disk").st_size == needed(self.size)


class AttachDisk(HostStep):
    """Have the file shown as a block device, which is what a file system is mounted from. It is the only one of that file.

    The kernel takes the device away by itself when the last mount of it is gone, so there is nothing to undo.
    """

    call: ClassVar[str] = "ioctl"
    man: ClassVar[str] = "loop(4)"
    path: str

    def describe(self) -> str:
        return f"have {self.path}/disk shown as a block device"

    def calls(self) -> tuple[str, ...]:
        return (
            f'openat(AT_FDCWD, "{self.path}/disk", O_RDWR|O_NOFOLLOW|O_CLOEXEC)',
            "flock(<file>, LOCK_EX|LOCK_NB)",
            "ioctl(<loop-control>, LOOP_CTL_GET_FREE)",
            "ioctl(<disk>, LOOP_CONFIGURE, {fd=<file>, info={lo_flags=LOFLAGS_AUTOCLEAR}})",
        )

    def apply(self, desk: Desk) -> None:
        path = f"{desk.named(self.path)}/disk"
        try:
            desk.fds["disk"] = loop.attach(path, _mend, _BLOCK)
        except OSError as error:
            hint = None if error.filename == path else remedy(str(error.strerror))  # the file itself, not the device
            raise LimitError(f"no loop device for the writable layer {path}: {error.strerror}", hint) from None

    def check(self, seen: Seen) -> bool:
        return loop.is_attached(f"{seen.named(self.path)}/disk")


class MountDisk(ChildStep):
    """Mount the disk where the writable layer is sought, in this mount namespace only: the host does not see it."""

    call: ClassVar[str] = "mount"
    man: ClassVar[str] = "ext4(5)"
    disk: str
    target: str

    def describe(self) -> str:
        return f"mount {self.disk} on {self.target}"

    def calls(self) -> tuple[str, ...]:
        return (f'mount("/proc/self/fd/<disk>", {quote(self.target)}, "ext4", {flags_text(FLAGS)}, {quote(OPTIONS)})',)

    def lower(self, table: Table) -> None:
        table.row(
            "PB_MOUNT",
            fd=table.slot("disk"),
            b=table.text(self.target, mine=True),
            c=table.text("ext4"),
            x=table.flags(FLAGS),
            d=table.text(OPTIONS),
        )

    def check(self, seen: Seen) -> bool:
        # its place is in the host's tree, which is out of sight; but an overlay is as large as its writable layer's file system
        shown = os.statvfs(seen.inside("/"))
        return 0 < shown.f_blocks * shown.f_frsize <= os.stat(seen.named(self.disk)).st_size


def problem() -> str:
    """Return why a writable layer can't be a file system of its own; "" when it can."""
    if not _program(MAKE[0]):
        return f"there is no {MAKE[0]} to make it a file system of its own"
    return loop.problem()


def _program(name: str) -> str:
    from shutil import which

    return which(name) or which(name, path=":".join(_PLACES)) or ""


def _tool(words: tuple[str, ...], file: int, good: tuple[int, ...] = (0,)) -> None:
    """Run a program of e2fsprogs on an open file. Raises OSError with what it says."""
    import subprocess

    try:
        done = subprocess.run(
            (_program(words[0]) or words[0], *words[1:]),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            pass_fds=(file,),
            check=False,
        )
    except FileNotFoundError:
        raise OSError(errnos.ENOENT, f"there is no {words[0]}") from None
    if done.returncode not in good:
        said = " ".join(done.stderr.decode(errors="replace").split()) or f"status {done.returncode}"
        raise OSError(errnos.EIO, f"{words[0]}: {said}")


def _mend(file: int) -> None:
    """Check a disk that was not unmounted: the machine went down, and there is no journal to be replayed."""
    state = int.from_bytes(os.pread(file, 2, 1024 + 0x3A), "little")  # s_state of struct ext4_super_block
    if state & 3 != 1:  # EXT4_VALID_FS, and not EXT4_ERROR_FS
        _tool((*_CHECK, f"/proc/self/fd/{file}"), file, (0, 1))


def remedy(why: str) -> str:
    """Return what mends a problem."""
    return PACKAGE if why.startswith("there is no ") else LOOPS
