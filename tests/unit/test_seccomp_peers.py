"""The same profile by three readers: pybox's compiler, its JSON read directly, and libseccomp used as runc uses it."""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import tempfile
from pathlib import Path

import pytest
from bpf_simulator import AARCH64, decode, run
from hypothesis import given, settings
from hypothesis import strategies as st

from pybox.errors import SpecError
from pybox.kernel.bpf import ALLOW, LOG, Policy, assemble, errno
from pybox.kernel.seccomp_json import FIXED, OPERATORS, Host, parse
from pybox.kernel.syscalls import numbers

NR = numbers("x86_64")
HOST = Host(frozenset({"CAP_CHOWN"}), "x86_64", (6, 18))
PODMANS = Path("/usr/share/containers/seccomp.json")
TOP = (1 << 64) - 1
WORDS = [0, 1, 2, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 32, (1 << 32) + 1, 0xFFFFFFFF << 32, 1 << 63, TOP]


def meaning(profile: object) -> Policy:
    return parse("p.json", json.dumps(profile), HOST)


def arg(index: int, op: str, value: int, second: int = 0) -> dict[str, object]:
    return {"index": index, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": second}


CALLS = ["read", "write", "clone", "ioctl", "file_setattr", "execveat"]
actions = st.sampled_from([*sorted(FIXED), "SCMP_ACT_ERRNO"])
args_ = st.lists(
    st.builds(
        arg, st.integers(0, 5), st.sampled_from([op.removeprefix("SCMP_CMP_") for op in OPERATORS]), *[st.sampled_from(WORDS)] * 2
    ),
    max_size=3,
    unique_by=lambda a: a["index"],
)


def element(names: list[str], action: str, code: int, args: object) -> dict[str, object]:
    return {"names": names, "action": action, "args": args, **({"errnoRet": code} if action == "SCMP_ACT_ERRNO" else {})}


def profiles(calls: st.SearchStrategy[list[str]], **limits: object) -> st.SearchStrategy[dict[str, object]]:
    elements = st.lists(st.builds(element, calls, actions, st.integers(2, 40), args_), **limits)  # type: ignore[arg-type]
    return st.builds(lambda default, found: {"defaultAction": default, "syscalls": found}, actions, elements)


def compare(op: str, left: int, value: int, second: int) -> bool:
    match op.removeprefix("SCMP_CMP_"):
        case "EQ":
            return left == value
        case "NE":
            return left != value
        case "LT":
            return left < value
        case "LE":
            return left <= value
        case "GT":
            return left > value
        case "GE":
            return left >= value
        case _:
            return left & value == second & value


def read_directly(profile: dict[str, object], name: str, args: list[int]) -> int:
    def verdict(action: str, code: int) -> int:
        return errno(code) if action == "SCMP_ACT_ERRNO" else FIXED[action]

    default = verdict(str(profile["defaultAction"]), 1)
    conditional = default
    for item in profile["syscalls"]:  # type: ignore[attr-defined]
        if name in item["names"]:
            mine = verdict(item["action"], item.get("errnoRet", 1))
            if not item["args"] and mine != default:
                return mine
            if (
                item["args"]
                and conditional == default
                and all(compare(a["op"], args[a["index"]], a["value"], a["valueTwo"]) for a in item["args"])
            ):
                conditional = mine
                break
    return conditional


@settings(max_examples=300, deadline=None)
@given(profiles(st.lists(st.sampled_from(CALLS), min_size=1, max_size=3), max_size=5), st.data())
def test_a_random_profile_compiles_to_what_its_json_says(profile: dict[str, object], data: st.DataObject) -> None:
    try:
        program = decode(assemble(meaning(profile), "x86_64"))
    except SpecError as error:
        assert "only one of the two can hold" in str(error)
        return
    for name in [*CALLS, "openat"]:
        args = data.draw(st.lists(st.sampled_from(WORDS), min_size=6, max_size=6))
        assert run(program, NR[name], args) == read_directly(profile, name, args), name


class ScmpArg(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]


LIBSECCOMP = ctypes.util.find_library("seccomp")


def compiled_by_libseccomp(profile: dict[str, object]) -> bytes:
    """Do what runc does with a profile: one rule per name, none for the default's own action."""
    lib = ctypes.CDLL(LIBSECCOMP)
    lib.seccomp_init.restype = ctypes.c_void_p

    def act(action: str, code: int) -> int:
        return errno(code) if action == "SCMP_ACT_ERRNO" else FIXED[action]

    default = act(str(profile["defaultAction"]), 1)
    context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))
    assert context
    for item in profile["syscalls"]:  # type: ignore[attr-defined]
        verdict = act(item["action"], item.get("errnoRet", 1))
        if verdict == default:
            continue
        order = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"]
        array = (ScmpArg * 6)(
            *(ScmpArg(a["index"], order.index(a["op"][9:]) + 1, a["value"], a["valueTwo"]) for a in item["args"]),
        )
        for name in item["names"]:
            number = ctypes.c_int(NR[name])
            assert lib.seccomp_rule_add_array(context, ctypes.c_uint32(verdict), number, len(item["args"]), array) == 0
    with tempfile.TemporaryFile() as file:
        assert lib.seccomp_export_bpf(context, file.fileno()) == 0
        lib.seccomp_release(context)
        return os.pread(file.fileno(), 1 << 20, 0)


@pytest.mark.skipif(LIBSECCOMP is None, reason="libseccomp2 is not installed")
@settings(max_examples=200, deadline=None)
@given(profiles(st.sampled_from(CALLS).map(lambda name: [name]), max_size=5, unique_by=lambda c: c["names"][0]), st.data())
def test_libseccomp_makes_the_same_of_a_profile(profile: dict[str, object], data: st.DataObject) -> None:
    theirs, ours = decode(compiled_by_libseccomp(profile)), decode(assemble(meaning(profile), "x86_64"))
    for name in [*CALLS, "openat", "mount"]:
        for _ in range(3):
            args = data.draw(st.lists(st.sampled_from(WORDS), min_size=6, max_size=6))
            assert run(ours, NR[name], args) == run(theirs, NR[name], args), (name, args)


@pytest.mark.skipif(not PODMANS.exists(), reason=f"no {PODMANS} (golang-github-containers-common)")
class TestPodmansInstalledProfile:
    @pytest.mark.parametrize("caps", [frozenset(), HOST.caps, frozenset({"CAP_SYS_ADMIN", "CAP_AUDIT_WRITE", "CAP_SYS_CHROOT"})])
    def test_every_call_has_the_verdict_that_libseccomp_gives(self, caps: frozenset[str]) -> None:
        if LIBSECCOMP is None:
            pytest.skip("libseccomp2 is not installed")
        profile = json.loads(PODMANS.read_text())
        calls = []
        for item in profile["syscalls"]:
            includes, excludes = item["includes"], item["excludes"]
            if (
                not set(includes.get("caps", ())) <= caps
                or set(excludes.get("caps", ())) & caps
                or "amd64" not in includes.get("arches", ["amd64"])
            ):
                continue
            calls.append({**item, "names": [name for name in item["names"] if name in NR], "args": item["args"] or []})
        # libseccomp's default errno is set by its first argument; the helper above knows only EPERM
        theirs = decode(compiled_by_libseccomp({"defaultAction": "SCMP_ACT_LOG", "syscalls": calls}))
        ours = decode(assemble(parse("p", PODMANS.read_text(), Host(caps, "x86_64", (6, 18))), "x86_64"))
        for name, number in NR.items():
            for args in ((), (16, 3, 9), (16, 3, 0), (2, 1, 9), (8,), (0x20008,), (0xFFFFFFFF,), (7,)):
                expected = run(theirs, number, args)
                assert run(ours, number, args) == (errno(38) if expected == LOG else expected), (name, args)

    def test_it_also_holds_on_aarch64(self) -> None:
        program = decode(assemble(parse("p", PODMANS.read_text(), Host(frozenset(), "aarch64", (6, 1))), "aarch64"))
        arm = numbers("aarch64")
        assert run(program, arm["openat"], (), AARCH64) == ALLOW
        assert run(program, arm["bpf"], (), AARCH64) == errno(1)
        assert run(program, arm["futex_waitv"], (), AARCH64) in (ALLOW, errno(38))
