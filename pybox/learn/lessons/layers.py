"""Lesson 5: overlayfs. What is changed is copied whole, what is removed is written down."""

from __future__ import annotations

import os
import stat

from pybox.learn.lab import IDLE, Lab
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed, either

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.learn.lab import Scene

_OPAQUE = ("trusted.overlay.opaque", "user.overlay.opaque")
_MOST = 10_000  # entries of a writable layer that are looked at: an answer may make more


def _uppers(lab: Lab, scene: Scene) -> Iterator[tuple[str, str]]:
    """Yield (place in the container, directory on the host) of its writable layers."""
    for mount in scene.one.mounts():
        for option in mount.super_options:
            if mount.fstype == "overlay" and option.startswith("upperdir="):
                yield mount.target, os.path.join(lab.runtime.dirs.store, option.partition("=")[2])


def _entries(lab: Lab, scene: Scene) -> Iterator[tuple[str, str, os.stat_result]]:
    """Yield (path in the container, path on the host, its stat) of what the writable layers hold."""
    count = 0
    for target, upper in _uppers(lab, scene):
        for folder, names, files in os.walk(upper):
            for name in (*names, *files):
                path = f"{folder}/{name}"
                yield f"{target.rstrip('/')}/{os.path.relpath(path, upper)}", path, os.lstat(path)
                count += 1
                if count > _MOST:
                    return


def _opaque(path: str) -> bool:
    for name in _OPAQUE:
        try:
            if os.getxattr(path, name, follow_symlinks=False) == b"y":
                return True
        except OSError:
            pass
    return False


def _original(scene: Scene, path: str) -> os.stat_result | None:
    try:
        return os.lstat(scene.one.inside(path))
    except OSError:
        return None


def _bytes(path: str, most: int = 16 << 20) -> bytes:
    """Return a file's text: never by a symlink, which an answer may have put there."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        return file.read(most)


def _experiment(lab: Lab) -> Observed:
    lab.insist_on_image()
    with lab.after('chmod 700 "$(readlink -f /bin/sh)"', upper="disk") as scene, lab.standing(lab.spec(*IDLE)) as fresh:
        for path, _, found in _entries(lab, scene):
            before = _original(fresh, path)
            if stat.S_ISREG(found.st_mode) and before is not None and found.st_size:
                letter = "c" if found.st_size == before.st_size else "b"
                return Observed(
                    letter, f"chmod of {path}, {before.st_size} bytes in the image: {found.st_size} bytes in the writable layer"
                )
        return Observed("a", "the writable layer has no file")


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    lab.insist_on_image()
    with lab.after(body, upper="disk") as scene, lab.standing(lab.spec(*IDLE)) as fresh:
        copied, changed, white, opaque = "", "", "", ""
        for path, place, found in _entries(lab, scene):
            before = _original(fresh, path)
            if stat.S_ISCHR(found.st_mode) and found.st_rdev == 0 and before is not None:
                white = white or path
            elif stat.S_ISDIR(found.st_mode) and before is not None and _opaque(place):
                opaque = opaque or path
            elif stat.S_ISREG(found.st_mode) and before is not None and stat.S_ISREG(before.st_mode) and before.st_size:
                if _bytes(place) == _bytes(fresh.one.inside(path)):
                    copied = copied or path
                else:
                    changed = changed or path
        nothing = "no file of the image was copied up: reading does not do it, nor does another name"
        yield either(
            bool(copied),
            f"{copied} was copied up whole, and not a byte of it is new",
            f"{changed} was copied up and its bytes changed: ask for less" if changed else nothing,
        )
        yield either(
            bool(white),
            f"{white} is a whiteout, a character device 0:0: the image has it still",
            "there is no whiteout: nothing of the image was removed, and an empty file is a file",
        )
        yield either(
            bool(opaque),
            f"{opaque} is opaque: it hides all that the image has below it",
            "no directory is opaque: one that is removed and made again would be",
        )


LESSON = Lesson(
    number=5,
    name="layers",
    title="Layers: what a change costs",
    text="""\
An image is a stack of directories that nobody writes to. overlayfs shows them as one tree, with a writable directory on top: the
container's own. The kernel knows three tricks, and you can see all of them in that directory:

    copy-up      the first write to a file, or to its mode or owner, copies the whole of it up
    whiteout     what is removed is covered by a character device 0:0 of its name; below, it is still there
    opaque       a directory that was removed and made again says by an attribute that nothing below it counts

So a file that one layer adds and the next removes is still shipped (`pybox layers IMAGE` shows such), and a chown -R in an image's recipe
doubles its size. Start containers as often as you like: the image stays as it is, and each gets a new top.""",
    question="chmod of a program in the image, nothing else. How many bytes of it are in the writable layer afterwards?",
    choices=("none: a mode is metadata", "one block", "all"),
    key="c",
    task="Without changing a byte of any file, make the container's writable layer hold a whole copy of a file of the image, a whiteout, and\n    an opaque directory.",
    kind="script",
    start="cat /etc/passwd >/dev/null\n: >/etc/group",
    hint="One command each: chmod, rm, and rm -r followed by mkdir.",
    solution="chmod 600 /etc/passwd\nrm /etc/group\nrm -r /home && mkdir /home",
    mutants=(
        Mutant(
            "reading a file copies it up",
            "cat /etc/passwd >/dev/null\nrm /etc/group\nrm -r /home && mkdir /home",
            "no file of the image was copied up",
        ),
        Mutant(
            "emptying is removing", "chmod 600 /etc/passwd\n: >/etc/group\nrm -r /home && mkdir /home", "there is no whiteout"
        ),
        Mutant(
            "a new directory of an old name is just a directory",
            "chmod 600 /etc/passwd\nrm /etc/group\nmkdir -p /home",
            "no directory is opaque",
        ),
        Mutant(
            "a copy under another name is a copy-up",
            "cp /etc/passwd /etc/passwd.new\nrm /etc/group\nrm -r /home && mkdir /home",
            "nor does another name",
        ),
        Mutant(
            "a copy-up is what writes the change",
            "echo more >>/etc/passwd\nrm /etc/group\nrm -r /home && mkdir /home",
            "its bytes changed",
        ),
    ),
    experiment=_experiment,
    check=_check,
    reading=("mount(8)", "xattr(7)"),
    code=("pybox/image/stack.py", "pybox/steps/mounts.py"),
    needs=("overlay", "images"),
)
