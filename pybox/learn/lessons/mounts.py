"""Lesson 3: a mount namespace is a copy, and what is mounted later propagates where mounts are shared."""

from __future__ import annotations

from pybox.learn.lab import Lab
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed, either, waits_for
from pybox.seen import Seen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_CAPS = ("CAP_SYS_ADMIN",)
_SAID = {True: "yes", False: "no"}
_TREE = "mkdir -p /mnt; mount -t tmpfs none /mnt; mkdir /mnt/late\n"
# unshare(1) has no word for it in every busybox, so a slave of a shared tree stands for "sees what comes later"
_SLAVE = "unshare -m --propagation slave sleep 1000 &"
_WAIT = waits_for("mnt")


def _peers(seen: Seen, target: str) -> dict[str, str]:
    """Return the optional fields of the topmost mount on a target: {"shared": "1"}; proc_pid_mountinfo(5)."""
    mount = seen.mount(target)
    return {**dict(peer.partition(":")[::2] for peer in mount.peers), "mount": mount.number} if mount else {}


def _late(seen: Seen) -> bool:
    return seen.mount("/mnt/late") is not None


def _experiment(lab: Lab) -> Observed:
    script = f"{_TREE}mount --make-shared /mnt\n{_SLAVE}\n{_WAIT}unshare -m sleep 1000 &\n{_WAIT}mount -t tmpfs none /mnt/late"
    with lab.after(script, cap_add=_CAPS) as scene:
        slave = [seen for seen in scene.apart("mnt") if "master" in _peers(seen, "/mnt")]
        private = [seen for seen in scene.apart("mnt") if "master" not in _peers(seen, "/mnt")]
        one, other = any(map(_late, slave)), any(map(_late, private))
        letter = {(True, True): "a", (True, False): "b", (False, False): "c"}.get((one, other), "d")
        return Observed(
            letter,
            f"/mnt/late is in the namespace whose /mnt has master:{_peers(slave[0], '/mnt').get('master')}: {_SAID[one]}; in the one where it has neither: {_SAID[other]}",
        )


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    with lab.after(body, cap_add=_CAPS) as scene:
        ours = _peers(scene.one, "/mnt")
        if not ours:
            yield Finding(False, "nothing is mounted on /mnt in the container")
            return
        yield either(
            "shared" in ours,
            f"the container's /mnt is shared:{ours.get('shared')}",
            "the container's /mnt is private: what is mounted below it stays there",
        )
        others = scene.apart("mnt")
        if not others:
            yield Finding(False, "no process that runs is in another mount namespace")
            return
        for seen in others:
            theirs = _peers(seen, "/mnt")
            linked = "shared" in ours and ours["shared"] in (theirs.get("shared"), theirs.get("master"))
            if linked:
                yield Finding(True, f"process {seen.pid} in another namespace follows the same peer group, {ours['shared']}")
                return
        theirs = _peers(others[0], "/mnt")
        yield Finding(
            False,
            "the other namespace has a copy of /mnt that follows nobody: what is mounted below /mnt later won't come"
            if theirs
            else "the other namespace has no mount on /mnt: it was copied before you mounted",
        )


LESSON = Lesson(
    number=3,
    name="mounts",
    title="Mounts and propagation",
    text="""\
A new mount namespace begins as a copy of the old one: the same file systems, mounted at the same places. What happens to the copies
afterwards depends on each mount's propagation type, which is written in /proc/PID/mountinfo:

    shared:1    a member of peer group 1: what is mounted below one member is mounted below all
    master:1    a slave: it receives from peer group 1, and sends nothing
    (neither)   private: nothing comes, nothing goes

So a mount namespace alone promises nothing. Where systemd runs, / is shared, and a container that mounts would mount on the host; that is why
pybox makes everything private first (`pybox explain` shows the step). unshare(1) does so by itself; the system call unshare(2) does not.""",
    question="/mnt is shared. Two namespaces are made, one with `unshare -m --propagation slave`, one with plain `unshare -m`. Then /mnt/late is\nmounted in the first place. Who sees it?",
    choices=("both", "the slave only", "none: they are copies"),
    key="b",
    task="Mount a tmpfs on /mnt in the container, and leave a process running in a mount namespace of its own that will see whatever\n    the container mounts below /mnt from now on.",
    kind="script",
    start="mkdir -p /mnt\nmount -t tmpfs none /mnt\nunshare -m sleep 1000 &",
    hint="A mount has to be made shared before somebody can follow it; and unshare(1) undoes that for its copy unless --propagation says otherwise.",
    solution="mkdir -p /mnt\nmount -t tmpfs none /mnt\nmount --make-shared /mnt\nunshare -m --propagation slave sleep 1000 &",
    mutants=(
        Mutant(
            "unshare copies a mount with its propagation",
            "mkdir -p /mnt\nmount -t tmpfs none /mnt\nmount --make-shared /mnt\nunshare -m sleep 1000 &",
            "follows nobody",
        ),
        Mutant(
            "a slave follows any mount",
            "mkdir -p /mnt\nmount -t tmpfs none /mnt\nunshare -m --propagation slave sleep 1000 &",
            "is private",
        ),
        Mutant(
            "any namespace keeps mounts apart",
            "mkdir -p /mnt\nmount -t tmpfs none /mnt\nmount --make-shared /mnt\nunshare -u sleep 1000 &",
            "no process that runs is in another mount namespace",
        ),
        Mutant(
            "sharing works backwards",
            f"mkdir -p /mnt\nunshare -m --propagation slave sleep 1000 &\n{_WAIT}mount -t tmpfs none /mnt\nmount --make-shared /mnt",
            "no mount on /mnt",
        ),
    ),
    experiment=_experiment,
    check=_check,
    reading=("mount_namespaces(7)", "unshare(1)"),
    code=("pybox/kernel/rootfs.py", "pybox/steps/mounts.py"),
)
