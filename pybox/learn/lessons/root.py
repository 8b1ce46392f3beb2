"""Lesson 4: chroot hides the old root, pivot_root makes it go."""

from __future__ import annotations

import os

from pybox.doctor.trial import Outcome, call
from pybox.learn.lab import Lab, enter
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed, either
from pybox.seen import Seen, mounts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json

_CAPS = ("CAP_SYS_ADMIN",)
_SAID = {True: "got out", False: "still inside"}
_BIND = "mkdir -p /mnt; mount --bind / /mnt; cd /mnt; "
_PIVOT = f"unshare -m sh -c '{_BIND}pivot_root . .; umount -l .; exec sleep 1000' &"
_CHROOT = f"unshare -m sh -c '{_BIND}exec chroot . sleep 1000' &"


def _place(path: str, proc: int) -> list[Json]:
    """Return (mount, inode) of a directory. The mount's number is in fdinfo, proc_pid_fdinfo(5), which is read by our own /proc."""
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    info = os.open(f"self/fdinfo/{fd}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
    text = os.read(info, 4096).decode()
    return [text.partition("mnt_id:")[2].split()[0], os.fstat(fd).st_ino]


def _looked(seen: Seen) -> Outcome:
    """Look at a process's root beside that of its mount namespace, and at all mounts there, also those that its root hides."""

    def look() -> Json:
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        own = _place(f"/proc/{seen.pid}/root", proc)
        fd = os.open(f"/proc/{seen.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        call("setns", "setns", fd, 0)  # which takes us to the root of that namespace
        info = os.open("self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
        parts = []
        while part := os.read(info, 65536):
            parts.append(part)
        found = mounts(b"".join(parts).decode(errors="replace"))
        targets: list[Json] = [mount.target for mount in found]
        return [own == _place("/", proc), next((mount.target for mount in found if mount.number == own[0]), ""), targets]

    return enter(seen, (), look)


def _escape(seen: Seen) -> bool:
    """Walk out of a process's root the classic way: a second chroot, below which one is not. True when that led somewhere else."""

    def walk() -> Json:
        own = os.open(f"/proc/{seen.pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        fd = os.open(f"/proc/{seen.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        call("setns", "setns", fd, 0)
        os.fchdir(own)
        os.chroot(".")  # now we are where that process is, with CAP_SYS_CHROOT
        inside = _place("/", proc)
        os.chroot("tmp")  # and the working directory stays above the new root
        for _ in range(8):
            os.chdir("..")
        os.chroot(".")
        return _place("/", proc) != inside

    return enter(seen, (), walk).value is True


def _experiment(lab: Lab) -> Observed:
    lab.insist_on_image()
    with lab.after(f"{_CHROOT}\n{_PIVOT}", cap_add=_CAPS) as scene:
        hidden = {seen.pid: seen for seen in scene.apart("mnt")}
        left = {pid: _escape(seen) for pid, seen in hidden.items()}
        held = {pid: len(list(_looked(seen).value[2])) for pid, seen in hidden.items()}  # type: ignore[arg-type, index]
        jail = max(held, key=lambda pid: held[pid])
        gone = min(held, key=lambda pid: held[pid])
        letter = {(True, False): "b", (False, False): "a", (True, True): "c"}.get((left[jail], left[gone]), "d")
        return Observed(
            letter,
            f"chroot, then chdir('..') out of a second chroot: {_SAID[left[jail]]}; the same after pivot_root: {_SAID[left[gone]]}",
        )


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    lab.insist_on_image()
    with lab.after(body, cap_add=_CAPS) as scene:
        found = [seen for seen in scene.named("sleep") if seen.namespace("mnt") != scene.one.namespace("mnt")]
        if not found:
            yield Finding(False, "no sleep runs in a mount namespace of its own")
            return
        looked = _looked(found[0])
        if not looked.ok:
            yield Finding(False, f"its root can't be looked at: {looked.words()}")
            return
        same, at, targets = looked.value  # type: ignore[misc, str-unpack]
        names = sorted(str(target) for target in targets)  # type: ignore[union-attr]
        if same:
            yield Finding(True, "its root is the root of its mount namespace")
        elif at not in ("", "/"):
            yield Finding(False, f"its root is no more than {at} of its mount namespace: chroot hides what is above")
        else:
            yield Finding(False, "its root is not what is to be seen of its mount namespace: the old one is mounted on top of it")
        yield either(
            len(names) == 1,
            "one mount is left in its namespace: the old root is gone",
            f"the old root is still there: {len(names)} mounts, of them {' '.join(names[1:4])}",
        )


LESSON = Lesson(
    number=4,
    name="root",
    title="chroot and pivot_root",
    text="""\
chroot(2) changes one thing: where path names that begin with / start for this process. Everything else is still mounted. A process that
may call chroot again walks out: chroot into a directory below, while the working directory stays above it, then chdir("..") up to
the real root. Nothing stops it, for ".." is stopped only at the root of the process, and that is now somewhere else.

pivot_root(2) changes the mount namespace: the new root becomes its root, and the old one is put somewhere else, from where it can be
unmounted. Then there is nothing to walk out to. The new root must be a mount (`mount --bind / /mnt` makes one of any directory).

    cd /mnt; pivot_root . .; umount -l .

stacks the old root on top of the new one and takes it away again, without needing a directory for it. That is what pybox does.""",
    question="A process with CAP_SYS_CHROOT tries to walk out, once after chroot, once after pivot_root and umount. Where does it get out?",
    choices=("nowhere: both hold", "of the chroot only", "of both"),
    key="b",
    task="Leave a `sleep 1000` running in a mount namespace of its own, in which the old root is gone: not hidden, not below it, gone.\n    Its new root may be a bind mount of / on /mnt, so that there is a program to run.",
    kind="script",
    start=_CHROOT,
    hint="Inside `unshare -m sh -c '...' &`: make /mnt a mount, go there, pivot, let go of the old root, exec sleep.",
    solution=_PIVOT,
    mutants=(
        Mutant("chroot is a jail", f"unshare -m sh -c '{_BIND}exec chroot /mnt sleep 1000' &", "chroot hides what is above"),
        Mutant(
            "pivot_root removes the old root",
            f"unshare -m sh -c '{_BIND}pivot_root . .; exec sleep 1000' &",
            "the old one is mounted on top of it",
        ),
        Mutant(
            "an old root that has a place of its own is away",
            f"unshare -m sh -c '{_BIND}mkdir -p tmp/old; pivot_root . tmp/old; exec sleep 1000' &",
            "still there",
        ),
        Mutant(
            "pivot_root takes any directory",
            "unshare -m sh -c 'mkdir -p /tmp/new; cd /tmp/new; pivot_root . .; exec sleep 1000' &",
            "still there",
        ),
    ),
    experiment=_experiment,
    check=_check,
    reading=("chroot(2)", "pivot_root(2)", "mount_namespaces(7)"),
    code=("pybox/kernel/rootfs.py", "pybox/steps/mounts.py"),
    needs=("userns", "images"),
)
