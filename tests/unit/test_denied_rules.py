"""What a filter would refuse is decided as the filter decides it, and told with its rule and the option that allows it."""

from __future__ import annotations

import errno

import pytest
from bpf_simulator import decode, run
from hypothesis import given, settings
from hypothesis import strategies as st

from pybox.cli.denied import lines
from pybox.explain.denied import Call, Denial, asking, decide, show, told
from pybox.kernel import bpf
from pybox.kernel.seccomp_profile import TABLE, policy
from pybox.kernel.syscalls import numbers

RULES = policy(frozenset({"CAP_CHOWN"}), "x86_64")
FILTER, ASKING = decode(bpf.assemble(RULES, "x86_64")), decode(bpf.assemble(asking(RULES), "x86_64"))
NUMBERS = sorted(numbers("x86_64").values())
ARGUMENTS = st.lists(
    st.sampled_from([0, 1, 2, 8, 0x5412, 0x541C, 0x10000000, 0x7E020000, 0xFFFFFFFF, 1 << 32 | 0x5412]), min_size=6, max_size=6
)


@settings(max_examples=400)
@given(st.sampled_from(NUMBERS) | st.integers(0, 0x3FFFFFFF), ARGUMENTS)
def test_a_call_is_answered_as_the_filter_would_have(number: int, arguments: list[int]) -> None:
    real, asked = run(FILTER, number, arguments), run(ASKING, number, arguments)
    assert decide(RULES, number, arguments) == real
    assert asked == (real if bpf.errno_of(real) is None else bpf.USER_NOTIF)


@pytest.mark.parametrize("op", ["==", "!=", "<", "<=", ">", ">=", "&=="])
@pytest.mark.parametrize("value", [4, 5, 6])
def test_every_comparison_of_a_profile_is_decided_as_the_filter_does(op: str, value: int) -> None:
    rules = bpf.Policy(bpf.ALLOW, ((7, (bpf.Rule(bpf.errno(errno.EPERM), (bpf.Compare(0, op, 5),)),)),))
    program = decode(bpf.assemble(rules, "x86_64"))
    assert decide(rules, 7, [value]) == run(program, 7, [value])


def test_verdicts_that_kill_are_left_to_the_kernel() -> None:
    rules = bpf.Policy(bpf.KILL_PROCESS, ((1, (bpf.Rule(bpf.TRAP),)), (2, (bpf.Rule(bpf.errno(1)),))))
    assert asking(rules) == bpf.Policy(bpf.KILL_PROCESS, ((1, (bpf.Rule(bpf.TRAP),)), (2, (bpf.Rule(bpf.USER_NOTIF),))))


def call(name: str, number: int = errno.EPERM) -> Call:
    """Return a refused call."""
    return Call(name, numbers("x86_64").get(name, 999), "0x1", bpf.errno(number), "prog")


@pytest.mark.parametrize(
    ("name", "number", "rule", "allow"),
    [
        ("mount", errno.EPERM, "new namespaces and mounts", "--cap-add SYS_ADMIN (the kernel"),
        ("bpf", errno.EPERM, "programs inside the kernel", "--cap-add BPF or --cap-add SYS_ADMIN (the kernel"),
        ("keyctl", errno.EPERM, "keyrings are shared", "--security-opt seccomp=unconfined, or a profile of your own"),
        ("clone3", errno.ENOSYS, "its flags are in memory", "seldom needed, for programs do without; else --cap-add SYS_ADMIN"),
        ("ioctl", errno.EPERM, "TIOCSTI types into the terminal", "--security-opt seccomp=unconfined"),
        ("not_a_call", errno.ENOSYS, "the table does not name it", "--security-opt seccomp=unconfined"),
    ],
)
def test_a_refused_call_is_told_its_rule_and_the_option_that_allows_it(name: str, number: int, rule: str, allow: str) -> None:
    found = told(call(name, number), None)
    assert found[0].startswith(rule) and found[1].startswith(allow)


def test_every_call_of_the_profile_that_is_not_always_allowed_can_be_told() -> None:
    for entry in TABLE:
        for name in entry.calls.split():
            rule, allow = told(call(name), None)
            assert rule and allow.startswith("--")


def test_a_profile_of_the_users_is_named() -> None:
    assert told(call("mount"), "/p.json") == (
        "a rule of /p.json",
        "another rule for mount in /p.json; or --security-opt seccomp=unconfined",
    )


def test_arguments_are_shown_as_strace_would() -> None:
    texts = {10: "none", 11: "a\x1b"}
    assert show("sssxs", [10, 11, 12, 0x8000, 0], texts.get) == '"none", "a\x1b", 0xc, 0x8000, NULL'
    assert show("dpx", [0xFFFFFFFF, 0, 0], texts.get) == "-1, NULL, 0x0"


def test_the_report_is_harmless_for_a_terminal_and_says_when_nothing_was_refused() -> None:
    denial = Denial(Call("mount", 165, '"\x1b[2J"', bpf.errno(1), "e\nvil"), 3, "a rule", "a flag")
    text = "\n".join(lines([denial]))
    assert '  mount("\\x1b[2J") = EPERM   by e\\nvil   3 times\n      rule    a rule\n      allow   a flag' in text
    assert "refused nothing" in next(lines([]))
