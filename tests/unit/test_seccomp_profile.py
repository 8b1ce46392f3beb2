"""pybox's own profile: what it says of every call there is, and that its short cuts are in step with it."""

from __future__ import annotations

import hashlib
import itertools
import runpy
import shutil
from collections.abc import Iterable
from functools import cache
from pathlib import Path

import pytest
from bpf_simulator import ARCH, Program, decode, run, walk

from pybox.kernel import seccomp
from pybox.kernel.bpf import ALLOW, Rule, assemble, errno
from pybox.kernel.seccomp_profile import TABLE, policy
from pybox.kernel.syscalls import numbers

EPERM, ENOSYS = errno(1), errno(38)


def words(text: str) -> list[str]:
    return text.split()


GATES = frozenset(seccomp.GATES.split())
PODMANS = frozenset(
    words("""
    CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_NET_BIND_SERVICE CAP_SETFCAP CAP_SETGID CAP_SETPCAP
    CAP_SETUID CAP_SYS_CHROOT
""")
)

# Calls no kernel of today implements, or that only programs of the nineties make: left to the default.
OBSOLETE = frozenset(
    words("""
    _sysctl afs_syscall create_module epoll_ctl_old epoll_wait_old get_kernel_syms getpmsg lookup_dcookie nfsservctl putpmsg
    query_module security sysfs tuxcall uselib ustat vserver
""")
)

# What a job of the default capabilities is told when it calls these with zeroes; everything else it may call.
DENIED = frozenset(
    words("""
    acct add_key bpf clock_settime delete_module fanotify_init finit_module fsconfig fsmount fsopen fspick init_module
    io_uring_enter io_uring_register io_uring_setup ioperm iopl kcmp kexec_file_load kexec_load keyctl listns
    lsm_set_self_attr migrate_pages modify_ldt mount mount_setattr move_mount move_pages open_by_handle_at open_tree
    open_tree_attr perf_event_open pidfd_getfd pivot_root process_madvise quotactl quotactl_fd reboot request_key
    setdomainname sethostname setns settimeofday swapoff swapon syslog umount2 userfaultfd vhangup
""")
)


@cache
def compiled(caps: frozenset[str], machine: str = "x86_64") -> Program:
    return decode(assemble(policy(caps, machine), machine))


def verdict(call: str, *args: int, caps: Iterable[str] = PODMANS, machine: str = "x86_64") -> int:
    return run(compiled(frozenset(caps), machine), numbers(machine)[call], args, ARCH[machine])


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_every_call_of_the_kernel_has_the_answer_written_here(machine: str) -> None:
    for call in numbers(machine):
        expected = ENOSYS if call in OBSOLETE | {"clone3"} else EPERM if call in DENIED else ALLOW
        assert verdict(call, machine=machine) == expected, call


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_a_number_without_a_call_is_enosys(machine: str) -> None:
    known = set(numbers(machine).values())
    for number in [*range(1200), 0x3FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF]:
        if number not in known:
            assert run(compiled(PODMANS, machine), number, (), ARCH[machine]) == ENOSYS


OPENS = {
    "CAP_SYS_ADMIN": "mount umount2 pivot_root fsopen open_tree move_mount setns clone3 bpf perf_event_open syslog quotactl",
    "OWN_NAMESPACES": "mount umount2 pivot_root fsopen open_tree move_mount setns clone3",
    "CAP_BPF": "bpf",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_SYS_PTRACE": "kcmp pidfd_getfd process_madvise",
    "CAP_SYS_NICE": "move_pages migrate_pages",
    "CAP_SYS_TIME": "settimeofday clock_settime",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "init_module finit_module delete_module",
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}


@pytest.mark.parametrize("cap", sorted(GATES))
def test_a_granted_capability_opens_its_calls_and_no_other_does(cap: str) -> None:
    for call in OPENS[cap].split():
        openers = {opener for opener, calls in OPENS.items() if call in calls.split()}
        assert verdict(call, caps={cap}) == ALLOW, call
        assert verdict(call, caps=GATES - openers) in (EPERM, ENOSYS), call


@pytest.mark.parametrize("call", words("io_uring_setup keyctl add_key request_key userfaultfd kexec_load swapon modify_ldt"))
def test_no_capability_opens_the_known_dangerous_calls(call: str) -> None:
    assert verdict(call, caps=GATES) == EPERM


NEW = {
    "NS": 0x20000,
    "CGROUP": 0x2000000,
    "UTS": 0x4000000,
    "IPC": 0x8000000,
    "USER": 0x10000000,
    "PID": 0x20000000,
    "NET": 0x40000000,
}


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_clone_makes_processes_and_threads_but_no_namespace(machine: str) -> None:
    fork, thread = 0x1200011, 0x3D0F00  # what glibc asks for
    for flags in (fork, thread, 0x4111):
        assert verdict("clone", flags, machine=machine) == ALLOW
        for new, upper in itertools.product(NEW.values(), (0, 1 << 32, 1 << 63)):
            assert verdict("clone", flags | new | upper, machine=machine) == EPERM
            assert verdict("clone", flags | new, caps={"CAP_SYS_ADMIN"}, machine=machine) == ALLOW


def test_unshare_parts_with_files_but_makes_no_namespace() -> None:
    assert verdict("unshare", 0x400 | 0x200) == ALLOW  # CLONE_FILES | CLONE_FS
    for new in (*NEW.values(), 0x80):
        assert verdict("unshare", new) == EPERM
        assert verdict("unshare", 0x400 | new) == EPERM
        assert verdict("unshare", new, caps={"CAP_SYS_ADMIN"}) == ALLOW


def test_clone3_seems_not_to_exist_so_that_libc_uses_clone() -> None:
    assert verdict("clone3", 0x7FFF0000, 88) == ENOSYS


@pytest.mark.parametrize("upper", [0, 1 << 32, 0xFFFFFFFF << 32])
def test_forbidden_ioctls_and_sockets_cannot_hide_behind_the_upper_half(upper: int) -> None:
    """The kernel reads these arguments as 32-bit ints (CVE-2019-10063)."""
    for request in (0x5412, 0x541C):
        assert verdict("ioctl", 0, request | upper) == EPERM
        assert verdict("ioctl", 0, request | upper, caps=GATES) == EPERM
    for request in (0x5401, 0x5413, 0x5411, 0x541B, 0x541D):
        assert verdict("ioctl", 0, request | upper) == ALLOW
    for family in (38, 40):
        assert verdict("socket", family | upper, 1, 0) == EPERM
    for family in (1, 2, 10, 16, 17, 37, 39, 41):
        assert verdict("socket", family | upper, 1, 0) == ALLOW


def test_personality_is_only_what_harms_no_memory_layout() -> None:
    for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF):
        assert verdict("personality", value) == ALLOW
    for value in (0x40000, 0x400000, 0x20009, 1, 0xFFFFFFFE):  # ADDR_NO_RANDOMIZE, READ_IMPLIES_EXEC
        assert verdict("personality", value) == EPERM


def test_the_table_names_no_call_that_does_not_exist() -> None:
    named = {call for entry in TABLE for call in entry.calls.split()}
    assert named <= set(numbers("x86_64")) | set(numbers("aarch64"))


def test_every_entry_of_the_table_has_a_reason_and_an_effect() -> None:
    """An entry that could go without changing an answer is a line that misleads its reader."""
    import pybox.kernel.seccomp_profile as module

    capabilities = [frozenset(), *(frozenset([cap]) for cap in sorted(GATES))]
    before = [policy(caps, machine) for caps in capabilities for machine in ("x86_64", "aarch64")]
    for place, entry in enumerate(TABLE):
        assert entry.why and entry.calls
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(module, "TABLE", TABLE[:place] + TABLE[place + 1 :])
            assert [policy(caps, machine) for caps in capabilities for machine in ("x86_64", "aarch64")] != before, entry.why


def test_the_default_program_is_short_and_shallow() -> None:
    for caps, machine in itertools.product((frozenset(), PODMANS, GATES), ("x86_64", "aarch64")):
        program = compiled(caps, machine)
        assert len(program) < 150
        assert max(walk(program, number, (), ARCH[machine])[1] for number in range(500)) <= 20


def test_what_the_hot_path_knows_of_the_profile_is_in_step_with_it() -> None:
    assert {cap for entry in TABLE for cap in entry.needs.split()} == GATES
    digest = hashlib.sha256()
    for caps in ([], *([cap] for cap in sorted(GATES)), GATES):
        for machine in seccomp.MACHINES:
            digest.update(assemble(policy(frozenset(caps), machine), machine))
    assert digest.hexdigest()[:8] == seccomp.REVISION, (
        f'the profile changed: set REVISION = "{digest.hexdigest()[:8]}" in seccomp.py'
    )


def test_explain_says_what_the_program_does() -> None:
    said = dict(seccomp.explain(None, PODMANS, "x86_64"))
    assert said["read"] == "allow"
    assert said["clone"] == "allow if arg0 & 0x7e020000 == 0x0, else EPERM"
    assert said["socket"].endswith(", else allow") and said["socket"].startswith("EPERM if arg0 & 0xffffffff == 0x26")
    assert (said["clone3"], said["uselib"], said["mount"]) == ("ENOSYS", "ENOSYS", "EPERM")
    assert set(said) == set(numbers("x86_64"))


GENERATOR = Path(__file__).parents[2] / "csrc/gen_syscalls.py"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_numbers_are_those_of_the_kernel_headers(machine: str) -> None:
    made = runpy.run_path(str(GENERATOR))
    if not Path(made["HEADERS"][machine]).exists() or not shutil.which("cc"):
        pytest.skip(f"no {made['HEADERS'][machine]} (linux-libc-dev) or no C compiler")
    header, ours = made["from_header"](machine), numbers(machine)
    assert len(header) > 290
    assert {call: ours.get(call) for call, number in header.items() if number <= max(ours.values())} == {
        call: number for call, number in header.items() if number <= max(ours.values())
    }
    assert sorted(ours.values()) == sorted(set(ours.values()))


def test_a_rule_is_a_value() -> None:
    assert Rule(ALLOW) == Rule(ALLOW, ())
    assert hash(policy(PODMANS, "x86_64")) == hash(policy(PODMANS, "x86_64"))
