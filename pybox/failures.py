"""Why a launch failed: the step, its errno, and the cause that probed true.

One errno has many causes. Each row of CAUSES has a probe that looks at this host or at this launch; only what probes true is
blamed, and where nothing does, nothing is made up.
"""

from __future__ import annotations

import errno as errnos
import os

from pybox.errors import PyboxError
from pybox.host import read
from pybox.kernel.inputs import Inputs
from pybox.native import Evidence, Failure
from pybox.record import Record
from pybox.steps.base import Step
from pybox.steps.process import Exec

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class StepFailed(PyboxError):
    """One step of the plan failed in the kernel: ``step``, ``errno``, and ``cause`` when one probed true."""

    def __init__(self, step: Step, errno: int, cause: str = "", hint: str | None = None) -> None:
        word = f"{os.strerror(errno)} [{errnos.errorcode.get(errno, errno)}]" if errno else "the process was killed in this step"
        super().__init__(f"{step.describe()}: {step.call}: {word}" + (f": {cause}" if cause else ""), hint)
        self.step = step
        self.errno = errno
        self.cause = cause


class ExecError(PyboxError):
    """The command is there but can't be executed. ``cause`` is one of the names in exec_cause."""

    exit_code = 126

    def __init__(self, path: str, cause: str, message: str, hint: str | None = None) -> None:
        super().__init__(f"cannot execute {path}: {message}", hint)
        self.path = path
        self.cause = cause


class ProgramNotFound(ExecError):
    """The command, or what it needs to be executed, does not exist in the container."""

    exit_code = 127


class Cause(Record):
    """A possible cause of a failed call: a sentence, a hint, and the probe that confirms it."""

    call: str
    errno: int
    sentence: str
    hint: str | None
    probe: Callable[[Step, Inputs], bool]


def _sysctl(path: str, value: str) -> Callable[[Step, Inputs], bool]:
    return lambda step, given: read(f"/proc/sys/{path}").strip() == value


def _path_of(step: Step) -> str:
    return str(getattr(step, "path", ""))


CAUSES = (
    Cause(
        "clone3",
        errnos.EPERM,
        "unprivileged user namespaces are switched off on this host",
        "as root: sysctl kernel.unprivileged_userns_clone=1",
        _sysctl("kernel/unprivileged_userns_clone", "0"),
    ),
    Cause(
        "clone3",
        errnos.ENOSPC,
        "not disk space: no user namespaces are allowed (user.max_user_namespaces is 0)",
        "as root: sysctl user.max_user_namespaces=10000",
        _sysctl("user/max_user_namespaces", "0"),
    ),
    Cause(
        "clone3",
        errnos.ENOSYS,
        "clone3 is filtered out, as in a container with docker's default seccomp profile",
        "run pybox outside, or start that container with --security-opt seccomp=unconfined",
        lambda step, given: "Seccomp:\t2" in read("/proc/self/status"),
    ),
    Cause(
        "unshare",
        errnos.ENOSPC,
        "not disk space: there are as many network namespaces as user.max_net_namespaces allows",
        "as root: sysctl user.max_net_namespaces=10000",
        lambda step, given: True,
    ),
    Cause(
        "openat2",
        errnos.ELOOP,
        "the image has a symlink there, and what is written to it would go elsewhere",
        "the image is broken or hostile: rebuild it with a real directory",
        lambda step, given: _path_of(step) in ("/proc", "/sys", "/dev"),
    ),
    Cause(
        "openat2",
        errnos.ENOTDIR,
        "the image has a file where a directory is needed",
        None,
        lambda step, given: bool(_path_of(step)),
    ),
    Cause(
        "openat2",
        errnos.EXDEV,
        "a symlink of the image leads there to the kernel's own file systems",
        "mount it elsewhere",
        lambda step, given: bool(_path_of(step)),
    ),
    Cause(
        "open_tree",
        errnos.ENOENT,
        "it was there when the run was planned and is gone now",
        None,
        lambda step, given: not os.path.lexists(_path_of(step)),
    ),
    Cause(
        "mount",
        errnos.EINVAL,
        "overlayfs refuses the writable layer's file system",
        "set PYBOX_STORE to a directory on ext4, xfs, btrfs or tmpfs: `pybox doctor` tries it",
        lambda step, given: getattr(step, "fstype", "overlay") == "overlay" and _on_overlay(given.dirs.store),
    ),
    Cause(
        "mount",
        errnos.EPERM,
        'proc or sysfs of the outside is partly hidden, so the kernel allows no fresh one ("mount too revealing")',
        "the outer container hides parts of /proc: start it with --security-opt unmask=ALL (podman) or systempaths=unconfined (docker)",
        lambda step, given: given.userns and getattr(step, "fstype", "") in ("proc", "sysfs"),
    ),
    Cause(
        "mount",
        errnos.ENOSPC,
        "not disk space: the mount namespace is full (fs.mount-max)",
        "as root: sysctl fs.mount-max=100000",
        lambda step, given: True,
    ),
    Cause(
        "prlimit64",
        errnos.EPERM,
        "raising a hard limit needs CAP_SYS_RESOURCE, which pybox does not have here",
        "ask for no more than `ulimit -H` shows",
        lambda step, given: not given.facts.capabilities >> 24 & 1 or given.userns,
    ),
    Cause(
        "fchdir",
        errnos.EXDEV,
        "the working directory leads out of the container",
        None,
        lambda step, given: True,
    ),
    Cause(
        "poll",
        errnos.EOWNERDEAD,
        "pybox itself was killed",
        None,
        lambda step, given: True,
    ),
)


def _on_overlay(path: str) -> bool:
    best, kind = "", ""
    for line in read("/proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        target = left.split(" ")[4]
        if (path + "/").startswith(target.rstrip("/") + "/") and len(target) >= len(best):
            best, kind = target, right.split(" ")[0]
    return kind in ("overlay", "nfs", "nfs4", "vfat", "fuse", "9p", "hostfs")


def launch_error(step: Step, failure: Failure, given: Inputs) -> PyboxError:
    """Return the exception for a failed row."""
    if isinstance(step, Exec) and failure.errno:
        evidence = failure.evidence
        path = step.paths[min(evidence.candidate, len(step.paths) - 1)]
        return exec_cause(step.args[0], path, failure.errno, evidence, given.facts.machine)
    return _step_failed(step, failure.errno, given)


def host_error(step: Step, error: OSError, given: Inputs) -> PyboxError:
    """Return the exception for a step on the host that the kernel refused."""
    return _step_failed(step, error.errno or 0, given)


def _step_failed(step: Step, errno: int, given: Inputs) -> StepFailed:
    for cause in CAUSES:
        if cause.call == step.call and cause.errno == errno and cause.probe(step, given):
            return StepFailed(step, errno, cause.sentence, cause.hint)
    return StepFailed(step, errno)


_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le", 22: "s390x"}
_ST_NOEXEC = 8


def exec_cause(name: str, path: str, errno: int, seen: Evidence, machine: str) -> ExecError:
    """Name the cause of a failed execve from what the process saw. The kernel has three errnos for all of these."""
    head = seen.head
    directory = seen.mode & 0o170000 == 0o040000
    if errno in (errnos.ENOENT, errnos.ENOTDIR) and seen.stat_errno:
        where = "" if "/" in name else " in the container's PATH"
        return ProgramNotFound(
            name, "missing", f"no such file or directory{where}", "pybox run IMAGE ls /bin shows what is there"
        )
    if errno == errnos.ELOOP:
        return ExecError(path, "magic-link", "it leads through a magic link of /proc, or in a circle")
    if errno == errnos.EACCES:
        if seen.stat_errno:
            return ExecError(path, "closed-directory", "a directory on the way is closed to this user")
        if directory:
            return ExecError(path, "directory", "it is a directory")
        if seen.mount & _ST_NOEXEC:
            return ExecError(path, "noexec", "its file system is mounted noexec", "for a tmpfs: --tmpfs DST:exec")
        if not seen.mode & 0o111:
            return ExecError(path, "not-executable", "the file has no x permission", f"chmod +x {path} in the image")
        if head.startswith(b"#!"):
            return ExecError(path, "interpreter-not-executable", f"its interpreter {_interpreter(head)!r} can't be executed")
        return ExecError(path, "permission", "permission denied to this user")
    if head.startswith(b"#!"):
        interpreter = _interpreter(head)
        if interpreter.endswith("\r"):
            message = f"its first line ends in CR LF, so the interpreter sought is {interpreter!r}"
            return ProgramNotFound(path, "crlf", message, "save the script with Unix line ends (dos2unix)")
        if errno == errnos.ENOENT:
            return ProgramNotFound(path, "interpreter-missing", f"its interpreter {interpreter} does not exist in the container")
    if head.startswith(b"\x7fELF") and len(head) >= 64:
        order = "little" if head[5] == 1 else "big"
        number = int.from_bytes(head[18:20], order)  # type: ignore[arg-type]
        theirs = _MACHINES.get(number, f"machine {number}")
        if theirs != machine and errno == errnos.ENOEXEC:
            return ExecError(path, "architecture", f"it is a program for {theirs}, this machine is {machine}")
        if errno == errnos.ENOENT:
            loader = elf_loader(head) or "its dynamic loader"
            message = f"its dynamic loader {loader} does not exist in the container"
            return ProgramNotFound(path, "loader-missing", message, "use an image with that C library, or a static program")
    if errno == errnos.ENOEXEC:
        if not head:
            return ExecError(path, "empty", "the file is empty")
        return ExecError(path, "format", "neither a program nor a script with a #! line", "put #!/bin/sh in its first line")
    return ExecError(path, "other", f"{os.strerror(errno)} [{errnos.errorcode.get(errno, errno)}]")


def _interpreter(head: bytes) -> str:
    line = head[2:].split(b"\n", 1)[0].strip(b" \t")
    return line.split(b" ")[0].split(b"\t")[0].decode(errors="replace")


def elf_loader(head: bytes) -> str | None:
    """Return the PT_INTERP of the beginning of an ELF file, None when it is not in there; elf(5)."""
    wide = head[4] == 2
    order = "little" if head[5] == 1 else "big"

    def at(offset: int, size: int) -> int:
        return int.from_bytes(head[offset : offset + size], order)  # type: ignore[arg-type]

    table, size, count = (at(32, 8), at(54, 2), at(56, 2)) if wide else (at(28, 4), at(42, 2), at(44, 2))
    for entry in range(table, table + size * count, size or 1):
        if at(entry, 4) == 3:  # PT_INTERP
            offset, length = (at(entry + 8, 8), at(entry + 32, 8)) if wide else (at(entry + 4, 4), at(entry + 16, 4))
            text = head[offset : offset + length].rstrip(b"\0")
            return text.decode(errors="replace") or None
    return None
