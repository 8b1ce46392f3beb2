"""JSON profiles: what is accepted means what runc, crun and podman make of it; what is not is refused by name."""

from __future__ import annotations

import errno as errnos
import json

import pytest
from bpf_simulator import decode, run
from hypothesis import given, settings
from hypothesis import strategies as st

from pybox.errors import SpecError
from pybox.kernel.bpf import ALLOW, KILL_PROCESS, KILL_THREAD, LOG, TRAP, Policy, Rule, assemble, errno
from pybox.kernel.seccomp_json import Host, parse
from pybox.kernel.syscalls import numbers

NR = numbers("x86_64")
HOST = Host(frozenset({"CAP_CHOWN"}), "x86_64", (6, 18))


def meaning(profile: object, host: Host = HOST) -> Policy:
    return parse("p.json", json.dumps(profile), host)


def answer(profile: object, call: str, *args: int, host: Host = HOST) -> int:
    return run(decode(assemble(meaning(profile, host), "x86_64")), NR[call], args)


def allowing(**call: object) -> dict[str, object]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"action": "SCMP_ACT_ALLOW", **call}]}


def arg(index: int, op: str, value: int, second: int = 0) -> dict[str, object]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}


@pytest.mark.parametrize(
    ("action", "verdict"),
    [
        ("ALLOW", ALLOW),
        ("LOG", LOG),
        ("TRAP", TRAP),
        ("KILL", KILL_THREAD),
        ("KILL_THREAD", KILL_THREAD),
        ("KILL_PROCESS", KILL_PROCESS),
        ("ERRNO", errno(1)),
    ],
)
def test_every_action_means_its_verdict(action: str, verdict: int) -> None:
    assert answer({"defaultAction": f"SCMP_ACT_{action}"}, "read") == verdict
    profile = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 5,
        "syscalls": [{"names": ["read"], "action": f"SCMP_ACT_{action}"}],
    }
    assert answer(profile, "read") == verdict
    assert answer(profile, "write") == errno(5)


def test_errno_comes_as_number_or_name_and_the_name_wins() -> None:
    assert answer({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOSYS"}, "read") == errno(38)
    assert answer({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "defaultErrno": "ENOSYS"}, "read") == errno(38)
    call = {"names": ["read"], "action": "SCMP_ACT_ERRNO", "errnoRet": 0}
    assert answer({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}, "read") == errno(0)
    assert answer({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{**call, "errno": "EACCES"}]}, "read") == errno(errnos.EACCES)


def test_a_single_name_and_names_unknown_here_are_accepted() -> None:
    assert answer(allowing(name="read"), "read") == ALLOW
    assert answer(allowing(names=["s390_runtime_instr", "no_such_call", "read"]), "read") == ALLOW


@pytest.mark.parametrize(
    ("conditions", "applies"),
    [
        ({"includes": {"caps": ["CAP_CHOWN"]}}, True),
        ({"includes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_CHOWN", "CAP_SYS_ADMIN"]}}, False),
        ({"excludes": {"caps": ["CAP_SYS_ADMIN"]}}, True),
        ({"includes": {"arches": ["amd64", "x32"]}}, True),
        ({"includes": {"arches": ["arm64"]}}, False),
        ({"excludes": {"arches": ["amd64"]}}, False),
        ({"includes": {"minKernel": "4.8"}}, True),
        ({"includes": {"minKernel": "6.18"}}, True),
        ({"includes": {"minKernel": "6.19"}}, False),
        ({"includes": {"minKernel": "7.0"}}, False),
        ({"excludes": {"minKernel": "4.8"}}, False),
        ({"includes": {"caps": ["CAP_CHOWN"], "minKernel": "7.0"}}, False),
        ({"includes": {}, "excludes": {}}, True),
        ({"includes": None, "excludes": None, "args": None, "comment": ""}, True),
        ({"includes": {"arches": [], "caps": []}}, True),
    ],
)
def test_a_rule_holds_on_the_hosts_it_names(conditions: dict[str, object], applies: bool) -> None:
    assert answer(allowing(names=["read"], **conditions), "read") == (ALLOW if applies else errno(1))


def test_conditions_on_different_arguments_must_all_hold_and_on_the_same_one_of_them() -> None:
    both = allowing(names=["read"], args=[arg(0, "EQ", 1), arg(1, "EQ", 2)])
    assert [answer(both, "read", *args) == ALLOW for args in ((1, 2), (1, 3), (0, 2))] == [True, False, False]
    either = allowing(names=["read"], args=[arg(0, "EQ", 1), arg(0, "EQ", 2)])
    assert [answer(either, "read", first) == ALLOW for first in (1, 2, 3)] == [True, True, False]


def test_masked_eq_takes_the_mask_first() -> None:
    profile = allowing(names=["clone"], args=[arg(0, "MASKED_EQ", 0x7E020000, 0)])
    assert answer(profile, "clone", 0x1200011) == ALLOW
    assert answer(profile, "clone", 0x10000011) == errno(1)


def test_masked_eq_ignores_what_the_mask_leaves_out() -> None:
    """As seccomp_rule_add(3) has it: the masked argument equals the masked datum."""
    profile = allowing(names=["read"], args=[arg(0, "MASKED_EQ", 0xF0, 0x123)])
    assert [answer(profile, "read", first) == ALLOW for first in (0x23, 0x123, 0x13)] == [True, True, False]


def test_a_ban_that_could_not_hold_is_refused() -> None:
    """libseccomp would silently allow TIOCSTI here."""
    ban = {"names": ["ioctl"], "action": "SCMP_ACT_ERRNO", "args": [arg(1, "EQ", 0x5412)]}
    allow = {"names": ["read", "ioctl"], "action": "SCMP_ACT_ALLOW"}
    message = "ioctl has another answer, without conditions, in "
    for calls, later in (
        ([ban, allow], "syscalls[0]: " + message + "syscalls[1]"),
        ([allow, ban], "syscalls[1]: " + message + "syscalls[0]"),
    ):
        with pytest.raises(SpecError) as error:
            meaning({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls})
        assert later in str(error.value)


def test_repeated_rules_that_agree_are_accepted() -> None:
    calls = [
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW", "args": [arg(0, "EQ", 0)]},
        {"names": ["clone"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["clone", "clone"], "action": "SCMP_ACT_ALLOW"},
    ]
    assert answer({"defaultAction": "SCMP_ACT_ERRNO", "syscalls": calls}, "clone", 5) == ALLOW


def call(**fields: object) -> dict[str, object]:
    return {"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{"names": ["read"], "action": "SCMP_ACT_ALLOW"}, fields]}


READ = {"names": ["read"], "action": "SCMP_ACT_ALLOW"}
MALFORMED: list[tuple[object, str]] = [
    ([], "profile: must be an object"),
    ("x", "profile: must be an object"),
    (None, "profile: must be an object"),
    ({}, "profile: defaultAction is missing"),
    ({"syscalls": []}, "profile: defaultAction is missing"),
    ({"defaultAction": None}, "profile: defaultAction is missing"),
    ({"ociVersion": "1.0.2"}, "profile: unknown key 'ociVersion'"),
    ({"defaultAction": 1}, "defaultAction: must be a non-empty string"),
    ({"defaultAction": "ALLOW"}, "defaultAction: unknown action 'ALLOW'"),
    ({"defaultAction": "SCMP_ACT_TRACE"}, "defaultAction: SCMP_ACT_TRACE is not supported: no tracer is attached"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}, "defaultErrnoRet: SCMP_ACT_ALLOW returns no errno"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 4096}, "defaultErrnoRet: must be a whole number from 0 to 4095"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "ENOPE"}, "defaultErrno: unknown errno 'ENOPE'"),
    ({"defaultAction": "SCMP_ACT_ERRNO", "defaultErrno": "errorcode"}, "defaultErrno: unknown errno 'errorcode'"),
    ({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": {}}, "syscalls: must be a list"),
    (
        {"defaultAction": "SCMP_ACT_ALLOW", "flags": ["SECCOMP_FILTER_FLAG_LOG"]},
        "flags[0]: unknown value 'SECCOMP_FILTER_FLAG_LOG'",
    ),
    ({"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/x"}, "listenerPath: no agent is supported"),
    (call(), "syscalls[1]: needs either names or name"),
    (call(names=["read"], name="read", action="SCMP_ACT_ALLOW"), "syscalls[1]: needs either names or name"),
    (call(names=[], action="SCMP_ACT_ALLOW"), "syscalls[1].names: must name a system call"),
    (call(names="read", action="SCMP_ACT_ALLOW"), "syscalls[1].names: must be a list"),
    (call(names=["read", 3], action="SCMP_ACT_ALLOW"), "syscalls[1].names[1]: must be a non-empty string"),
    (call(names=[""], action="SCMP_ACT_ALLOW"), "syscalls[1].names[0]: must be a non-empty string"),
    (call(names=["read"]), "syscalls[1]: action is missing"),
    (
        call(names=["read"], action="SCMP_ACT_NOTIFY"),
        "syscalls[1].action: SCMP_ACT_NOTIFY is not supported: no agent is listening",
    ),
    (call(names=["read"], action="SCMP_ACT_ERRNO", errnoRet=-1), "syscalls[1].errnoRet: must be a whole number"),
    (call(names=["read"], action="SCMP_ACT_ERRNO", errnoRet=True), "syscalls[1].errnoRet: must be a whole number"),
    (call(names=["read"], action="SCMP_ACT_KILL", errnoRet=1), "syscalls[1].errnoRet: SCMP_ACT_KILL returns no errno"),
    (call(**READ, arg=[]), "syscalls[1]: unknown key 'arg' (known: names, name, action"),
    (call(**READ, args={}), "syscalls[1].args: must be a list"),
    (call(**READ, args=[{}]), "syscalls[1].args[0]: index is missing"),
    (call(**READ, args=[{"index": 0, "value": 0}]), "syscalls[1].args[0]: op is missing"),
    (call(**READ, args=[{"index": 0, "op": "SCMP_CMP_EQ"}]), "syscalls[1].args[0]: value is missing"),
    (call(**READ, args=[arg(6, "EQ", 0)]), "syscalls[1].args[0].index: must be a whole number from 0 to 5"),
    (call(**READ, args=[arg(0, "IS", 0)]), "syscalls[1].args[0].op: unknown value 'SCMP_CMP_IS'"),
    (call(**READ, args=[arg(0, "EQ", 1 << 64)]), "syscalls[1].args[0].value: must be a whole number"),
    (call(**READ, args=[arg(0, "EQ", -1)]), "syscalls[1].args[0].value: must be a whole number"),
    (call(**READ, args=[{**arg(0, "EQ", 0), "value": 1.5}]), "syscalls[1].args[0].value: must be a whole number"),
    (call(**READ, includes={"cap": ["CAP_CHOWN"]}), "syscalls[1].includes: unknown key 'cap' (known: caps, arches, minKernel)"),
    (call(**READ, includes={"caps": ["chown"]}), "syscalls[1].includes.caps[0]: not a capability: 'chown'"),
    (call(**READ, excludes={"minKernel": "4"}), "syscalls[1].excludes.minKernel: not a kernel version: '4'"),
    (call(**READ, excludes={"minKernel": "4.x"}), "syscalls[1].excludes.minKernel: not a kernel version: '4.x'"),
    (call(**READ, excludes={"minKernel": 4.8}), "syscalls[1].excludes.minKernel: must be a non-empty string"),
]


@pytest.mark.parametrize(("profile", "complaint"), MALFORMED, ids=[complaint for _, complaint in MALFORMED])
def test_a_malformed_profile_is_refused_by_place_and_reason(profile: object, complaint: str) -> None:
    with pytest.raises(SpecError) as error:
        meaning(profile)
    assert str(error.value).startswith(f"security-opt: 'seccomp=p.json': {complaint}")


@pytest.mark.parametrize(
    "text", ["", "{", "nope", '{"defaultAction": "SCMP_ACT_ALLOW"} x', "\ufeff{}", "[" * 200_000, "9" * 10_000]
)
def test_text_that_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(
        SpecError, match=r"^security-opt: 'seccomp=p.json': profile: (not JSON: |nested too deeply|must be an object)"
    ):
        parse("p.json", text, HOST)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
KEYS = [
    "defaultAction",
    "defaultErrnoRet",
    "defaultErrno",
    "syscalls",
    "names",
    "action",
    "args",
    "listenerPath",
    "flags",
    "archMap",
]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_a_profile_with_a_broken_part_is_accepted_or_refused_but_never_crashes(data: st.DataObject) -> None:
    whole = {
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "flags": [],
        "syscalls": [
            {
                "names": ["read", "write"],
                "action": "SCMP_ACT_ALLOW",
                "args": [arg(0, "EQ", 1)],
                "includes": {"caps": ["CAP_CHOWN"], "arches": ["amd64"], "minKernel": "4.8"},
            }
        ],
    }
    node: object = whole
    while True:
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else list(range(len(node)))))  # type: ignore[arg-type]
        inner = node[key]  # type: ignore[index]
        if not isinstance(inner, dict | list) or not inner or data.draw(st.booleans()):
            node[key] = data.draw(json_values)  # type: ignore[index]
            break
        node = inner
    if data.draw(st.booleans()):
        whole[data.draw(st.sampled_from(KEYS))] = data.draw(json_values)
    try:
        decode(assemble(meaning(whole), "x86_64"))
    except SpecError as error:
        assert "\n" not in str(error) and "seccomp=p.json" in str(error)


def test_what_is_parsed_is_a_plain_policy() -> None:
    assert meaning(allowing(names=["write", "read"])) == Policy(errno(1), ((0, (Rule(ALLOW),)), (1, (Rule(ALLOW),))))
