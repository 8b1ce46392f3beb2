"""What /proc shows of a process at one moment, and what is different a moment later. Read from outside, while it stands still.

Some effects are not to be seen from here (a host name, a file that was written): a diff of nothing says so, and is no proof of nothing.
"""

from __future__ import annotations

import os

from pybox.native import capability
from pybox.record import Record
from pybox.steps.process import KINDS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pybox.seen import Seen

SUBJECTS = {"n": "namespaces", "m": "mounts", "r": "rights", "f": "files", "g": "groups"}
_RIGHTS = ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp")


class Shot(Record):
    """The state: (subject, what, value), where one ``what`` may come more than once."""

    facts: frozenset[tuple[str, str, str]]


class Change(Record):
    """One line of a difference; ``was`` or ``now`` is "" for what is new or gone."""

    subject: str
    what: str
    was: str
    now: str

    def __str__(self) -> str:
        if self.was and self.now:
            return f"{self.what}: {self.was} -> {self.now}"
        return f"+ {self.what} {self.now}".rstrip() if self.now else f"- {self.what} {self.was}".rstrip()


def take(seen: Seen) -> Shot:
    """Return the state of a process; what is gone or closed to us is left out."""
    return Shot(frozenset(_facts(seen)))


def _facts(seen: Seen) -> Iterator[tuple[str, str, str]]:
    for kind in KINDS.values():
        number = seen.namespace(kind)
        mine = not seen.private(kind)
        yield "namespaces", f"{kind} namespace", ("the host's" if mine else number) if number else ""
    shared = 0
    for order, mount in enumerate(seen.mounts()):
        shared += mount.shared
        same = sum(other.target == mount.target for other in seen.mounts()[:order]) if mount.target == "/" else 0
        stacked = f" ({same + 1} on top of each other)" if same else ""
        yield (
            "mounts",
            f"{mount.fstype} on {mount.target}{stacked}",
            ",".join(sorted(mount.options & {"ro", "nosuid", "nodev", "noexec"})) or "rw",
        )
    yield "mounts", "shared mounts", str(shared)
    for field in _RIGHTS:
        yield "rights", field, " ".join(dict.fromkeys(seen.status(field).split())) or "none"
    for field in ("CapEff", "CapBnd"):
        value = int(seen.status(field) or "0", 16)
        names = [capability(cap).removeprefix("CAP_").lower() for cap in range(64) if value >> cap & 1]
        yield "rights", field, f"{len(names)} ({' '.join(names)})" if 0 < len(names) < 15 else str(len(names))
    for line in seen.file("limits").splitlines()[1:]:
        yield "rights", line[:26].strip(), " ".join(line[26:].split()[:2])
    yield from _files(seen)
    for line in seen.file("cgroup").splitlines():
        number, controller, path = line.split(":", 2)
        yield "groups", f"group of {controller or 'cgroup2'}", path


def _files(seen: Seen) -> Iterator[tuple[str, str, str]]:
    try:
        root, ours = os.stat(seen.inside("/")), os.stat("/")
        yield "files", "root directory", "the host's" if (root.st_dev, root.st_ino) == (ours.st_dev, ours.st_ino) else "its own"
        yield "files", "working directory", os.readlink(f"/proc/{seen.pid}/cwd")
        for fd in os.listdir(f"/proc/{seen.pid}/fd"):
            yield "files", f"fd {fd}", os.readlink(f"/proc/{seen.pid}/fd/{fd}")
    except OSError:
        pass
    yield "files", "file mode mask", seen.status("Umask")
    yield "files", "oom_score_adj", seen.file("oom_score_adj").strip()
    fields = seen.file("stat").rpartition(")")[2].split()
    yield "files", "session", ("its own" if fields[3:4] == [str(seen.pid)] else "the caller's") if fields else ""


def difference(before: Shot, after: Shot) -> list[Change]:
    """Return what changed, in the order of the subjects."""
    gone = _by_name(before.facts - after.facts)
    new = _by_name(after.facts - before.facts)
    found = []
    for subject, what in sorted(set(gone) | set(new), key=lambda key: (list(SUBJECTS.values()).index(key[0]), key[1])):
        found.append(Change(subject, what, gone.get((subject, what), ""), new.get((subject, what), "")))
    return found


def _by_name(facts: Iterable[tuple[str, str, str]]) -> dict[tuple[str, str], str]:
    return {(subject, what): value for subject, what, value in facts}
