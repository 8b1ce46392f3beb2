"""A trial: something done for real in a throw-away process, which takes its namespaces and mounts with it when it ends.

The process is a fork (doctor is a cold command), dies with doctor, and says what happened in one line of JSON on a pipe. System
calls go through ctypes, because Python has no unshare(2) before 3.12 and no mount(2) at all.
"""

from __future__ import annotations

import ctypes
import errno as errnos
import json
import os
import select
import signal

import prctl

from pybox import native
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

    from pybox.fastjson import Json

NAMESPACES = ("CLONE_NEWNS", "CLONE_NEWUTS", "CLONE_NEWIPC", "CLONE_NEWPID", "CLONE_NEWNET", "CLONE_NEWCGROUP")


class Outcome(Record):
    """How a trial ended: with a value, or at a call that was refused."""

    value: Json = None
    call: str = ""  # "" when everything worked
    errno: int = 0

    @property
    def ok(self) -> bool:
        """Whether everything worked."""
        return not self.call

    def words(self) -> str:
        """Return the refusal in words."""
        if not self.errno:
            return self.call
        return f"{self.call}: {os.strerror(self.errno)} [{errnos.errorcode.get(self.errno, self.errno)}]"


def attempt(act: Callable[[], Json], seconds: float = 10.0) -> Outcome:
    """Do it in a child, and return what became of it. A child that hangs is killed."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    doctor = os.getpid()
    pid = os.fork()
    if pid == 0:
        _answer(act, theirs, doctor)
    os.close(theirs)
    try:
        text = _listen(ours, seconds)
    finally:
        os.kill(pid, signal.SIGKILL)  # not reaped yet, so the pid is still its own
        _, status = os.waitpid(pid, 0)
        os.close(ours)
    if text is None:
        return Outcome(call=f"no answer within {seconds:g} s", errno=errnos.ETIMEDOUT)
    if not text:
        return Outcome(call=f"the trial's process was killed by signal {status & 0x7F}")
    said = json.loads(text)
    return Outcome(said["value"], said["call"], said["errno"])


def die_with(parent: int) -> None:
    """Have the calling process, a child of ``parent``, end when that ends; PR_SET_PDEATHSIG(2const)."""
    prctl.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)


def _answer(act: Callable[[], Json], pipe: int, doctor: int) -> NoReturn:
    said: dict[str, Json] = {"value": None, "call": "", "errno": 0}
    try:
        prctl.set_name("pybox-trial")
        die_with(doctor)
        said["value"] = act()
    except OSError as error:
        said.update(call=str(error.filename or "a system call"), errno=error.errno or 0)
    except BaseException as error:
        said.update(call=f"{type(error).__name__}: {error}")
    os.write(pipe, json.dumps(said).encode())
    os._exit(0)


def _listen(pipe: int, seconds: float) -> str | None:
    watch = select.poll()
    watch.register(pipe, select.POLLIN)
    parts: list[bytes] = []
    while watch.poll(seconds * 1000):
        part = os.read(pipe, 65536)
        if not part:
            return b"".join(parts).decode()
        parts.append(part)
    return None


def call(shown: str, name: str, *args: object) -> int:
    """Call a function of the C library. Raises OSError with ``shown`` for its file name when it returns -1."""
    libc = ctypes.CDLL(None, use_errno=True)
    result: int = getattr(libc, name)(*args)
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), shown)
    return result


def adopt_orphans() -> None:
    """Become the parent of orphaned descendants: PR_SET_CHILD_SUBREAPER of prctl(2)."""
    prctl.set_child_subreaper(1)


def unshare(*flags: str) -> None:
    """Enter new namespaces; with a mount namespace, nothing done in it reaches the host. Raises OSError."""
    call(f"unshare({'|'.join(flags)})", "unshare", sum(native.number(flag) for flag in flags))
    if "CLONE_NEWNS" in flags:
        mount("none", "/", "", ("MS_REC", "MS_PRIVATE"))


def mount(source: str, target: str, fstype: str, flags: tuple[str, ...] = (), data: str = "") -> None:
    """Call mount(2). Raises OSError."""
    texts = [os.fsencode(text) or None for text in (source, target, fstype)]
    bits = ctypes.c_ulong(sum(native.number(flag) for flag in flags))
    call(f"mount({fstype or '|'.join(flags)} on {target})", "mount", *texts, bits, os.fsencode(data) or None)


def write(path: str, text: str) -> None:
    """Write to one of the kernel's files. Raises OSError with the path, also for what only write(2) refuses."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode())
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from None
    finally:
        os.close(fd)


def become(uid: int, gid: int) -> None:
    """Become a plain user for good. Raises OSError."""
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as error:
        raise OSError(error.errno, error.strerror, f"become uid {uid}") from None
    prctl.set_dumpable(1)  # else /proc/self stays root's, and the id maps can't be written


def enter_user_namespace() -> None:
    """Enter a new user namespace with one id, the caller's, as root. user_namespaces(7). Raises OSError."""
    uid, gid = os.geteuid(), os.getegid()
    unshare("CLONE_NEWUSER")
    write("/proc/self/setgroups", "deny")  # the kernel's condition for a gid map written from inside
    write("/proc/self/uid_map", f"0 {uid} 1")
    write("/proc/self/gid_map", f"0 {gid} 1")
