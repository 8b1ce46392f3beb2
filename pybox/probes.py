"""Probes: questions to this host, cheap enough to be asked as an error is shown. Each only reads, and answers yes or no.

What can only be found by trying is doctor's: a cause of codes.py names its item there.
"""

from __future__ import annotations

import os

from pybox.dirs import Dirs
from pybox.host import lines_of, read
from pybox.record import Record
from pybox.seen import MountSeen, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_ROOTS_IMAGES = "/var/lib/pybox/images"


class Case(Record):
    """What a probe is asked about: pybox's directories, and the rights of the launch (`why`: of any launch of the caller's)."""

    dirs: Dirs
    root: bool
    userns: bool  # the container has a user namespace of its own
    capabilities: int


def sysctl(path: str, value: str) -> Callable[[Case], bool]:
    """Return the probe whether a setting has a value; one that this kernel does not have has none."""
    return lambda case: read(f"/proc/sys/{path}").strip() == value


def none_of_a_kind(case: Case) -> bool:
    """Whether the namespaces of some kind, other than user, are forbidden; namespaces(7)."""
    return any(sysctl(f"user/max_{kind}_namespaces", "0")(case) for kind in ("cgroup", "ipc", "mnt", "net", "pid", "uts"))


def in_a_chroot(case: Case) -> bool:
    """Whether our root is not the mount namespace's: then no mount is on "/", or process 1 of the same namespace has another
    root. Whom process 1 shows nothing may be in a chroot unseen."""
    ours = _mounts()
    if ours and not any(mount.target == "/" for mount in ours):
        return True
    try:
        return os.readlink("/proc/1/ns/mnt") == os.readlink("/proc/self/ns/mnt") and _place("/proc/1/root") != _place("/")
    except OSError:
        return False


def _place(path: str) -> tuple[str, int, int]:
    """Return what tells two directories apart, also if one is a bind mount of the other: mount, device, inode."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        seen = os.fstat(fd)
        return read(f"/proc/self/fdinfo/{fd}").partition("mnt_id:")[2].split("\n")[0].strip(), seen.st_dev, seen.st_ino
    finally:
        os.close(fd)


def cgroups_read_only(case: Case) -> bool:
    """Whether a control group file system is mounted read-only."""
    return any(mount.fstype in ("cgroup", "cgroup2") and "ro" in mount.options for mount in _mounts())


def store_on(*kinds: str) -> Callable[[Case], bool]:
    """Return the probe whether the store is on a file system of one of these kinds."""
    return lambda case: file_system(case.dirs.store) in kinds


def file_system(path: str) -> str:
    """Return the kind of file system that a path is on, proc_pid_mountinfo(5); "" when it can't be told."""
    best, kind = "", ""
    for mount in _mounts():
        if (path + "/").startswith(mount.target.rstrip("/") + "/") and len(mount.target) >= len(best):
            best, kind = mount.target, mount.fstype
    return kind


def _mounts() -> list[MountSeen]:
    return mounts(read("/proc/self/mountinfo"))


def group_is_full() -> bool:
    """Whether a pids limit above us is reached: pids.current and pids.max of our own group and those above."""
    for line in lines_of(read("/proc/self/cgroup")):
        _, controllers, path = line.split(":", 2)
        if controllers and "pids" not in controllers.split(","):
            continue
        for top in ("/sys/fs/cgroup/pids",) if controllers else ("/sys/fs/cgroup", "/sys/fs/cgroup/unified"):
            place = f"{top}{path}".rstrip("/")
            while place.startswith(top):
                most, now = read(f"{place}/pids.max").strip(), read(f"{place}/pids.current").strip()
                if most.isdigit() and now.isdigit() and int(now) >= int(most):
                    return True
                place = os.path.dirname(place)
    return False


def _existing(path: str) -> str:
    """Return the path, or the nearest one above it that is there."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


def full(path: str) -> bool:
    """Whether a path's file system has no block or no inode left for us."""
    seen = os.statvfs(_existing(path))
    return bool(seen.f_blocks and not seen.f_bavail) or bool(seen.f_files and not seen.f_favail)


def read_only(path: str) -> bool:
    """Whether a path is on a read-only mount."""
    return bool(os.statvfs(_existing(path)).f_flag & os.ST_RDONLY)


def closed(path: str) -> bool:
    """Whether a directory, or the one where it would be made, may not be written by us."""
    return not read_only(path) and not os.access(_existing(path), os.W_OK | os.X_OK)


def no_images(case: Case) -> bool:
    """Whether the store has no image at all."""
    return not _images(case.dirs.images)


def root_has_images(case: Case) -> bool:
    """Whether we are a plain user, and there is a store of root's; into it we can't look."""
    return not case.root and os.path.isdir(_ROOTS_IMAGES)


def _images(folder: str) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith(".json")]
    except OSError:
        return []


def no_route(case: Case) -> bool:
    """Whether there is no default route, of IPv4 or IPv6; proc(5): the destination is all zeros, and not through lo."""
    four = (line.split() for line in read("/proc/net/route").splitlines()[1:])
    six = (line.split() for line in read("/proc/net/ipv6_route").splitlines())
    return not (
        any(fields[1] == "00000000" for fields in four)
        or any(fields[0] == "0" * 32 and fields[1] == "00" and fields[-1] != "lo" for fields in six)
    )


def no_name_server(case: Case) -> bool:
    """Whether resolv.conf(5) names no server."""
    return not any(line.split()[:1] == ["nameserver"] for line in read("/etc/resolv.conf").splitlines())


def no_nftables(case: Case) -> bool:
    """Whether nobody answers for nftables: no netlink family, no module, or no right to it."""
    if not case.root:
        return True
    from socket import AF_NETLINK, SOCK_RAW, socket

    try:
        socket(AF_NETLINK, SOCK_RAW, 12).close()  # NETLINK_NETFILTER
    except OSError:
        return True
    return not case.capabilities >> 12 & 1  # CAP_NET_ADMIN
