"""Why a launch failed: the step, its errno, and the cause that probed true.

One errno has many causes. Each cause in the table of codes.py has a probe that looks at this host or at this launch; only what
probes true is blamed, and where nothing does, nothing is made up.
"""

from __future__ import annotations

import errno as errnos
import os

from pybox import codes
from pybox.codes import CODES
from pybox.errors import PyboxError
from pybox.kernel.inputs import Inputs
from pybox.native import Evidence, Failure
from pybox.probes import Case
from pybox.shown import visible
from pybox.steps.base import Step
from pybox.steps.process import Exec


class StepFailed(PyboxError):
    """One step of the plan failed in the kernel: ``step``, ``errno``, the ``causes`` that probed true, and what the kernel ``said``
    of a mount beside its errno."""

    def __init__(self, step: Step, errno: int, causes: tuple[str, ...] = (), hint: str | None = None, said: str = "") -> None:
        word = f"{os.strerror(errno)} [{errnos.errorcode.get(errno, errno)}]" if errno else "the process was killed in this step"
        heard = (f"the kernel says: {said}",) if said else ()
        super().__init__(": ".join((step.describe(), step.call, word, *heard, *causes)), hint)
        self.step = step
        self.errno = errno
        self.causes = causes
        self.said = said
        self.code = codes.of_step(step.call, errno)

    @property
    def cause(self) -> str:
        """The first of the causes, "" when none probed true."""
        return self.causes[0] if self.causes else ""


class ExecError(PyboxError):
    """The command is there but can't be executed. ``cause`` is one of the names in exec_cause."""

    exit_code = 126

    def __init__(self, path: str, cause: str, errno: int, message: str) -> None:
        self.code = codes.of_exec(cause)
        hint = CODES[self.code].causes[0].hint
        super().__init__(f"cannot execute {path}: {message}", hint.format(path=path) if hint else None)
        self.path = path
        self.cause = cause
        self.errno = errno
        self.causes = (message,)


class ProgramNotFound(ExecError):
    """The command, or what it needs to be executed, does not exist in the container."""

    exit_code = 127


def launch_error(step: Step, failure: Failure, given: Inputs) -> PyboxError:
    """Return the exception for a failed row."""
    if isinstance(step, Exec) and failure.errno:
        evidence = failure.evidence
        path = step.paths[min(evidence.candidate, len(step.paths) - 1)]
        return exec_cause(step.args[0], path, failure.errno, evidence, given.facts.machine)
    return _step_failed(step, failure.errno, given, _words(failure.evidence.head) if step.call == "mount" else "")


def _words(log: bytes) -> str:
    """Return the messages of a file system context's log, without their levels ("e overlay: ...") and what the errno says anyway."""
    lines = (line[2:].strip() for line in log.decode(errors="replace").splitlines() if line[1:2] == " ")
    return "; ".join(dict.fromkeys(visible(line) for line in lines if line))


def host_error(step: Step, error: OSError, given: Inputs) -> PyboxError:
    """Return the exception for a step on the host that the kernel refused."""
    return _step_failed(step, error.errno or 0, given)


def _step_failed(step: Step, errno: int, given: Inputs, said: str = "") -> StepFailed:
    case = Case(given.dirs, given.facts.root, given.userns, given.facts.capabilities)
    found = codes.blamed(codes.of_step(step.call, errno), step, case)
    hints = "; ".join(cause.hint for cause in found if cause.hint)
    return StepFailed(step, errno, tuple(cause.sentence for cause in found), hints or None, said)


_MACHINES = {3: "i386", 40: "arm", 62: "x86_64", 183: "aarch64", 243: "riscv64", 21: "ppc64le", 22: "s390x"}
_ST_NOEXEC = 8


def exec_cause(name: str, path: str, errno: int, seen: Evidence, machine: str) -> ExecError:
    """Name the cause of a failed execve from what the process saw. The kernel has three errnos for all of these."""
    head = seen.head
    directory = seen.mode & 0o170000 == 0o040000
    if errno in (errnos.ENOENT, errnos.ENOTDIR) and seen.stat_errno:
        where = "" if "/" in name else " in the container's PATH"
        return ProgramNotFound(name, "missing", errno, f"no such file or directory{where}")
    if errno == errnos.ELOOP:
        return ExecError(path, "magic-link", errno, "it leads through a magic link of /proc, or in a circle")
    if errno == errnos.EACCES:
        if seen.stat_errno:
            return ExecError(path, "closed-directory", errno, "a directory on the way is closed to this user")
        if directory:
            return ExecError(path, "directory", errno, "it is a directory")
        if seen.mount & _ST_NOEXEC:
            return ExecError(path, "noexec", errno, "its file system is mounted noexec")
        if not seen.mode & 0o111:
            return ExecError(path, "not-executable", errno, "the file has no x permission")
        if head.startswith(b"#!"):
            return ExecError(
                path, "interpreter-not-executable", errno, f"its interpreter {_interpreter(head)!r} can't be executed"
            )
        return ExecError(path, "permission", errno, "permission denied to this user")
    if errno == errnos.EAGAIN:
        return ExecError(path, "too-many-processes", errno, "no more processes are allowed there")
    if head.startswith(b"#!"):
        interpreter = _interpreter(head)
        if interpreter.endswith("\r"):
            message = f"its first line ends in CR LF, so the interpreter sought is {interpreter!r}"
            return ProgramNotFound(path, "crlf", errno, message)
        if errno == errnos.ENOENT:
            return ProgramNotFound(
                path, "interpreter-missing", errno, f"its interpreter {interpreter} does not exist in the container"
            )
    if head.startswith(b"\x7fELF") and len(head) >= 64:
        order = "little" if head[5] == 1 else "big"
        number = int.from_bytes(head[18:20], order)  # type: ignore[arg-type]
        theirs = _MACHINES.get(number, f"machine {number}")
        if theirs != machine and errno == errnos.ENOEXEC:
            return ExecError(path, "architecture", errno, f"it is a program for {theirs}, this machine is {machine}")
        if errno == errnos.ENOENT:
            loader = elf_loader(head) or "its dynamic loader"
            message = f"its dynamic loader {loader} does not exist in the container"
            return ProgramNotFound(path, "loader-missing", errno, message)
    if errno == errnos.ENOEXEC:
        if not head:
            return ExecError(path, "empty", errno, "the file is empty")
        return ExecError(path, "format", errno, "neither a program nor a script with a #! line")
    return ExecError(path, "other", errno, f"{os.strerror(errno)} [{errnos.errorcode.get(errno, errno)}]")


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
