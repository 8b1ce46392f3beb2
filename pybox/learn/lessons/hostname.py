"""Lesson 2: seeing is not using. A namespace belongs to a user namespace, and rights are asked for there."""

from __future__ import annotations

import os
from fcntl import ioctl

from pybox.learn.lab import Lab, enter
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed, either

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.seen import Seen

_CAPS = ("CAP_SYS_ADMIN",)
_NS_GET_USERNS = 0xB701  # ioctl_ns(2)


def _name(seen: Seen) -> str:
    found = enter(seen, ("uts",), lambda: os.uname().nodename)
    return str(found.value) if found.ok else found.words()


def _owner(seen: Seen) -> str:
    """Return the user namespace that owns a process's UTS namespace, which need not be the one that the process is in."""
    fd = os.open(f"/proc/{seen.pid}/ns/uts", os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner = ioctl(fd, _NS_GET_USERNS)
        try:
            return f"user:[{os.fstat(owner).st_ino}]"
        finally:
            os.close(owner)
    finally:
        os.close(fd)


def _experiment(lab: Lab) -> Observed:
    # both are tried by the same root of a user namespace of its own; what came of it is looked up, not what hostname(1) says
    with lab.after(
        "unshare -r sh -c 'hostname only-user; sleep 1000' & unshare -r -u sh -c 'hostname and-uts; sleep 1000' &", cap_add=_CAPS
    ) as scene:
        names = sorted({_name(seen) for seen in scene.apart("uts")})
        letter = "a" if _name(scene.one) == "only-user" else "b" if "and-uts" in names else "c"
        return Observed(letter, f"without: the name is {_name(scene.one)} as before; with: {' '.join(names)}")


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    with lab.after(body, cap_add=_CAPS) as scene:
        here = _name(scene.one)
        yield either(
            here == scene.process.id,
            f"the container itself is called {here}",
            f"the container itself is called {here}: it was renamed for everybody in it",
        )
        others = scene.apart("uts")
        if not others:
            yield Finding(
                False,
                "no process that runs is in another UTS namespace than the container: the one you made is gone with its last process, or was never made",
            )
            return
        names = sorted({_name(seen) for seen in others})
        yield Finding(
            "lesson" in names, f"another UTS namespace stands ({others[0].namespace('uts')}), where the name is {' '.join(names)}"
        )
        owned = _owner(others[0]) != scene.one.namespace("user")
        yield either(
            owned,
            "a user namespace of its own owns it, whose root may name it",
            "the container's user namespace owns it: the container's root made it, not a root of its own",
        )


LESSON = Lesson(
    number=2,
    name="hostname",
    title="To see is not to use",
    text="""\
A UTS namespace holds one thing: the host name. Whoever is in it sees the name; who may change it is another question.

Every namespace is owned by the user namespace it was made in. The kernel asks for a capability there, not where you happen to be:
sethostname(2) wants CAP_SYS_ADMIN in the user namespace that owns your UTS namespace. `unshare --user` makes you root of a new user
namespace with all capabilities, over what that namespace owns; so far, that is nothing. The name still belongs to the old one.

    unshare -r hostname lesson           # sethostname: Operation not permitted
    unshare -r -u hostname lesson        # both namespaces new: the second is owned by the first

A namespace lives as long as somebody is in it. When the last process ends, it is gone, and so is the name.""",
    question="Root of a new user namespace (`unshare -r`) calls sethostname, once without and once with a new UTS namespace (`-u`).",
    choices=(
        "both work: root is root",
        "only the second works",
        "none works: that root is not the machine's",
    ),
    key="b",
    task="Your script runs as root in a container. Leave a process running that lives under the host name `lesson`, in a UTS namespace\n    owned by a user namespace of its own, while the container keeps its name.",
    kind="script",
    start="unshare -r hostname lesson",
    hint="Two letters for unshare, and a shell in it that sets the name and then stays: `exec sleep 1000`, in the background.",
    solution="unshare -r -u sh -c 'hostname lesson; exec sleep 1000' &",
    mutants=(
        Mutant("a host name is the process's own", "hostname lesson\nsleep 1000 &", "renamed for everybody"),
        Mutant(
            "root of a user namespace is root of everything it sees",
            "unshare -r sh -c 'hostname lesson; exec sleep 1000' &",
            "no process that runs is in another UTS namespace",
        ),
        Mutant("a namespace stays when its process has ended", "unshare -r -u hostname lesson", "gone with its last process"),
        Mutant(
            "a new UTS namespace needs no owner",
            "unshare -u sh -c 'hostname lesson; exec sleep 1000' &",
            "the container's user namespace owns it",
        ),
        Mutant(
            "a namespace belongs to whoever is in it",
            "unshare -u sh -c 'hostname lesson; exec unshare -r sleep 1000' &",
            "the container's user namespace owns it",
        ),
    ),
    experiment=_experiment,
    check=_check,
    reading=("uts_namespaces(7)", "user_namespaces(7)", "ioctl_ns(2)"),
    code=("pybox/kernel/namespaces.py", "pybox/steps/process.py"),
)
