"""What a failed step of a plan can mean: for each system call and errno the causes, and for each cause the probe that confirms it.

``about`` says which steps a cause can be about, ``probe`` whether this host has it. A cause without a probe is what the errno
means there; with an ``item`` it is doctor's to try, later.
"""

from __future__ import annotations

import os

from pybox import probes
from pybox.host import read
from pybox.probes import Case
from pybox.record import Record
from pybox.steps.base import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def _any(step: Step) -> bool:
    return True


def _at(step: Step) -> str:
    return str(getattr(step, "path", ""))


def _somewhere(step: Step) -> bool:
    return bool(_at(step))


def _on_cgroups(step: Step) -> bool:
    return _at(step).startswith("/sys/fs/cgroup")


def _in_the_store(step: Step) -> bool:
    return type(step).__name__ == "MakeUpper"


def _kind(*types: str) -> Callable[[Step], bool]:
    return lambda step: getattr(step, "fstype", "overlay" if type(step).__name__ == "MountOverlay" else "") in types


class Cause(Record):
    """A possible cause: a sentence, a hint, the steps that it can be about, and what confirms it on this host."""

    name: str  # unique within its code
    sentence: str
    hint: str | None = None
    probe: Callable[[Case], bool] | None = None
    about: Callable[[Step], bool] = _any
    item: str = ""


class Code(Record):
    """One code: what it means, what can be its cause, and what to read."""

    name: str
    means: str
    causes: tuple[Cause, ...] = ()
    read: str = ""


_USERNS_OFF = Cause(
    "userns-off",
    "unprivileged user namespaces are switched off on this host",
    "as root: sysctl kernel.unprivileged_userns_clone=1",
    probes.sysctl("kernel/unprivileged_userns_clone", "0"),
)
_APPARMOR = Cause(
    "apparmor",
    "AppArmor lets only programs with a profile use user namespaces (Ubuntu from 23.10)",
    "as root: sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    lambda case: case.userns and not case.root and probes.sysctl("kernel/apparmor_restrict_unprivileged_userns", "1")(case),
)
_CHROOT = Cause(
    "chroot",
    "pybox runs in a chroot, where no user namespace can be made",
    "run it outside of the chroot",
    probes.in_a_chroot,
)


def _lacks(name: str, bit: int) -> Cause:
    return Cause(
        f"no-{name.lower().replace('_', '-')}",
        f"pybox is root here without CAP_{name}, as in a container",
        "start the outer container with --privileged (docker, podman) or --cap-add ALL (pybox)",
        lambda case: case.root and not case.capabilities >> bit & 1,
    )


_UNMAPPED = ("overlay", "nfs", "nfs4", "fuse", "9p", "hostfs")  # file systems without FS_ALLOW_IDMAP
_NO_ADMIN = _lacks("SYS_ADMIN", 21)
_NO_FILTER = "run pybox outside, or start that container with --security-opt seccomp=unconfined"
_PIDS = Cause(
    "pids-of-the-group",
    "the control group that pybox is in has as many processes as its pids limit allows",
    "raise pids.max there, or run fewer at once",
    lambda case: probes.group_is_full(),
)
_CGROUP_READ_ONLY = Cause(
    "cgroup-read-only",
    "control groups are mounted read-only here, as in a container",
    "start the outer container with --privileged, or ask for no limits",
    probes.cgroups_read_only,
    _on_cgroups,
)

# (system call, errno): what a failed step can mean. An errno that is not here has no cause that pybox knows of.
STEPS = (
    Code("E-CLONE3-EPERM", "the kernel refuses new namespaces, or the id map of a user namespace", (_USERNS_OFF, _APPARMOR, _CHROOT, _NO_ADMIN)),
    Code("E-CLONE3-EACCES", "the id map of a user namespace is refused", (_APPARMOR,)),
    Code(
        "E-CLONE3-ENOSPC",
        "there are as many namespaces of a kind as are allowed; it is not about disk space",
        (
            Cause("no-userns", "not disk space: no user namespaces are allowed (user.max_user_namespaces is 0)",
                  "as root: sysctl user.max_user_namespaces=10000", probes.sysctl("user/max_user_namespaces", "0")),
            Cause("none-of-a-kind", "not disk space: some kind of namespace is not allowed here at all (user.max_*_namespaces is 0)",
                  "as root: sysctl -a --pattern 'user.max_.*_namespaces', and raise what is 0", probes.none_of_a_kind),
        ),
    ),
    Code(
        "E-CLONE3-ENOSYS",
        "this kernel, or a filter before it, has no clone3",
        (
            Cause("outer-filter", "clone3 is filtered out, as in a container with docker's default seccomp profile", _NO_FILTER,
                  lambda case: "Seccomp:\t2" in read("/proc/self/status")),
        ),
    ),
    Code("E-CLONE3-EAGAIN", "no more processes are allowed", (_PIDS,)),
    Code("E-UNSHARE-EAGAIN", "no more threads are allowed: a network namespace is made by one", (_PIDS,)),
    Code("E-UNSHARE-EPERM", "the kernel refuses a new namespace, or its loopback interface", (_NO_ADMIN, _lacks("NET_ADMIN", 12))),
    Code("E-MKNOD-EPERM", "the kernel makes no device nodes for us", (_lacks("MKNOD", 27),)),
    Code(
        "E-UNSHARE-ENOSPC",
        "there are as many namespaces of a kind as are allowed; it is not about disk space",
        (
            Cause("net-namespaces", "not disk space: there are as many network namespaces as user.max_net_namespaces allows",
                  "as root: sysctl user.max_net_namespaces=10000"),
        ),
    ),
    Code(
        "E-OPENAT2-ELOOP",
        "a symlink was met where none may be",
        (
            Cause(
                "symlink-in-image",
                "the image has a symlink there, and what is written to it would go elsewhere",
                "the image is broken or hostile: rebuild it with a real directory",
                about=lambda step: _at(step) in ("/proc", "/sys", "/dev"),
            ),
        ),
    ),
    Code(
        "E-OPENAT2-ENOTDIR",
        "a file was met where a directory is needed",
        (Cause("file-in-image", "the image has a file where a directory is needed", about=_somewhere),),
    ),
    Code(
        "E-OPENAT2-EXDEV",
        "a path leads out of the container, or to a file system of the kernel's",
        (
            Cause("to-the-kernels", "a symlink of the image leads there to the kernel's own file systems", "mount it elsewhere",
                  about=_somewhere),
        ),
    ),
    Code(
        "E-OPEN_TREE-ENOENT",
        "a file or directory of the host that was to be shown inside is not there",
        (
            Cause("gone", "it was there when the run was planned and is gone now",
                  about=lambda step: not os.path.lexists(_at(step))),
        ),
    ),
    Code(
        "E-MOUNT-EINVAL",
        "a mount was refused: its options, or the file systems that it is made from",
        (
            Cause(
                "store-file-system",
                "overlayfs refuses the writable layer's file system",
                "set PYBOX_STORE to a directory on ext4, xfs, btrfs or tmpfs: `pybox doctor` tries it",
                probes.store_on("overlay", "nfs", "nfs4", "vfat", "fuse", "9p", "hostfs"),
                _kind("overlay"),
                "overlay",
            ),
        ),
    ),
    Code(
        "E-MOUNT-ENODEV",
        "the kernel does not have a file system of that name",
        (
            Cause(
                "no-overlay",
                "the kernel has no overlayfs, or its module is not loaded",
                "as root: modprobe overlay",
                lambda case: "\toverlay\n" not in read("/proc/filesystems"),
                _kind("overlay"),
            ),
        ),
    ),
    Code(
        "E-MOUNT-EPERM",
        "a mount was refused for want of rights",
        (
            Cause(
                "proc-hidden",
                'proc or sysfs of the outside is partly hidden, so the kernel allows no fresh one ("mount too revealing")',
                "the outer container hides parts of /proc: start it with --security-opt unmask=ALL (podman) or "
                "systempaths=unconfined (docker)",
                lambda case: case.userns,
                _kind("proc", "sysfs"),
                "proc",
            ),
            _NO_ADMIN,
        ),
    ),
    Code("E-MOUNT-EACCES", "a mount was refused by a security module, or a path is closed", (_APPARMOR,)),
    Code(
        "E-MOUNT-ENOSPC",
        "the mount namespace is full; it is not about disk space",
        (
            Cause("mount-max", "not disk space: the mount namespace is full (fs.mount-max)",
                  "as root: sysctl fs.mount-max=100000"),
        ),
    ),
    Code(
        "E-MOUNT_SETATTR-EINVAL",
        "a mount can't be given these attributes",
        (
            Cause("no-idmap", "the store's file system can't be shown through an id map, which root's --userns needs",
                  "set PYBOX_STORE to a directory on ext4, xfs, btrfs or tmpfs; or run without --userns",
                  probes.store_on(*_UNMAPPED), lambda step: not str(getattr(step, "layer", "/")).startswith("/")),
            Cause("no-idmap-root", "the machine's own root can't be shown through an id map, which root's --userns needs",
                  "run an image of the store, or without --userns",
                  lambda case: probes.file_system("/") in _UNMAPPED, lambda step: getattr(step, "layer", "") == "/"),
        ),
    ),
    Code(
        "E-MKDIR-EROFS",
        "a directory can't be made: the file system is read-only",
        (
            _CGROUP_READ_ONLY,
            Cause(
                "store-read-only",
                "the store's file system is read-only",
                "set PYBOX_STORE to a directory that can be written",
                lambda case: probes.read_only(case.dirs.store),
                _in_the_store,
            ),
        ),
    ),
    Code(
        "E-MKDIR-ENOSPC",
        "a directory can't be made: no room for it, or there may be no more of its kind",
        (
            Cause("store-full", "the store's file system is full", "`pybox system df` shows what takes it; `pybox image prune`",
                  lambda case: probes.full(case.dirs.store), _in_the_store),
            Cause("cgroup-most", "not disk space: there are as many control groups as cgroup.max.descendants allows above us",
                  "raise cgroup.max.descendants there", about=_on_cgroups),
        ),
    ),
    Code(
        "E-MKDIR-EACCES",
        "a directory can't be made: the one above it is closed to us",
        (
            Cause("store-closed", "the store belongs to another user", "set PYBOX_STORE to a directory of your own",
                  lambda case: probes.closed(case.dirs.store), _in_the_store),
            Cause("cgroup-closed", "the control group above belongs to another user: it was not delegated to us",
                  "run it through: systemd-run --user --scope -p Delegate=yes pybox ...", about=_on_cgroups),
        ),
    ),
    Code(
        "E-PRLIMIT64-EPERM",
        "a resource limit can't be set",
        (
            Cause(
                "hard-limit",
                "raising a hard limit needs CAP_SYS_RESOURCE, which pybox does not have here",
                "ask for no more than `ulimit -H` shows",
                lambda case: not case.capabilities >> 24 & 1 or case.userns,
            ),
        ),
    ),
    Code("E-FCHDIR-EXDEV", "a directory is not below the root", (Cause("outside", "the working directory leads out of the container"),)),
    Code("E-POLL-EOWNERDEAD", "nobody is there any more who wants the container", (Cause("owner", "pybox itself was killed"),)),
)  # fmt: skip
