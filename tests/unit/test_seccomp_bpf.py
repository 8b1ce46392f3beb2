"""The assembler: whatever the rules, the program says what they say."""

from __future__ import annotations

import operator
import struct

import pytest
from bpf_simulator import AARCH64, X86_64, decode, run, walk
from hypothesis import given, settings
from hypothesis import strategies as st

from pybox.kernel.bpf import ALLOW, KILL_PROCESS, KILL_THREAD, LOG, TRAP, Compare, Policy, Rule, assemble, errno

ENOSYS = errno(38)
TOP = (1 << 64) - 1
EDGES = sorted(
    {v for base in (0, 1 << 31, 1 << 32, 3 << 32, 1 << 63, 1 << 64) for v in range(base - 2, base + 3) if 0 <= v <= TOP}
    | {0x5412, 0x100005412, 0x7FFFFFFF00000000, 0x00000001FFFFFFFF}
)
OPERATORS = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}


def holds(compare: Compare, args: tuple[int, ...]) -> bool:
    if compare.op == "&==":
        return args[compare.index] & compare.mask == compare.value
    return bool(OPERATORS[compare.op](args[compare.index], compare.value))


def interpret(policy: Policy, number: int, args: tuple[int, ...]) -> int:
    """What the rules say, read directly."""
    for rule in dict(policy.calls).get(number, ()):
        if all(holds(compare, args) for compare in rule.when):
            return rule.verdict
    return policy.default


verdicts = st.sampled_from([ALLOW, KILL_PROCESS, KILL_THREAD, LOG, TRAP, errno(0), errno(1), errno(4095), ENOSYS])
words = st.one_of(st.sampled_from(EDGES), st.integers(0, TOP))
compares = st.builds(Compare, st.integers(0, 5), st.sampled_from([*OPERATORS, "&=="]), words, words)
rules = st.lists(st.builds(Rule, verdicts, st.lists(compares, max_size=4).map(tuple)), max_size=4).map(tuple)
plain = verdicts.map(lambda verdict: (Rule(verdict),))
numbers = st.one_of(st.integers(0, 500), st.integers(0, 0x3FFFFFFF))
policies = st.builds(
    lambda default, calls: Policy(default, tuple(sorted(calls.items(), key=lambda item: item[0]))),
    verdicts,
    st.dictionaries(numbers, st.one_of(plain, plain, rules), max_size=60),
)


@settings(max_examples=300, deadline=None)
@given(policies, st.data())
def test_a_program_answers_as_its_rules_do(policy: Policy, data: st.DataObject) -> None:
    program = decode(assemble(policy, "x86_64"))
    named = [number for number, _ in policy.calls]
    around = {n + d for n in named for d in (-1, 0, 1) if 0 <= n + d < 0x40000000} | {0, 0x3FFFFFFF}
    values = sorted({c.value for _, rs in policy.calls for r in rs for c in r.when} | set(EDGES))
    for number in around:
        args = tuple(data.draw(st.lists(st.sampled_from(values), min_size=6, max_size=6))) if number in named else (0,) * 6
        assert run(program, number, args) == interpret(policy, number, args)


@pytest.mark.parametrize("op", [*OPERATORS, "&=="])
def test_comparisons_are_right_at_every_32_and_64_bit_edge(op: str) -> None:
    for value in EDGES:
        for mask in (TOP, 0xFFFFFFFF, 0xFFFFFFFF << 32, 0x7E020000, 0) if op == "&==" else (TOP,):
            compare = Compare(3, op, value, mask)
            program = decode(assemble(Policy(ENOSYS, ((7, (Rule(ALLOW, (compare,)),)),)), "x86_64"))
            for argument in EDGES:
                args = (TOP, TOP, TOP, argument, TOP, TOP)
                assert (run(program, 7, args) == ALLOW) == holds(compare, args), (compare, hex(argument))


def test_a_foreign_architecture_is_killed_and_x32_numbers_do_not_exist() -> None:
    everything = Policy(ALLOW, ())
    on_x86, on_arm = decode(assemble(everything, "x86_64")), decode(assemble(everything, "aarch64"))
    for number in (0, 1, 20, 0x3FFFFFFF, 0x40000000, 0xFFFFFFFF):
        assert run(on_x86, number, arch=0x40000003) == KILL_PROCESS  # i386
        assert run(on_x86, number, arch=AARCH64) == KILL_PROCESS
        assert run(on_arm, number, arch=X86_64) == KILL_PROCESS
        assert run(on_x86, number) == (ENOSYS if number >= 0x40000000 else ALLOW)
        assert run(on_arm, number, arch=AARCH64) == ALLOW


def test_rules_far_apart_are_reached_by_long_jumps() -> None:
    """500 calls with blocks of their own: the program is longer than a conditional jump reaches, several times over."""
    calls = tuple((n, (Rule(errno(n % 4000 + 1), (Compare(n % 6, "==", n | 1 << 40),)), Rule(TRAP))) for n in range(0, 1000, 2))
    policy = Policy(ALLOW, calls)
    program = decode(assemble(policy, "x86_64"))
    assert len(program) > 2000
    for number in range(1002):
        for args in ((0,) * 6, (number | 1 << 40,) * 6, (number,) * 6):
            assert run(program, number, args) == interpret(policy, number, args)


def test_a_search_takes_logarithmic_steps() -> None:
    policy = Policy(ENOSYS, tuple((n, (Rule(errno(n % 7 + 1)),)) for n in range(512)))
    program = decode(assemble(policy, "x86_64"))
    assert max(walk(program, number)[1] for number in range(600)) <= 15


def test_neighbours_with_one_answer_share_one_range() -> None:
    policy = Policy(ENOSYS, tuple((n, (Rule(ALLOW),)) for n in range(300)))
    assert len(decode(assemble(policy, "x86_64"))) <= 10


def test_equal_rules_share_one_block() -> None:
    rule = (Rule(ALLOW, (Compare(0, "==", 5),)),)
    one = assemble(Policy(ENOSYS, ((10, rule),)), "aarch64")
    many = assemble(Policy(ENOSYS, tuple((n, rule) for n in range(10, 30))), "aarch64")
    assert len(many) - len(one) <= 8


def test_more_rules_than_the_kernel_takes_are_refused() -> None:
    rules = tuple(Rule(errno(n), (Compare(0, "==", n << 32 | n),)) for n in range(1, 1200))
    with pytest.raises(ValueError, match=r"needs \d+ instructions, the kernel takes 4096"):
        assemble(Policy(ALLOW, ((1, rules),)), "x86_64")


@pytest.mark.parametrize(
    ("index", "op", "value", "reason"),
    [
        (6, "==", 0, "argument 6 is not within 0 to 5"),
        (-1, "==", 0, "argument -1 is not within 0 to 5"),
        (0, "=", 0, "unknown comparison '='"),
        (0, "==", 1 << 64, "not an unsigned 64-bit number"),
        (0, "==", -1, "not an unsigned 64-bit number"),
    ],
)
def test_a_nonsensical_comparison_is_refused_at_birth(index: int, op: str, value: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        Compare(index, op, value)


def test_numbers_must_rise_and_errnos_fit() -> None:
    with pytest.raises(ValueError, match="numbers must rise"):
        Policy(ALLOW, ((2, (Rule(LOG),)), (1, (Rule(LOG),))))
    with pytest.raises(ValueError, match="numbers must rise"):
        Policy(ALLOW, ((2, (Rule(LOG),)), (2, (Rule(LOG),))))
    with pytest.raises(ValueError, match="errno 4096 is not within 0 to 4095"):
        errno(4096)


def test_instructions_are_struct_sock_filter() -> None:
    code = assemble(Policy(ALLOW, ()), "x86_64")
    assert struct.unpack_from("<HBBI", code) == (0x20, 0, 0, 4)  # the first thing it does is load the architecture
