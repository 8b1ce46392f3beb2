"""Lesson 9: the tree of control groups. Who has processes hands out no controllers."""

from __future__ import annotations

import os
from contextlib import contextmanager
from errno import errorcode
from time import time

from pybox import state
from pybox.doctor.trial import write
from pybox.host import read
from pybox.learn.lab import IDLE, Lab, Refused, Scene
from pybox.learn.lesson import CannotHere, Finding, Lesson, Mutant, Observed, rows
from pybox.record import Record
from pybox.undo import undo

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json

DOMAIN = ("memory", "io", "hugetlb", "rdma", "misc")  # the others are threaded, and exempt from the rule
_MOST = 30  # moves


class Moved(Record):
    """One move, and the kernel's word on it: "" or the name of an error."""

    move: str
    refused: str


@contextmanager
def _ground(lab: Lab) -> Iterator[tuple[Scene, str, str]]:
    """Make a group of cgroup2 with a container's processes in it; yields the container, the group and a controller it may hand out.

    The group is journalled like a container's, so that `pybox gc` removes it if we are killed.
    """
    parent = lab.facts.cgroups.unified
    if parent is None or not os.access(f"{parent}/cgroup.procs", os.W_OK):
        raise CannotHere("control groups can't be made in a cgroup2 tree", "cgroup")
    with lab.standing(lab.spec(*IDLE)) as scene:
        claim = state.claim(lab.runtime.dirs)
        group = f"{parent}/pybox-{claim.identity}"
        try:
            os.close(state.open_journal(claim, _journal(group)))
            try:
                os.mkdir(group)
                _move(scene, group)
            except OSError as error:
                raise CannotHere(f"{error.filename}: {error.strerror}", "cgroup") from None
            offered = [name for name in DOMAIN if name in read(f"{group}/cgroup.controllers").split()]
            if not offered:
                raise CannotHere("this cgroup2 tree offers no domain controller", "cgroup")
            yield scene, group, offered[0]
        finally:
            undo("group", group)  # kills what is in it: the container
            state.release(claim)


def _journal(group: str) -> dict[str, Json]:
    return {
        "schema": "pybox.container/1",
        "name": "",
        "image": "",
        "args": ["pybox", "learn"],
        "created": time(),
        "owner": os.getpid(),
        "leaves": [["group", group]],
    }


def _move(scene: Scene, group: str) -> None:
    for process in scene.everyone():
        write(f"{group}/cgroup.procs", str(process.host_pid))


def _moves(body: str) -> list[list[str]]:
    """Read the moves. Raises Refused: a name is a plain word, so that none leads out of the group."""
    found = [line.split() for line in rows(body)]
    for words in found:
        plain = all(word.isascii() and word.isalnum() and len(word) < 20 for word in words[1:])
        if not (plain or words == ["move", "."]) or (words[0], len(words)) not in (
            ("mkdir", 2),
            ("rmdir", 2),
            ("move", 2),
            ("enable", 1),
        ):
            raise Refused(f"no such move: {' '.join(words)}")
    if len(found) > _MOST:
        raise Refused(f"more than {_MOST} moves")
    return found


def _play(scene: Scene, group: str, controller: str, moves: list[list[str]]) -> list[Moved]:
    played = []
    for verb, *names in moves:
        place = group if names in ([], ["."]) else f"{group}/{names[0]}"
        refused = ""
        try:
            if verb == "mkdir":
                os.mkdir(place)
            elif verb == "rmdir":
                os.rmdir(place)
            elif verb == "move":
                _move(scene, place)
            else:
                write(f"{group}/cgroup.subtree_control", f"+{controller}")
        except OSError as error:
            refused = errorcode.get(error.errno or 0, str(error.errno))
        played.append(Moved(" ".join((verb, *names)), refused))
    return played


def _experiment(lab: Lab) -> Observed:
    with _ground(lab) as (scene, group, controller):
        said = _play(scene, group, controller, [["enable"]])[0].refused
        letter = {"": "a", "EPERM": "b", "EBUSY": "c"}.get(said, "d")
        return Observed(
            letter,
            f"+{controller} to cgroup.subtree_control: {said or 'taken'}; cgroup.procs has {len(read(f'{group}/cgroup.procs').split())} processes",
        )


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    moves = _moves(body)
    with _ground(lab) as (scene, group, controller):
        for moved in _play(scene, group, controller, moves):
            if moved.refused:
                why = {"EBUSY": "there are processes in it", "ENOENT": "there is no such group", "EEXIST": "there is one already"}
                yield Finding(False, f"{moved.move}: {moved.refused}, {why.get(moved.refused, 'the kernel refused it')}")
        enabled = read(f"{group}/cgroup.subtree_control").split()
        yield Finding(controller in enabled, f"cgroup.subtree_control of the group: {' '.join(enabled) or 'nothing'}")
        above = read(f"{group}/cgroup.procs").split()
        yield Finding(not above, f"{len(above)} processes in the group itself")
        places = {
            line[3:].rpartition(os.path.basename(group))[2]
            for line in scene.one.file("cgroup").splitlines()
            if line.startswith("0::")
        }
        below = places.pop() if places else ""
        yield Finding(below not in ("", "/"), f"the container is in {below or 'the group itself'}")
        if below:
            offered = read(f"{group}{below}/cgroup.controllers").split()
            yield Finding(controller in offered, f"there it has: {' '.join(offered) or 'no controller'}")


LESSON = Lesson(
    number=9,
    name="tree",
    title="The tree of groups",
    text="""\
In cgroup v2 there is one tree. A group has the controllers that the group above hands out, by writing +NAME to its cgroup.subtree_control.
So enabling is done above, and takes effect below.

Two kinds of things could compete for a group's memory: its own processes, and the groups below it. The kernel does not want to compare
them, so it forbids it: a group other than the root that has processes itself hands out no domain controllers (memory, io, hugetlb).
The write says EBUSY. That is why systemd, podman and pybox put processes into leaves, and why what is delegated to you is usually
unusable until you have moved yourself out of the way.

A group with processes can't be removed either: rmdir says EBUSY, too.

The moves of this lesson are played on a group of its own, with a container's processes in it:
    mkdir NAME     a group below
    move NAME      all processes there; `move .` is back
    enable         hand out a domain controller to the groups below
    rmdir NAME     remove a group""",
    question="A group has processes in it, and one of its controllers is to be handed out to the groups below. The write to cgroup.subtree_control",
    choices=("is taken", "fails with EPERM", "fails with EBUSY"),
    key="c",
    task="Bring the container into a group below, where it has the controller. No move may be refused.",
    kind="moves",
    start="enable",
    hint="First a leaf, then the processes, then the controller.",
    solution="mkdir leaf\nmove leaf\nenable",
    mutants=(
        Mutant("a controller is enabled where it is needed", "enable\nmkdir leaf\nmove leaf", "enable: EBUSY"),
        Mutant("a leaf is enough", "mkdir leaf\nenable\nmove leaf", "enable: EBUSY"),
        Mutant("who has made a group is in it", "mkdir leaf\nenable", "the container is in the group itself"),
        Mutant("a group can go when it has been used", "mkdir leaf\nmove leaf\nenable\nrmdir leaf", "rmdir leaf: EBUSY"),
        Mutant("once it is handed out, all are free to come back", "mkdir leaf\nmove leaf\nenable\nmove .", "move .: EBUSY"),
    ),
    experiment=_experiment,
    check=_check,
    reading=("cgroups(7)", "cgroup_namespaces(7)"),
    code=("pybox/kernel/cgroup.py", "pybox/steps/delegation.py"),
    needs=("cgroup",),
)
