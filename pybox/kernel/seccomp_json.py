"""Seccomp profiles in JSON: the OCI runtime-spec's ``linux.seccomp`` object and docker's and podman's superset of it.

Sources: runtime-spec config-linux.md "Seccomp"; moby's and containers/common's profile files add ``archMap``, ``includes`` and
``excludes`` (by capability, architecture, kernel), ``name`` for a single call, and errno names.

What the formats leave open is done as runc and crun do it with libseccomp: several conditions on the same argument mean "one of
them", on different arguments "all of them"; of two answers to a call without conditions the first holds (podman's own profile
has such a pair). Of rules with conditions the first that applies decides. Where a rule without conditions meets one with
conditions and another answer, libseccomp drops one of the two without a word, be it the ban on TIOCSTI before "allow ioctl";
here the profile is refused. Names that this machine lacks are skipped: profiles list the calls of all architectures.

Only the machine's own architecture is let through, whatever ``architectures`` lists (see bpf.py). Of the flags, TSYNC (a single
thread loads the filter) and SPEC_ALLOW (speed only) are accepted without effect.
"""

from __future__ import annotations

import errno as errnos

from pybox.errors import SpecError
from pybox.fastjson import loads
from pybox.kernel import bpf
from pybox.kernel.bpf import Compare, Policy, Rule
from pybox.kernel.syscalls import numbers
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from collections.abc import Set as AbstractSet
    from typing import NoReturn

    from pybox.fastjson import Json

FIXED = {
    "SCMP_ACT_ALLOW": bpf.ALLOW,
    "SCMP_ACT_LOG": bpf.LOG,
    "SCMP_ACT_TRAP": bpf.TRAP,
    "SCMP_ACT_KILL": bpf.KILL_THREAD,
    "SCMP_ACT_KILL_THREAD": bpf.KILL_THREAD,
    "SCMP_ACT_KILL_PROCESS": bpf.KILL_PROCESS,
}
REFUSED = {
    "SCMP_ACT_TRACE": "no tracer is attached to answer",
    "SCMP_ACT_NOTIFY": "no agent is listening to answer",
}
OPERATORS = {
    "SCMP_CMP_NE": "!=",
    "SCMP_CMP_LT": "<",
    "SCMP_CMP_LE": "<=",
    "SCMP_CMP_EQ": "==",
    "SCMP_CMP_GE": ">=",
    "SCMP_CMP_GT": ">",
    "SCMP_CMP_MASKED_EQ": "&==",
}
FLAGS = ("SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_SPEC_ALLOW")
ARCHITECTURE = {"x86_64": "amd64", "aarch64": "arm64"}  # GOARCH names, as includes.arches spells them

_TOP = (
    "defaultAction",
    "defaultErrnoRet",
    "defaultErrno",
    "architectures",
    "archMap",
    "flags",
    "syscalls",
    "listenerPath",
    "listenerMetadata",
)
_CALL = ("names", "name", "action", "errnoRet", "errno", "args", "comment", "includes", "excludes")
_ARG = ("index", "value", "valueTwo", "op")
_FILTER = ("caps", "arches", "minKernel")


class Host(Record):
    """What the conditions of a profile ask about."""

    caps: AbstractSet[str]  # the container's, "CAP_..."
    machine: str  # as uname(2) spells it
    kernel: tuple[int, int]


class _At:
    """A value of the profile and its place, which every complaint names."""

    def __init__(self, profile: str, place: str, value: Json) -> None:
        self.profile, self.place, self.value = profile, place, value

    def refuse(self, reason: str) -> NoReturn:
        raise SpecError("security-opt", f"seccomp={self.profile}", f"{self.place or 'profile'}: {reason}")

    def fields(self, known: Sequence[str]) -> dict[str, _At]:
        """The members that are not null. An unknown one is refused: a misspelt condition must not vanish."""
        if not isinstance(self.value, dict):
            self.refuse("must be an object")
        for key in self.value:
            if key not in known and key[:1] not in ("$", "_"):
                self.refuse(f"unknown key {key!r} (known: {', '.join(known)})")
        dot = "." if self.place else ""
        present = ((key, value) for key, value in self.value.items() if value is not None)
        return {key: _At(self.profile, f"{self.place}{dot}{key}", value) for key, value in present}

    def elements(self) -> list[_At]:
        if not isinstance(self.value, list):
            self.refuse("must be a list")
        return [_At(self.profile, f"{self.place}[{position}]", value) for position, value in enumerate(self.value)]

    def text(self) -> str:
        if not isinstance(self.value, str) or not self.value:
            self.refuse("must be a non-empty string")
        return self.value

    def number(self, most: int) -> int:
        if isinstance(self.value, bool) or not isinstance(self.value, int) or not 0 <= self.value <= most:
            self.refuse(f"must be a whole number from 0 to {most}")
        return self.value

    def one_of(self, known: Sequence[str]) -> str:
        text = self.text()
        if text not in known:
            self.refuse(f"unknown value {text!r} (known: {', '.join(known)})")
        return text


def parse(profile: str, text: str, host: Host) -> Policy:
    """Return the policy that a profile means on this host. ``profile`` is its name in messages.

    Raises SpecError, naming the place, for text that is not a profile or asks for what pybox can't do.
    """
    whole = _At(profile, "", None)
    try:
        whole.value = loads(text)
    except (ValueError, RecursionError) as error:
        whole.refuse(f"not JSON: {error}" if isinstance(error, ValueError) else "nested too deeply")
    top = whole.fields(_TOP)
    if "defaultAction" not in top:
        whole.refuse("defaultAction is missing")
    default = _verdict(top["defaultAction"], top.get("defaultErrnoRet"), top.get("defaultErrno"), bpf.errno(errnos.EPERM))
    for key in ("listenerPath", "listenerMetadata"):
        if key in top and top[key].value:
            top[key].refuse("no agent is supported (SCMP_ACT_NOTIFY)")
    for flag in top["flags"].elements() if "flags" in top else ():
        flag.one_of(FLAGS)
    known = numbers(host.machine)
    rules: dict[int, list[tuple[_At, Rule]]] = {}
    for call in top["syscalls"].elements() if "syscalls" in top else ():
        for name, rule in _call(call, host):
            if name in known:
                rules.setdefault(known[name], []).append((call, rule))
    names = {number: name for name, number in known.items()}
    return Policy(default, tuple((number, _settle(names[number], rules[number], default)) for number in sorted(rules)))


def _verdict(action: _At, errno_ret: _At | None, errno_name: _At | None, fallback: int) -> int:
    """Return the verdict of an action and its errno; ``fallback`` is what SCMP_ACT_ERRNO means without one."""
    name = action.text()
    if name in REFUSED:
        action.refuse(f"{name} is not supported: {REFUSED[name]}")
    if name == "SCMP_ACT_ERRNO":
        number = errno_ret.number(bpf.MAX_ERRNO) if errno_ret else None
        if errno_name and errno_name.value:  # podman writes both and lets the name win: numbers differ between architectures
            named = getattr(errnos, errno_name.text(), None)
            if not isinstance(named, int):
                errno_name.refuse(f"unknown errno {errno_name.value!r}")
            number = named
        return fallback if number is None else bpf.errno(number)
    if name not in FIXED:
        action.refuse(f"unknown action {name!r} (known: SCMP_ACT_ERRNO, {', '.join(FIXED)})")
    if errno_ret:
        errno_ret.refuse(f"{name} returns no errno")
    return FIXED[name]


def _call(call: _At, host: Host) -> Iterator[tuple[str, Rule]]:
    """Yield (call name, rule) of one element of ``syscalls``; nothing when its conditions exclude this host."""
    fields = call.fields(_CALL)
    if ("names" in fields) == ("name" in fields):
        call.refuse("needs either names or name")
    names = [name.text() for name in (fields["names"].elements() if "names" in fields else [fields["name"]])]
    if not names:
        fields["names"].refuse("must name a system call")
    if "action" not in fields:
        call.refuse("action is missing")
    verdict = _verdict(fields["action"], fields.get("errnoRet"), fields.get("errno"), bpf.errno(errnos.EPERM))
    compares = [_compare(arg) for arg in (fields["args"].elements() if "args" in fields else ())]
    included = _matches(fields["includes"], host) if "includes" in fields else []
    excluded = _matches(fields["excludes"], host) if "excludes" in fields else []
    if not all(included) or any(excluded):
        return
    if len({compare.index for compare in compares}) == len(compares):
        alternatives = [tuple(compares)]
    else:
        alternatives = [(compare,) for compare in compares]
    for name in names:
        for when in alternatives:
            yield name, Rule(verdict, when)


def _compare(arg: _At) -> Compare:
    fields = arg.fields(_ARG)
    for key in ("index", "value", "op"):
        if key not in fields:
            arg.refuse(f"{key} is missing")
    op = OPERATORS[fields["op"].one_of(tuple(OPERATORS))]
    index, value = fields["index"].number(5), fields["value"].number((1 << 64) - 1)
    second = fields["valueTwo"].number((1 << 64) - 1) if "valueTwo" in fields else 0
    if op == "&==":  # value is the mask, and seccomp_rule_add(3) masks the other side too
        return Compare(index, op, second & value, value)
    return Compare(index, op, value)


def _matches(conditions: _At, host: Host) -> list[bool]:
    """Tell of each condition of ``includes`` or ``excludes`` whether it holds; capabilities one by one, architectures any of."""
    fields = conditions.fields(_FILTER)
    found = []
    for cap in fields["caps"].elements() if "caps" in fields else ():
        if not cap.text().startswith("CAP_"):
            cap.refuse(f"not a capability: {cap.value!r} (as in CAP_SYS_ADMIN)")
        found.append(cap.value in host.caps)
    if "arches" in fields and (arches := [arch.text() for arch in fields["arches"].elements()]):
        found.append(ARCHITECTURE[host.machine] in arches)
    if "minKernel" in fields and fields["minKernel"].value:
        version = fields["minKernel"].text()
        major, _, minor = version.partition(".")
        if not (version.isascii() and major.isdecimal() and minor.isdecimal() and len(version) < 10):
            fields["minKernel"].refuse(f"not a kernel version: {version!r} (as in 4.8)")
        found.append(host.kernel >= (int(major), int(minor)))
    return found


def _settle(name: str, found: list[tuple[_At, Rule]], default: int) -> tuple[Rule, ...]:
    """Return the rules of one call: the first that holds decides. Raises SpecError for a condition that never could."""
    always = next(((call, rule) for call, rule in found if not rule.when and rule.verdict != default), None)
    if always is None:
        return tuple(rule for _, rule in found if rule.when)
    for call, rule in found:
        if rule.when and rule.verdict != always[1].verdict:
            call.refuse(f"{name} has another answer, without conditions, in {always[0].place}: only one of the two can hold")
    return (Rule(always[1].verdict),)
