"""Which system calls a container's filter refused, told by the kernel itself while the container runs as ever.

The same rules are compiled once more, with "ask" in the place of every errno: SECCOMP_RET_USER_NOTIF, seccomp_unotify(2). The kernel
then asks whoever holds the filter's listener. A thread of ours does, notes who called what, and answers with the errno that the rule
has, so the container sees what it would have seen; it works for plain users, too. Verdicts that kill are left to the kernel.

The listener is an fd of the new process. It is held at the gate (stepping.py) behind the row that installs the filter, until
we have a copy of the fd; from there on nothing can be refused unseen.
"""

from __future__ import annotations

import os
import select
from errno import errorcode
from fcntl import ioctl
from struct import Struct
from threading import Event, Thread

from pybox import native
from pybox.errors import PyboxError, SpecError
from pybox.explain.stepping import OVER, Recorder
from pybox.failures import StepFailed
from pybox.host import read
from pybox.kernel import bpf, seccomp
from pybox.kernel.syscalls import numbers
from pybox.record import Record
from pybox.steps.rights import LISTENER, InstallFilter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from pybox.dirs import Dirs
    from pybox.fastjson import Json
    from pybox.kernel.bpf import Compare, Policy
    from pybox.native import Child
    from pybox.planner import Planned
    from pybox.result import Result
    from pybox.runtime import Options
    from pybox.spec import Spec

_NOTIF = Struct("<QIIiIQ6Q")  # struct seccomp_notif: id, pid, flags, then seccomp_data: nr, arch, ip, args
_ANSWER = Struct("<QqiI")  # struct seccomp_notif_resp: id, val, error, flags
_IDENTITY = Struct("<Q")
_LONGEST = 256  # of a string that is shown

# What the arguments are, where that helps: s a string, x flags, d an int, p a pointer. Others are shown as six numbers.
_SHAPES = {
    "mount": "sssxs", "umount2": "sx", "pivot_root": "ss", "chroot": "s", "unshare": "x", "setns": "dx", "clone": "x", "clone3": "pd",
    "fsopen": "sx", "open_tree": "dsx", "sethostname": "sd", "swapon": "sx", "ioctl": "dxp", "personality": "x", "bpf": "dpd",
    "keyctl": "d", "add_key": "ss", "request_key": "sss", "io_uring_setup": "dp", "perf_event_open": "pdddx", "ptrace": "dd",
    "init_module": "pds", "finit_module": "dsx", "delete_module": "sx", "reboot": "xxx", "userfaultfd": "x", "acct": "s",
}  # fmt: skip


class Call(Record):
    """One kind of refused call: the same name, answer and arguments, by programs of one name."""

    name: str
    number: int
    arguments: str
    verdict: int
    program: str

    @property
    def errno(self) -> str:
        """The answer: EPERM, ENOSYS."""
        number = bpf.errno_of(self.verdict) or 0
        return errorcode.get(number, str(number))


class Denial(Record):
    """A refused call, how often, the rule that refused it, and the option of `run` that would let it through."""

    call: Call
    times: int
    rule: str
    allow: str

    def to_json(self) -> dict[str, Json]:
        """Return it as `--format json` shows it."""
        return {
            "call": self.call.name,
            "number": self.call.number,
            "arguments": self.call.arguments,
            "errno": self.call.errno,
            "program": self.call.program,
            "times": self.times,
            "rule": self.rule,
            "allow": self.allow,
        }


class Watch(Recorder):
    """A Runtime whose containers' filters ask instead of refuse. ``run`` as ever, then ``denials`` are known."""

    def __init__(self, where: Dirs, spec: Spec) -> None:
        super().__init__(where, cut=self._asking)
        self._profile, caps = self.planner.profile(spec)
        self._policy = seccomp.policy(self._profile, caps, self.facts.machine)
        self._names = {number: name for name, number in numbers(self.facts.machine).items()}
        self._counts: dict[Call, int] = {}
        self._failed: OSError | None = None

    def _asking(self, planned: Planned) -> Planned:
        code = bpf.assemble(asking(self._policy), self.facts.machine)
        inside = list(planned.plan.inside)
        for row, step in enumerate(inside):
            if isinstance(step, InstallFilter):
                inside[row] = step.replace(program=code, listen=True)
                self.gate = row + 1
                plan = planned.plan.replace(inside=tuple(inside))
                return planned.replace(plan=plan, program=plan.lower())
        raise SpecError("security-opt", "seccomp=unconfined", "without a filter nothing is refused by it")

    def watch(self, spec: Spec, options: Options, started: Callable[[Child, str], None] | None = None) -> Result:
        """Run a container to its end, and note what is refused. Raises as ``run``."""
        launching = Event()
        self.launching = launching.set
        self.report = None
        listener = Thread(target=self._listen, args=(launching,))
        listener.start()
        try:
            return self.run(spec, options, started)
        except StepFailed:
            launching.set()  # a step on the host may have failed: then nobody came so far
            listener.join()
            if self._failed is not None:
                raise PyboxError(f"cannot listen to the container's filter: {self._failed.strerror}") from None
            raise
        finally:
            launching.set()
            listener.join()
            self.close()

    @property
    def denials(self) -> tuple[Denial, ...]:
        """What was refused: what failed first, then what only seems to be missing, each by how often."""
        found = sorted(self._counts.items(), key=lambda entry: (entry[0].errno == "ENOSYS", -entry[1], entry[0].name))
        return tuple(Denial(call, times, *told(call, self._profile)) for call, times in found)

    def _listen(self, launching: Event) -> None:
        launching.wait()
        if self.report is None:
            return
        if int(native.lib.pb_at_gate(self.report)) == OVER:
            return
        pid = self.report.pid or self.report.first
        slot = dict(self._slots())[LISTENER]
        try:
            pidfd = os.pidfd_open(pid)
            try:
                fd = native.copy_fd(pidfd, self.report.slots[slot])
            finally:
                os.close(pidfd)
        except OSError as error:
            self._failed = error
            os.kill(pid, 9)  # nobody could answer it: its refused calls would hang
            return
        finally:
            native.lib.pb_open_gate(self.report, 0)
        try:
            self._serve(fd)
        finally:
            os.close(fd)

    def _slots(self) -> tuple[tuple[str, int], ...]:
        assert self.plan_made is not None
        return self.plan_made.lower().slots

    def _serve(self, fd: int) -> None:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        receive, valid, send = (native.number(f"SECCOMP_IOCTL_NOTIF_{word}") for word in ("RECV", "ID_VALID", "SEND"))
        while True:
            ((_, event),) = poll.poll()
            if not event & select.POLLIN:  # nobody has this filter any more
                return
            asked = bytearray(_NOTIF.size)
            try:
                ioctl(fd, receive, asked)
            except OSError:  # ENOENT: killed before we looked; EINTR
                continue
            identity, pid, _, number, _, _, *arguments = _NOTIF.unpack(asked)
            verdict = decide(self._policy, number, arguments)
            error = bpf.errno_of(verdict) or 0
            call = self._call(number, arguments, verdict, pid)
            try:
                ioctl(fd, valid, _IDENTITY.pack(identity))  # else it was killed, and what was read may be another process's
                self._counts[call] = self._counts.get(call, 0) + 1
                ioctl(fd, send, _ANSWER.pack(identity, 0, -error, 0))
            except OSError:  # ENOENT: killed meanwhile
                continue

    def _call(self, number: int, arguments: list[int], verdict: int, pid: int) -> Call:
        name = self._names.get(number, f"syscall_{number}")
        shown = show(_SHAPES.get(name, "xxxxxx"), arguments, lambda at: _string(pid, at))
        return Call(name, number, shown, verdict, read(f"/proc/{pid}/comm").strip())


def asking(policy: Policy) -> Policy:
    """Return the rules with "ask" in the place of every errno."""

    def ask(verdict: int) -> int:
        return verdict if bpf.errno_of(verdict) is None else bpf.USER_NOTIF

    calls = ((number, tuple(rule.replace(verdict=ask(rule.verdict)) for rule in rules)) for number, rules in policy.calls)
    return policy.replace(default=ask(policy.default), calls=tuple(calls))


def decide(policy: Policy, number: int, arguments: list[int]) -> int:
    """Return the verdict of the rules on one call."""
    for rule in dict(policy.calls).get(number, ()):
        if all(_holds(compare, arguments[compare.index]) for compare in rule.when):
            return rule.verdict
    return policy.default


def _holds(compare: Compare, value: int) -> bool:
    wanted = compare.value
    return {
        "&==": value & compare.mask == wanted,
        "==": value == wanted,
        "!=": value != wanted,
        "<": value < wanted,
        "<=": value <= wanted,
        ">": value > wanted,
        ">=": value >= wanted,
    }[compare.op]


def show(shape: str, arguments: list[int], string: Callable[[int], str | None]) -> str:
    """Return the arguments as strace would. ``string`` reads one of the caller's, None when it can't be read."""
    words = []
    for kind, value in zip(shape, arguments, strict=False):
        text = string(value) if kind == "s" and value else None
        if text is not None:
            words.append(f'"{text}"')
        elif kind in "sp" and not value:
            words.append("NULL")
        else:
            words.append(str(_signed(value)) if kind == "d" else f"{value:#x}")
    return ", ".join(words)


def _signed(value: int) -> int:
    low = value & 0xFFFFFFFF
    return low - (1 << 32) if low >> 31 else low


def _string(pid: int, at: int) -> str | None:
    """Return a string of a process that waits for our answer. It may be changed by another of its threads: it is only shown."""
    try:
        with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
            text = os.pread(memory.fileno(), _LONGEST, at)
    except (OSError, OverflowError):
        return None
    end = text.find(b"\0")
    return (text[:end] if end >= 0 else text).decode(errors="backslashreplace")


def told(call: Call, profile: str | None) -> tuple[str, str]:
    """Return the rule that refused a call, in words, and what would let it through."""
    unconfined = "--security-opt seccomp=unconfined, or a profile of your own: --security-opt seccomp=PROFILE.json"
    if profile is not None:
        return f"a rule of {profile}", f"another rule for {call.name} in {profile}; or --security-opt seccomp=unconfined"
    from pybox.kernel.seccomp_profile import TABLE

    entries = [entry for entry in TABLE if call.name in entry.calls.split()]
    if not entries:
        return "the table does not name it: not there, as in an older kernel, and programs fall back", unconfined
    needs = [cap for entry in entries for cap in entry.needs.split() if cap.startswith("CAP_")]
    refusing = [entry for entry in entries if entry.verdict == call.verdict and not entry.needs] or entries
    rule = refusing[0].why
    seldom = "seldom needed, for programs do without; else " if call.errno == "ENOSYS" else ""
    if needs:
        flag = " or ".join(f"--cap-add {cap.removeprefix('CAP_')}" for cap in dict.fromkeys(needs))
        return rule, f"{seldom}{flag} (the kernel then asks for that capability itself)"
    return rule, seldom + unconfined
