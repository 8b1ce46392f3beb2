"""Error codes: what each means, and its causes, each with the probe that confirms it. One table, and the only home of its hints.

    E-MOUNT-EINVAL       a step of the plan failed: its system call, and its errno (KILLED: the process was)
    E-EXEC-CRLF          the command can't be executed: the cause, which the process saw as it failed (failures.exec_cause)
    E-IMAGE-ABSENT, ...  what was asked for, by class of error (errors.py)

A launch that fails blames each cause that is about this step and whose probe comes out true; `pybox why CODE` asks the same probes
later, of the host alone. A cause with neither can only be seen by the launch. ``item`` names what `pybox doctor` tries for it.
Codes are stable: programs and notes refer to them. Nothing here is loaded by a run that succeeds.
"""

from __future__ import annotations

import errno as errnos
import os

from pybox import probes
from pybox.host import read
from pybox.probes import Case
from pybox.record import Record
from pybox.steps.base import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.errors import PyboxError
    from pybox.fastjson import Json


def _any(step: Step) -> bool:
    return True


def _at(step: Step) -> str:
    return str(getattr(step, "path", ""))


def _somewhere(step: Step) -> bool:
    return bool(_at(step))


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
_NO_FILTER = "run pybox outside, or start that container with --security-opt seccomp=unconfined"
_CGROUP_READ_ONLY = Cause(
    "cgroup-read-only",
    "control groups are mounted read-only here, as in a container",
    "start the outer container with --privileged, or ask for no limits",
    lambda case: probes.read_only("/sys/fs/cgroup"),
    lambda step: _at(step).startswith("/sys/fs/cgroup"),
)

# (system call, errno): what a failed step can mean. An errno that is not here has no cause that pybox knows of.
STEPS = (
    Code("E-CLONE3-EPERM", "the kernel refuses new namespaces, or the id map of a user namespace", (_USERNS_OFF, _APPARMOR, _CHROOT)),
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
    Code(
        "E-CLONE3-EAGAIN",
        "no more processes are allowed",
        (
            Cause(
                "pids-of-the-group",
                "the control group that pybox is in has as many processes as its pids limit allows",
                "raise pids.max there, or run fewer at once",
                lambda case: probes.group_is_full(),
            ),
        ),
    ),
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
            Cause(
                "no-idmap",
                "the store's file system can't be shown through an id map, which root's --userns needs",
                "set PYBOX_STORE to a directory on ext4, xfs, btrfs or tmpfs; or run without --userns",
                probes.store_on("overlay", "nfs", "nfs4", "fuse", "9p", "hostfs"),
                lambda step: type(step).__name__ == "MapLayer",
            ),
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
                lambda step: not _at(step).startswith("/sys/fs/cgroup"),
            ),
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


def _exec(name: str, means: str, hint: str | None = None) -> Code:
    return Code(f"E-EXEC-{name.upper()}", means, (Cause(name, means, hint),), "execve(2)")


# What the process saw as it failed. {path} is the command.
EXEC = (
    _exec("missing", "the command does not exist in the container", "pybox run IMAGE ls /bin shows what is there"),
    _exec("magic-link", "the path leads through a magic link of /proc, or in a circle"),
    _exec("closed-directory", "a directory on the way is closed to the user that the container runs as"),
    _exec("directory", "the path is a directory"),
    _exec("noexec", "the file is on a file system that is mounted noexec", "for a tmpfs: --tmpfs DST:exec"),
    _exec("not-executable", "the file has no x permission", "chmod +x {path} in the image"),
    _exec("interpreter-not-executable", "the program that the script's #! line names can't be executed"),
    _exec("permission", "the file may not be executed by this user"),
    _exec("crlf", "the script's #! line ends in CR LF, so its interpreter has a CR in its name",
          "save the script with Unix line ends (dos2unix)"),
    _exec("interpreter-missing", "the program that the script's #! line names does not exist in the container"),
    _exec("architecture", "the program is for another kind of machine"),
    _exec("loader-missing", "the program's dynamic loader does not exist in the container (the kernel says: no such file)",
          "use an image with that C library, or a static program"),
    _exec("empty", "the file is empty"),
    _exec("format", "the file is neither a program nor a script with a #! line", "put #!/bin/sh in its first line"),
    _exec("other", "the kernel's errno says it all: execve(2) lists them"),
)  # fmt: skip

CLASSES = (
    Code("E-PYBOX", "pybox could not do it; the message says why"),
    Code("E-USAGE", "a command or an option that does not exist", read="`pybox help`"),
    Code("E-SPEC", "what was asked for makes no sense; the message names the option or field; nothing was created"),
    Code(
        "E-HOST",
        "the host refused something outside of any step: the state directory, the store, a file to write",
        (
            Cause("full", "the file system of the store or of the state directory is full",
                  "`pybox system df` shows what takes it; `pybox image prune`, or PYBOX_STORE=DIR elsewhere",
                  lambda case: any(map(probes.full, (case.dirs.store, case.dirs.state)))),
            Cause("read-only", "the store or the state directory is on a read-only file system",
                  "set PYBOX_STORE and PYBOX_STATE to directories that can be written",
                  lambda case: any(map(probes.read_only, (case.dirs.store, case.dirs.state)))),
            Cause("closed", "the store or the state directory, or one above it, is closed to this user",
                  "set PYBOX_STORE and PYBOX_STATE to directories of your own",
                  lambda case: any(map(probes.closed, (case.dirs.store, case.dirs.state)))),
        ),
    ),
    Code("E-IMAGE", "an image or archive is not usable; the message says what is wrong with it", read="docs/images.md"),
    Code(
        "E-IMAGE-ABSENT",
        "there is no image of that name in the store, and it can't be pulled",
        (
            Cause("empty-store", "there is no image at all in this store",
                  "make images; or pybox pull, pybox load, pybox import", probes.no_images),
            Cause("roots-store", "root has a store of its own, whose images a plain user does not see",
                  "sudo pybox run ..., or bring the image into yours: pybox pull, pybox load", probes.root_has_images),
        ),
        "docs/images.md",
    ),
    Code(
        "E-REGISTRY",
        "a registry can't be talked to",
        (
            Cause("no-route", "this machine has no route to anywhere beyond its own networks", "ip route", probes.no_route),
            Cause("no-name-server", "this machine knows no name server", "cat /etc/resolv.conf", probes.no_name_server),
        ),
        "docs/images.md",
    ),
    Code("E-REGISTRY-REFUSED", "the registry answered, and the answer is no", read="docs/images.md"),
    Code(
        "E-LIMIT",
        "a limit can't be enforced on this host, so nothing was run: a limit that is silently ignored is the worst outcome",
        (
            Cause("no-limits", "the control groups of this host can't enforce every limit", item="limits"),
        ),
        "docs/limits.md",
    ),
    Code("E-STATE", "a container's record is missing, ambiguous or busy; the message says which", read="`pybox ps -a`"),
    Code("E-SUBUID", "the ids of /etc/subuid can't be mapped", (Cause("subuid", "newuidmap refuses the map", item="subuid"),)),
    Code(
        "E-NFT",
        "nftables refused the rules of a network; nothing of them was done",
        (
            Cause("no-nftables", "this kernel has no nftables, or pybox may not use it here",
                  "as root: modprobe nf_tables; in a container: --cap-add NET_ADMIN", probes.no_nftables),
        ),
        "docs/network.md",
    ),
    Code("E-JOB", "a command ended with something else than 0; .result says with what", read="docs/batch.md"),
    Code("E-WORKER", "no worker of an Executor can be had", read="docs/executor.md"),
    Code("E-WORKER-DIED", "a worker of an Executor ended during a call: a crash or a kill", read="docs/executor.md"),
    Code("E-WORKER-TIMEOUT", "a call took longer than the Executor's timeout", read="docs/executor.md"),
    Code("E-WORKER-OOM", "the kernel killed a worker at its memory limit", read="docs/executor.md"),
    Code("E-WORKER-REMOTE", "an exception came back from a worker as text only", read="docs/executor.md"),
)  # fmt: skip

CODES = {code.name: code for code in (*STEPS, *EXEC, *CLASSES)}


def of_step(call: str, errno: int) -> str:
    """Return the code of a step whose system call failed; errno 0: its process was killed."""
    word = errnos.errorcode.get(errno, str(errno)) if errno else "KILLED"
    return f"E-{call.upper()}-{word}"


def of_exec(cause: str) -> str:
    """Return the code of one of the causes of a failed exec."""
    return f"E-EXEC-{cause.upper()}"


def blamed(code: str, step: Step, case: Case) -> tuple[Cause, ...]:
    """Return the causes of a failed step that are about it and probe true."""
    found = CODES.get(code)
    causes = found.causes if found else ()
    return tuple(cause for cause in causes if cause.about(step) and (cause.probe is None or cause.probe(case)))


def tells_more(code: str) -> bool:
    """Whether `pybox why` has something to say that the error's own line has not."""
    found = CODES.get(code)
    return found is None or bool(found.causes)


def to_json(error: PyboxError) -> dict[str, Json]:
    """Return an error as `--format json` shows it."""
    return {
        "schema": "pybox.error/1",
        "code": error.code,
        "message": error.message,
        "step": error.step.describe() if error.step is not None else None,
        "call": error.step.call if error.step is not None else None,
        "errno": error.errno or None,
        "causes": list(error.causes),
        "fix": error.fix,
        "exit_code": error.exit_code,
    }
