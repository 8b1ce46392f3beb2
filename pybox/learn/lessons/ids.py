"""Lesson 7: user namespaces and id maps."""

from __future__ import annotations

from pybox.learn.lab import Lab
from pybox.learn.lesson import CannotHere, Finding, Lesson, Mutant, Observed, waits_for

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.learn.lab import Scene
    from pybox.seen import Seen

_CAPS = ("CAP_SYS_ADMIN",)
_LESS = ("CAP_SETUID", "CAP_SETGID")  # with these a map may be any: the lesson is what a plain user may write
_MAKE = f"unshare -U sleep 1000 &\n# until it is there:\n{waits_for('user')}"
_DENY = "echo deny >/proc/$!/setgroups\n"
_UID = "echo '1000 0 1' >/proc/$!/uid_map\n"
_GID = "echo '1000 0 1' >/proc/$!/gid_map\n"


def _map(seen: Seen, kind: str) -> list[list[int]]:
    return [[int(word) for word in line.split()] for line in seen.file(f"{kind}_map").splitlines()]


def _apart(scene: Scene) -> Seen | None:
    found = [seen for seen in scene.apart("user") if seen.status("Name") == "sleep"]
    return found[0] if found else None


def _experiment(lab: Lab) -> Observed:
    with lab.after(_MAKE + _GID + _UID, cap_add=_CAPS, cap_drop=_LESS) as scene:
        if scene.one.file("setgroups").strip() == "deny":  # a plain user's container of one id has given it up already
            raise CannotHere("setgroups is denied in a container of one id", "subuid")
        seen = _apart(scene)
        assert seen is not None
        uids, gids = _map(seen, "uid"), _map(seen, "gid")
        letter = {(True, False): "b", (True, True): "a", (False, False): "c"}.get((bool(uids), bool(gids)), "d")
        return Observed(
            letter,
            f"uid_map has {len(uids)} line, gid_map {len(gids)}, and /proc/PID/setgroups says {seen.file('setgroups').strip()}",
        )


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    with lab.after(body, cap_add=_CAPS, cap_drop=_LESS) as scene:
        seen = _apart(scene)
        if seen is None:
            yield Finding(False, "no sleep runs in a user namespace of its own")
            return
        setgroups = seen.file("setgroups").strip()
        yield Finding(setgroups == "deny", f"setgroups is {setgroups}")
        for kind in ("uid", "gid"):
            outside = int(scene.one.status(kind.capitalize()).split()[0])  # the container's 0, as the host counts
            rows = _map(seen, kind)
            if not rows:
                yield Finding(
                    False, f"{kind}_map is empty: the kernel refused what was written, and nobody has a number there but 65534"
                )
                continue
            inside, first, count = rows[0]
            right = len(rows) == 1 and inside == 1000 and first == outside and count == 1
            yield Finding(
                right,
                f"{kind}_map: {inside} inside is {'0 of the container' if first == outside else first}, {count} id{'s' * (count != 1)}"
                + ("" if right else "; it can't be written again"),
            )


LESSON = Lesson(
    number=7,
    name="ids",
    title="User namespaces and id maps",
    text="""\
A new user namespace knows no ids: until its maps are written, everybody in it is 65534. A map is written once, as one write(2), to
/proc/PID/uid_map and gid_map. A line is INSIDE OUTSIDE COUNT, where OUTSIDE is a number of the namespace above.

Who may write what is strict. Without CAP_SETUID above (or newuidmap(1), which has it), only one line of one id: your own. And a
gid_map only after setgroups(2) is given up for good, by `deny` in /proc/PID/setgroups: else a process could drop a group that a file
forbids something to. A map that was written stays; a second write is EPERM, whatever is in it.

The process also needs to be in the namespace already: to write the map of your own namespace is EPERM, too.""",
    question="A process waits in a new user namespace. Its parent, without CAP_SETUID and CAP_SETGID, writes a line of its own id to gid_map, then to\nuid_map, and nothing else. Which is taken?",
    choices=("both", "uid_map only", "none"),
    key="b",
    task="In your container you are root without CAP_SETUID and CAP_SETGID. Leave a `sleep 1000` running in a user namespace of its own in\n    which the container's uid 0 and gid 0 are called 1000.",
    kind="script",
    start=_MAKE + "echo '0 0 1' >/proc/$!/uid_map\n" + _GID.rstrip(),
    hint="Three files below /proc/$!, in the right order; one of them is not a map.",
    solution=_MAKE + _DENY + _UID + _GID.rstrip(),
    mutants=(
        Mutant("a map is a map: both are written alike", _MAKE + _GID + _UID + _DENY.rstrip(), "gid_map is empty"),
        Mutant(
            "root may map what it likes",
            _MAKE + _DENY + "echo '0 0 65536' >/proc/$!/uid_map\n" + _GID.rstrip(),
            "uid_map is empty",
        ),
        Mutant(
            "a wrong map can be mended",
            _MAKE + _DENY + "echo '0 0 1' >/proc/$!/uid_map\n" + _UID + _GID.rstrip(),
            "can't be written again",
        ),
        Mutant(
            "the outside comes first", _MAKE + _DENY + "echo '0 1000 1' >/proc/$!/uid_map\n" + _GID.rstrip(), "uid_map is empty"
        ),
        Mutant("whoever starts it has the map", "unshare -U sleep 1000 &", "uid_map is empty"),
    ),
    experiment=_experiment,
    check=_check,
    reading=("user_namespaces(7)", "newuidmap(1)"),
    code=("pybox/kernel/namespaces.py", "pybox/steps/hostside.py"),
)
