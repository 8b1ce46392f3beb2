"""Lesson 10: root is a number. Power is capabilities, and what a filter lets through."""

from __future__ import annotations

import os

from pybox.kernel.processes import inside_id
from pybox.learn.lab import IDLE, Lab
from pybox.learn.lesson import Finding, Lesson, Mutant, Observed, either
from pybox.native import capability

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.seen import Seen

_LINE = "busybox sleep 1000"
_WANTED = "CAP_NET_BIND_SERVICE"


def _caps(seen: Seen, field: str) -> list[str]:
    value = int(seen.status(field) or "0", 16)
    return [capability(cap) for cap in range(64) if value >> cap & 1]


def _short(caps: list[str]) -> str:
    names = [cap.removeprefix("CAP_").lower() for cap in caps]
    return " ".join(names) if len(names) < 3 else f"{len(names)} of them"


def _experiment(lab: Lab) -> Observed:
    # a shell is root without capabilities; what it may do is seen in what the file has become
    script = "chown 1 /etc/passwd; chmod 0 /etc/group; sleep 1000 &"
    with lab.after(script, cap_drop=("ALL",)) as scene:
        first, second = (os.stat(scene.one.inside(f"/etc/{name}")) for name in ("passwd", "group"))
        changed, closed = inside_id(first.st_uid, scene.one.file("uid_map")) != 0, second.st_mode & 0o777 == 0
        letter = {(True, True): "a", (False, True): "b", (False, False): "c"}.get((changed, closed), "d")
        return Observed(
            letter,
            f"uid 0, CapEff {scene.one.status('CapEff')}; its own file: chown {'worked' if changed else 'refused'}, chmod {'worked' if closed else 'refused'}",
        )


def _check(lab: Lab, body: str) -> Iterator[Finding]:
    with lab.standing(lab.asked(body, IDLE), theirs=True) as scene:
        found = scene.named("sleep")
        if not found:
            yield Finding(False, "its command does not run")
            return
        seen = found[0]
        outside = int(seen.status("Uid").split()[1])
        inside = inside_id(outside, seen.file("uid_map"))
        yield either(inside == 0, "its uid is 0: root, as far as a number goes", f"its uid is {inside}, which was not asked for")
        for field, what in (("CapEff", "it may use"), ("CapBnd", "an exec could give it")):
            caps = _caps(seen, field)
            yield Finding(caps == [_WANTED], f"{field}: {what} {_short(caps) or 'none'}")
        locked, filtered = seen.status("NoNewPrivs"), seen.status("Seccomp")
        yield either(
            locked == "1", "NoNewPrivs 1: no exec gives it more", f"NoNewPrivs {locked}: a set-user-ID program could give it more"
        )
        yield either(
            filtered == "2",
            "Seccomp 2: a filter is before every system call",
            f"Seccomp {filtered}: every system call reaches the kernel",
        )


LESSON = Lesson(
    number=10,
    name="rights",
    title="Root is a number",
    text="""\
What root may do was cut into some forty capabilities (capabilities(7)). A process has sets of them, to be read in /proc/PID/status:

    CapEff    what the kernel looks at when something needs a right
    CapBnd    what an exec may give at most; what is dropped from it is gone for good

uid 0 matters at exec: there, root gets what is in its bounding set. A uid 0 with empty sets is a user called root, who owns root's
files and can do to them what an owner can, and nothing that needs a right.

Two more locks are independent of that. no_new_privs: no exec gives more than there is, so set-user-ID programs run without their
owner's rights. seccomp: a filter that is asked before each system call, before any of the kernel's code for it runs. Both are inherited
and can't be undone. By default a container of pybox has eleven capabilities and both locks.""",
    question="A process with uid 0 and no capability at all owns two files. It calls chown(2) on the one, and chmod(2) on the other. What works?",
    choices=("both: it is root", "chmod only", "none"),
    key="b",
    task="Let this container's root have one right: to bind ports below 1024 (CAP_NET_BIND_SERVICE). The two locks stay on.",
    kind="run",
    start=f"pybox run {_LINE}",
    hint="One option takes all away, another gives one back.",
    solution=f"pybox run --cap-drop ALL --cap-add NET_BIND_SERVICE {_LINE}",
    mutants=(
        Mutant(
            "adding what it needs takes the rest away",
            f"pybox run --cap-add NET_BIND_SERVICE {_LINE}",
            "CapEff: it may use 11 of them",
        ),
        Mutant("another user is less power", f"pybox run -u 1 {_LINE}", "its uid is 1"),
        Mutant("without rights root can still bind", f"pybox run --cap-drop ALL {_LINE}", "CapEff: it may use none"),
        Mutant(
            "a filter is in the way of capabilities",
            f"pybox run --cap-drop ALL --cap-add NET_BIND_SERVICE --security-opt seccomp=unconfined {_LINE}",
            "every system call reaches the kernel",
        ),
        Mutant(
            "without set-user-ID programs nothing needs the lock",
            f"pybox run --cap-drop ALL --cap-add NET_BIND_SERVICE --security-opt no-new-privileges=false {_LINE}",
            "a set-user-ID program could",
        ),
    ),
    experiment=_experiment,
    check=_check,
    reading=("capabilities(7)", "seccomp(2)", "prctl(2)"),
    code=("pybox/kernel/credentials.py", "pybox/kernel/seccomp.py", "pybox/steps/rights.py"),
    needs=("caps", "seccomp"),
)
