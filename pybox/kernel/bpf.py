"""Rules about system calls, and the classic BPF program that enforces them.

A seccomp filter is a little program the kernel runs on every system call: it sees the number, the architecture and the six
arguments (struct seccomp_data, seccomp(2)) and returns a verdict. This module holds the rules as data (Compare, Rule, Policy)
and assembles them; where rules come from (pybox's own profile, a JSON file) and how the program reaches the kernel is not its
business.

The shape of a program, top to bottom:

    load arch; another architecture's numbers mean other calls, so: kill
    load nr;   a binary search over ranges of numbers that share one verdict
    blocks     that compare arguments, one per distinct list of rules
    returns    one per verdict

A search tree of one comparison per range takes about eight steps for any call, where a list takes hundreds. Since Linux 5.11
the kernel also runs the filter once per number when it is loaded, and afterwards skips it for numbers that are always allowed
(kernel/seccomp.c, seccomp_cache_prepare): there a short program makes a short start.

Two number spaces that are not in the rules:
- Another architecture (32-bit code on a 64-bit kernel): KILL_PROCESS. No program probes a foreign table and falls back, and an
  errno would come from a call that was never meant.
- x32 (x86_64 with bit 30 set): ENOSYS, which is what most kernels say, being built without x32.
"""

from __future__ import annotations

from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

# Verdicts: linux/seccomp.h.
KILL_PROCESS = 0x80000000
KILL_THREAD = 0x00000000
TRAP = 0x00030000
LOG = 0x7FFC0000
USER_NOTIF = 0x7FC00000  # ask who holds the filter's listener
ALLOW = 0x7FFF0000
_ERRNO = 0x00050000

# The value a running call reports as its architecture: linux/audit.h.
AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

MAX_INSTRUCTIONS = 4096  # BPF_MAXINSNS
MAX_ERRNO = 4095

_X32_BIT = 0x40000000
_ALL = 0xFFFFFFFF  # a 32-bit half
_ENOSYS = 38

# Opcodes: linux/bpf_common.h.
_LOAD = 0x20  # A = word of seccomp_data at k
_AND = 0x54  # A &= k
_JUMP = 0x05
_IF_EQ = 0x15
_IF_GT = 0x25
_IF_GE = 0x35
_RETURN = 0x06

_NR, _ARCH, _ARGS = 0, 4, 16  # offsets in struct seccomp_data
_NEAR = 250  # a conditional jump reaches 255; two instructions may still slip in between


def errno(number: int) -> int:
    """Return the verdict that fails the call with this errno (0 to 4095; 0 pretends success)."""
    if not 0 <= number <= MAX_ERRNO:
        raise ValueError(f"errno {number} is not within 0 to {MAX_ERRNO}")
    return _ERRNO | number


def errno_of(verdict: int) -> int | None:
    """Return the errno that a verdict fails a call with, None when it is another kind of verdict."""
    return verdict & MAX_ERRNO if verdict & 0x7FFF0000 == _ERRNO else None


class Compare(Record):
    """One condition on one argument, as an unsigned 64-bit number.

    ``op`` is ==, !=, <, <=, >, >= or &==; the last is ``argument & mask == value``. A kernel argument of type int is only the
    lower half of the register: compare those with &== and a 32-bit mask, or bit 32 slips a forbidden value past the rule
    (CVE-2019-10063).
    """

    index: int  # 0 to 5
    op: str
    value: int
    mask: int = 0xFFFFFFFFFFFFFFFF

    def validate(self) -> None:
        if not 0 <= self.index <= 5:
            raise ValueError(f"argument {self.index} is not within 0 to 5")
        if self.op not in ("==", "!=", "<", "<=", ">", ">=", "&=="):
            raise ValueError(f"unknown comparison {self.op!r}")
        if not (0 <= self.value < 1 << 64 and 0 <= self.mask < 1 << 64):
            raise ValueError("not an unsigned 64-bit number")

    def __str__(self) -> str:
        if self.op == "&==":
            return f"arg{self.index} & {self.mask:#x} == {self.value:#x}"
        return f"arg{self.index} {self.op} {self.value:#x}"


class Rule(Record):
    """A verdict, and the conditions that must all hold for it; none: always."""

    verdict: int
    when: tuple[Compare, ...] = ()


class Policy(Record):
    """What to answer to every system call: for each number its rules, the first that holds decides; ``default`` for the rest."""

    default: int
    calls: tuple[tuple[int, tuple[Rule, ...]], ...]  # by rising number, each once

    def validate(self) -> None:
        numbers = [number for number, _ in self.calls]
        if numbers != sorted(set(numbers)):
            raise ValueError("numbers must rise")


def assemble(policy: Policy, machine: str) -> bytes:
    """Return the program as an array of struct sock_filter, ready for seccomp(2). ``machine`` is a key of AUDIT_ARCH.

    Raises ValueError when it would be longer than the kernel takes.
    """
    code = _Code()
    code.place(_search(code, _ranges(code, policy, machine)))
    numbers = code.add(_LOAD, _NR)
    code.branch(_IF_EQ, AUDIT_ARCH[machine], numbers, code.verdict(KILL_PROCESS))
    code.add(_LOAD, _ARCH)
    if len(code.reversed) > MAX_INSTRUCTIONS:
        raise ValueError(f"needs {len(code.reversed)} instructions, the kernel takes {MAX_INSTRUCTIONS}")
    return code.pack()


class _Code:
    """Instructions, the last one first: classic BPF jumps only forward, so whatever is jumped to must exist already.

    A place is an index into ``reversed``. Conditional jumps have 8-bit distances: where a place has got too far away, a
    stepping stone is put down (a copy of a return, else a jump, which has 32 bits) and used by all that follow until it is too
    far away itself.
    """

    def __init__(self) -> None:
        self.reversed: list[tuple[int, int, int, int]] = []
        self.verdicts: dict[int, int] = {}
        self.stones: dict[int, int] = {}

    def add(self, op: int, k: int, if_true: int = 0, if_false: int = 0) -> int:
        """Put an instruction in front of all others and return its place."""
        self.reversed.append((op, if_true, if_false, k))
        return len(self.reversed) - 1

    def distance(self, place: int) -> int:
        return len(self.reversed) - 1 - place

    def verdict(self, value: int) -> int:
        """Return the place that returns this verdict."""
        if value not in self.verdicts:
            self.verdicts[value] = self.add(_RETURN, value)
        return self.verdicts[value]

    def near(self, place: int) -> int:
        """Return the place, or a stepping stone to it, within reach of a conditional jump."""
        stone = self.stones.get(place, place)
        if self.distance(stone) > _NEAR:
            op, _, _, k = self.reversed[place]
            stone = self.add(_RETURN, k) if op == _RETURN else self.add(_JUMP, self.distance(place))
            self.stones[place] = stone
        return stone

    def branch(self, op: int, k: int, yes: int, no: int) -> int:
        """Put a conditional jump to two places in front; returns its place."""
        yes, no = self.near(yes), self.near(no)
        return self.add(op, k, self.distance(yes), self.distance(no))

    def place(self, place: int) -> None:
        """Make the front of the program the place given, so that the next instruction falls through to it."""
        if self.distance(place) > 0:
            self.add(_JUMP, self.distance(place))

    def pack(self) -> bytes:
        from struct import pack

        return b"".join(pack("<HBBI", *instruction) for instruction in reversed(self.reversed))


def _ranges(code: _Code, policy: Policy, machine: str) -> list[tuple[int, int]]:
    """Return (first number, place) of each stretch of numbers that share a place; adds returns and argument blocks."""
    default = code.verdict(policy.default)
    blocks: dict[tuple[Rule, ...], int] = {}
    starts: list[tuple[int, int]] = [(0, default)]
    for number, rules in policy.calls:
        if rules not in blocks:
            blocks[rules] = _block(code, rules, default)
        if starts[-1][0] == number:
            starts.pop()
        starts += [(number, blocks[rules]), (number + 1, default)]
    if machine == "x86_64":
        starts.append((_X32_BIT, code.verdict(errno(_ENOSYS))))
    return [start for before, start in zip([(0, -1), *starts], starts, strict=False) if start[1] != before[1]]


def _search(code: _Code, ranges: Sequence[tuple[int, int]]) -> int:
    """Add a balanced binary search for the range of the number in A; returns its place."""
    if len(ranges) == 1:
        return ranges[0][1]
    if len(ranges) == 3 and ranges[0][1] == ranges[2][1] and ranges[2][0] == ranges[1][0] + 1:
        return code.branch(_IF_EQ, ranges[1][0], ranges[1][1], ranges[0][1])  # one odd number out: one test, not two
    middle = len(ranges) // 2
    above = _search(code, ranges[middle:])
    below = _search(code, ranges[:middle])
    return code.branch(_IF_GE, ranges[middle][0], above, below)


def _block(code: _Code, rules: Sequence[Rule], default: int) -> int:
    """Add the tests of one call's rules; returns the place to jump to."""
    otherwise = default
    for rule in reversed(rules):
        place = code.verdict(rule.verdict)
        for compare in reversed(rule.when):
            place = _compare(code, compare, place, otherwise)
        otherwise = place
    return otherwise


def _compare(code: _Code, compare: Compare, yes: int, no: int) -> int:
    """Add one comparison. BPF words have 32 bits, so the upper half decides and the lower only when the uppers are equal."""
    op, value = compare.op, compare.value
    if op in ("!=", "<", "<="):
        opposite = {"!=": "==", "<": ">=", "<=": ">"}[op]
        return _compare(code, compare.replace(op=opposite), no, yes)
    low_offset = _ARGS + 8 * compare.index  # both machines are little endian
    high_offset = low_offset + 4
    high, low = value >> 32, value & _ALL
    if op in ("==", "&=="):
        mask = compare.mask if op == "&==" else (1 << 64) - 1
        if value & ~mask:
            return no
        yes = _half(code, low_offset, mask & _ALL, low, yes, no)
        return _half(code, high_offset, mask >> 32, high, yes, no)
    code.branch(_IF_GE if op == ">=" else _IF_GT, low, yes, no)
    decide = code.add(_LOAD, low_offset)
    equal = code.branch(_IF_EQ, high, decide, no)
    code.branch(_IF_GT, high, yes, equal)
    return code.add(_LOAD, high_offset)


def _half(code: _Code, offset: int, mask: int, value: int, yes: int, no: int) -> int:
    """Add the test that one half, masked, equals a value."""
    if mask == 0:
        return yes
    code.branch(_IF_EQ, value, yes, no)
    if mask != _ALL:
        code.add(_AND, mask)
    return code.add(_LOAD, offset)
