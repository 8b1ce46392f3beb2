"""The kernel agrees: programs loaded in a forked child, real calls, real errnos. Needs no privileges."""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pybox.kernel.seccomp import program
from pybox.kernel.syscalls import numbers

MACHINE = platform.machine()
PODMANS = "/usr/share/containers/seccomp.json"
PR_SET_NO_NEW_PRIVS, PR_GET_SECCOMP = 38, 21
SECCOMP_SET_MODE_FILTER = 1
NOBODY = 65534

if MACHINE not in ("x86_64", "aarch64"):
    pytest.skip(f"no seccomp program for {MACHINE}", allow_module_level=True)

NR = numbers(MACHINE)
LIBC = ctypes.CDLL(None, use_errno=True)


class Filter(ctypes.Structure):
    _fields_ = [("len", ctypes.c_ushort), ("filter", ctypes.c_char_p)]


def load(code: bytes) -> float:
    """Load a program for the calling thread; returns the seconds that took."""
    if LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_NO_NEW_PRIVS")
    loaded = Filter(len(code) // 8, code)
    start = time.perf_counter()
    if LIBC.syscall(NR["seccomp"], SECCOMP_SET_MODE_FILTER, 0, ctypes.byref(loaded)):
        raise OSError(ctypes.get_errno(), "SECCOMP_SET_MODE_FILTER")
    return time.perf_counter() - start


def call(name: str | int, *args: int) -> int:
    """Make a system call; returns 0 or its errno."""
    ctypes.set_errno(0)
    number = NR[name] if isinstance(name, str) else name
    done = LIBC.syscall(ctypes.c_long(number), *(ctypes.c_ulong(value) for value in args))
    return ctypes.get_errno() if done == -1 else 0


def confined(code: bytes, act: Callable[[], object]) -> object:
    """Return what ``act`` returns in a child under the program, or {"signal": n} for what killed it."""
    out, into = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(out)
            if os.geteuid() == 0:  # so that EPERM from the filter is not mistaken for root's success, or the kernel's refusal
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
            load(code)
            os.write(into, json.dumps(act()).encode())
        except BaseException as error:
            os.write(into, json.dumps({"error": repr(error)}).encode())
        os._exit(0)
    os.close(into)
    with open(out, "rb") as said:
        text = said.read()
    _, status = os.waitpid(child, 0)
    return {"signal": os.WTERMSIG(status)} if os.WIFSIGNALED(status) else json.loads(text)


@pytest.fixture(scope="module")
def default(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return program(str(tmp_path_factory.mktemp("cache")), None, frozenset(), MACHINE)


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("getppid", (), 0),
        ("mount", (0, 0, 0, 0, 0), errno.EPERM),
        ("unshare", (0x10000000,), errno.EPERM),  # CLONE_NEWUSER, which any user may ask for
        ("unshare", (0x400,), 0),  # CLONE_FILES
        ("clone", (0x10000011, 0, 0, 0, 0), errno.EPERM),
        ("clone3", (0, 0), errno.ENOSYS),
        ("setns", (0, 0), errno.EPERM),
        ("io_uring_setup", (1, 0), errno.EPERM),
        ("keyctl", (0, 0, 0, 0, 0), errno.EPERM),
        ("userfaultfd", (1,), errno.EPERM),
        ("bpf", (0, 0, 0), errno.EPERM),
        ("perf_event_open", (0, 0, 0, 0, 0), errno.EPERM),
        ("ptrace", (0x4206, 0, 0, 0), errno.ESRCH),  # PTRACE_SEIZE of nobody: the kernel itself answers
        ("personality", (0xFFFFFFFF,), 0),
        ("personality", (0x40000,), errno.EPERM),
        ("socket", (38, 5, 0), errno.EPERM),
        ("socket", (38 | 1 << 32, 5, 0), errno.EPERM),
        ("socket", (40, 1, 0), errno.EPERM),
        ("socket", (1, 1, 0), 0),
        ("ioctl", (99, 0x5412, 0), errno.EPERM),  # TIOCSTI: refused before the kernel sees that 99 is closed
        ("ioctl", (99, 0x5412 | 1 << 32, 0), errno.EPERM),
        ("ioctl", (99, 0x541C, 0), errno.EPERM),
        ("ioctl", (99, 0x5413, 0), errno.EBADF),
        ("lookup_dcookie", (0, 0, 0), errno.ENOSYS),
        (1000, (), errno.ENOSYS),
    ],
)
def test_a_call_under_the_default_program_gets_its_errno(
    default: bytes, name: str | int, args: tuple[int, ...], expected: int
) -> None:
    assert confined(default, lambda: call(name, *args)) == expected


def test_programs_still_start_threads_sockets_and_children(default: bytes) -> None:
    def work() -> object:
        with socket.socketpair()[0]:
            pass
        child = os.fork()
        if child == 0:
            os.execv("/bin/sh", ["sh", "-c", "ls / | grep -q proc && exit 7"])
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), LIBC.prctl(PR_GET_SECCOMP, 0, 0, 0, 0)]

    assert confined(default, work) == [7, 2]


def test_glibc_makes_threads_without_clone3(default: bytes) -> None:
    def work() -> list[int]:
        from threading import Thread

        seen: list[int] = []
        threads = [Thread(target=seen.append, args=(n,)) for n in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sorted(seen)

    assert confined(default, work) == [0, 1, 2]


@pytest.mark.skipif(MACHINE != "x86_64", reason="x32 and int 0x80 are x86_64's")
class TestOtherTablesOfX8664:
    def test_x32_numbers_do_not_exist(self, default: bytes) -> None:
        assert confined(default, lambda: call(0x40000000 | NR["getppid"])) == errno.ENOSYS

    def test_32_bit_calls_kill_the_process(self, default: bytes) -> None:
        code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (i386 getpid); int 0x80; ret
        enter = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
        assert confined(default, enter) == {"signal": signal.SIGSYS}


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ({"action": "SCMP_ACT_ERRNO", "errnoRet": 95}, 95),
        ({"action": "SCMP_ACT_KILL_PROCESS"}, {"signal": signal.SIGSYS}),
        ({"action": "SCMP_ACT_KILL"}, {"signal": signal.SIGSYS}),
        ({"action": "SCMP_ACT_TRAP"}, {"signal": signal.SIGSYS}),
        ({"action": "SCMP_ACT_LOG"}, errno.EBADF),
        ({"action": "SCMP_ACT_ALLOW"}, errno.EBADF),
    ],
)
def test_a_json_profiles_action_is_what_happens(tmp_path: Path, action: dict[str, object], expected: object) -> None:
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["fchdir"], **action}]}
    (tmp_path / "p.json").write_text(json.dumps(profile))
    code = program(str(tmp_path / "cache"), str(tmp_path / "p.json"), frozenset(), MACHINE)
    assert confined(code, lambda: call("fchdir", 99)) == expected


@pytest.mark.parametrize("op", ["EQ", "NE", "LT", "LE", "GE", "GT", "MASKED_EQ"])
def test_the_kernel_compares_64_bit_arguments_as_we_do(tmp_path: Path, op: str) -> None:
    import operator

    value, mask = 0x100000005, 0xFFFFFFFFF
    compare: dict[str, Callable[[int, int], bool]] = {
        "EQ": operator.eq, "NE": operator.ne, "LT": operator.lt, "LE": operator.le, "GE": operator.ge, "GT": operator.gt,
        "MASKED_EQ": lambda left, right: left & mask == right,
    }  # fmt: skip
    condition = {"index": 2, "op": f"SCMP_CMP_{op}", "value": value, "valueTwo": 0}
    if op == "MASKED_EQ":
        condition |= {"value": mask, "valueTwo": value}
    profile = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"name": "fchdir", "action": "SCMP_ACT_ERRNO", "errnoRet": 77, "args": [condition]}],
    }
    (tmp_path / "p.json").write_text(json.dumps(profile))
    code = program(str(tmp_path / "cache"), str(tmp_path / "p.json"), frozenset(), MACHINE)
    arguments = [0, 5, 0x100000004, value, 0x100000006, 0x200000005, 0xF000000000000005, 0x1000000100000005, (1 << 64) - 1]
    expected = [77 if compare[op](argument, value) else errno.EBADF for argument in arguments]
    assert confined(code, lambda: [call("fchdir", 99, 0, argument) for argument in arguments]) == expected


def test_podmans_installed_profile_loads_and_holds(tmp_path: Path) -> None:
    if not os.path.exists(PODMANS):
        pytest.skip(f"no {PODMANS} (golang-github-containers-common)")
    code = program(str(tmp_path), PODMANS, frozenset(), MACHINE)
    assert confined(code, lambda: [call("bpf", 0, 0, 0), call("getppid"), call(1000)]) == [errno.EPERM, 0, errno.ENOSYS]


def test_the_price_of_loading_is_printed(tmp_path: Path, default: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    """Figures only: the machine is too noisy for a bar. Compiling is timed cold, loading in fresh children."""
    compile_start = time.perf_counter()
    program(str(tmp_path), None, frozenset(), MACHINE)
    compiled = time.perf_counter()
    program(str(tmp_path), None, frozenset(), MACHINE)
    cached = time.perf_counter()

    def loading(code: bytes) -> float:
        taken = [confined(code, lambda: load(code)) for _ in range(20)]
        assert all(isinstance(seconds, float) for seconds in taken)
        return min(taken) * 1e6  # type: ignore[type-var,operator]

    with capsys.disabled():
        print(
            f"\nseccomp: compile {1e3 * (compiled - compile_start):.1f} ms, from cache {1e6 * (cached - compiled):.0f} us, "
            f"load {loading(default):.0f} us ({len(default) // 8} instructions)",
            end="",
        )
        if os.path.exists(PODMANS):
            podmans = program(str(tmp_path), PODMANS, frozenset(), MACHINE)
            print(f"; podman's profile {loading(podmans):.0f} us ({len(podmans) // 8})")
