"""Errors name the step, the errno and the cause that probed true; where nothing does, nothing is made up."""

from __future__ import annotations

import errno
import os
import pickle
import struct
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybox import causes, probes
from pybox.causes import STEPS, Cause
from pybox.codes import CODES, EXEC
from pybox.dirs import Dirs
from pybox.errors import PyboxError
from pybox.failures import ExecError, ProgramNotFound, StepFailed, elf_loader, exec_cause, launch_error
from pybox.host import Cgroups, Facts
from pybox.image.model import Image
from pybox.kernel.inputs import Inputs
from pybox.native import Evidence, Failure
from pybox.spec import Spec
from pybox.steps.base import Step
from pybox.steps.hostside import MakeGroup, MakeUpper
from pybox.steps.mounts import MapLayer, MountKernelFs, MountOverlay, OpenSource, PivotRoot
from pybox.steps.network import MakeNetwork
from pybox.steps.places import EnterWorkdir, MakeNode, OpenTarget, RealDirectory
from pybox.steps.process import CheckLeash, Clone, Exec
from pybox.steps.rights import SetRlimit

FILE, DIRECTORY, NOEXEC = 0o100755, 0o040755, 8


def seen(head: bytes = b"", mode: int = FILE, stat_errno: int = 0, mount: int = 0, candidate: int = 0) -> Evidence:
    """Return what a process saw of the file that it could not execute."""
    return Evidence(stat_errno=stat_errno, open_errno=0, mode=mode, mount=mount, candidate=candidate, head=head)


def elf(machine: int = 62, loader: bytes = b"/lib64/ld-linux-x86-64.so.2", bits: int = 64, order: str = "<") -> bytes:
    """Return the beginning of an ELF file with a PT_LOAD and a PT_INTERP entry; elf(5)."""
    ident = b"\x7fELF" + bytes([2 if bits == 64 else 1, 1 if order == "<" else 2, 1]) + bytes(9)
    if bits == 64:
        table, size = 64, 56
        header = struct.pack(f"{order}HHIQQQIHHHHHH", 3, machine, 1, 0x1000, table, 0, 0, 64, size, 2, 64, 0, 0)
        where = table + 2 * size
        entries = [
            struct.pack(f"{order}IIQQQQQQ", kind, 4, at, 0, 0, length, length, 1) for kind, at, length in _entries(where, loader)
        ]
    else:
        table, size = 52, 32
        header = struct.pack(f"{order}HHIIIIIHHHHHH", 3, machine, 1, 0x1000, table, 0, 0, 52, size, 2, 40, 0, 0)
        where = table + 2 * size
        entries = [
            struct.pack(f"{order}IIIIIIII", kind, at, 0, 0, length, length, 4, 1) for kind, at, length in _entries(where, loader)
        ]
    return ident + header + b"".join(entries) + loader + b"\0"


def _entries(where: int, loader: bytes) -> list[tuple[int, int, int]]:
    return [(1, 0, 4096), (3, where, len(loader) + 1)]


CASES = {
    "missing": (
        errno.ENOENT,
        seen(stat_errno=errno.ENOENT),
        127,
        "cannot execute prog: no such file or directory in the container's PATH",
    ),
    "closed-directory": (
        errno.EACCES,
        seen(stat_errno=errno.EACCES),
        126,
        "cannot execute /bin/prog: a directory on the way is closed to this user",
    ),
    "directory": (errno.EACCES, seen(mode=DIRECTORY), 126, "cannot execute /bin/prog: it is a directory"),
    "noexec": (errno.EACCES, seen(mount=NOEXEC), 126, "cannot execute /bin/prog: its file system is mounted noexec"),
    "not-executable": (errno.EACCES, seen(mode=0o100644), 126, "cannot execute /bin/prog: the file has no x permission"),
    "interpreter-not-executable": (
        errno.EACCES,
        seen(b"#!/etc/passwd -x\n"),
        126,
        "cannot execute /bin/prog: its interpreter '/etc/passwd' can't be executed",
    ),
    "permission": (errno.EACCES, seen(elf()), 126, "cannot execute /bin/prog: permission denied to this user"),
    "crlf": (
        errno.ENOENT,
        seen(b"#!/bin/sh\r\necho\r\n"),
        127,
        "cannot execute /bin/prog: its first line ends in CR LF, so the interpreter sought is '/bin/sh\\r'",
    ),
    "interpreter-missing": (
        errno.ENOENT,
        seen(b"#! \t/usr/bin/python9 -I\n"),
        127,
        "cannot execute /bin/prog: its interpreter /usr/bin/python9 does not exist in the container",
    ),
    "architecture": (
        errno.ENOEXEC,
        seen(elf(183)),
        126,
        "cannot execute /bin/prog: it is a program for aarch64, this machine is x86_64",
    ),
    "loader-missing": (
        errno.ENOENT,
        seen(elf()),
        127,
        "cannot execute /bin/prog: its dynamic loader /lib64/ld-linux-x86-64.so.2 does not exist in the container",
    ),
    "too-many-processes": (
        errno.EAGAIN,
        seen(elf()),
        126,
        "cannot execute /bin/prog: no more processes are allowed there",
    ),
    "empty": (errno.ENOEXEC, seen(b""), 126, "cannot execute /bin/prog: the file is empty"),
    "format": (
        errno.ENOEXEC,
        seen(b"echo hello\n"),
        126,
        "cannot execute /bin/prog: neither a program nor a script with a #! line",
    ),
    "magic-link": (
        errno.ELOOP,
        seen(elf()),
        126,
        "cannot execute /bin/prog: it leads through a magic link of /proc, or in a circle",
    ),
    "other": (errno.E2BIG, seen(elf()), 126, "cannot execute /bin/prog: Argument list too long [E2BIG]"),
}


@pytest.mark.parametrize("cause", CASES)
def test_a_failed_exec_is_given_its_cause(cause: str) -> None:
    number, evidence, code, message = CASES[cause]
    error = exec_cause("prog", "/bin/prog", number, evidence, "x86_64")
    assert (error.cause, error.exit_code, error.message) == (cause, code, message)
    assert (error.code, error.errno, error.causes) == (f"E-EXEC-{cause.upper()}", number, (message.partition(": ")[2],))
    assert error.fix == error.hint and "{" not in (error.hint or "")
    assert isinstance(error, ProgramNotFound) is (code == 127)


def test_every_cause_that_is_named_in_the_source_is_tried() -> None:
    import inspect
    import re

    named = set(re.findall(r'(?:ExecError|ProgramNotFound)\(\s*\w+, "([a-z-]+)"', inspect.getsource(exec_cause)))
    assert named == set(CASES) == {cause.name for code in EXEC for cause in code.causes}


def test_a_path_is_not_said_to_be_sought_in_path() -> None:
    error = exec_cause("./prog", "./prog", errno.ENOENT, seen(stat_errno=errno.ENOENT), "x86_64")
    assert error.message == "cannot execute ./prog: no such file or directory"
    assert exec_cause("/a/b", "/a/b", errno.ENOTDIR, seen(stat_errno=errno.ENOTDIR), "x86_64").exit_code == 127


@pytest.mark.parametrize(
    ("machine", "name"), [(3, "i386"), (40, "arm"), (183, "aarch64"), (243, "riscv64"), (999, "machine 999")]
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_architecture_is_read_in_the_files_own_byte_order(machine: int, name: str, order: str) -> None:
    error = exec_cause("p", "/p", errno.ENOEXEC, seen(elf(machine, order=order)), "x86_64")
    assert error.cause == "architecture" and f"a program for {name}," in error.message


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("order", ["<", ">"])
def test_the_loader_is_read_from_the_program_header(bits: int, order: str) -> None:
    head = elf(loader=b"/lib/ld-musl.so.1", bits=bits, order=order)
    assert elf_loader(head) == "/lib/ld-musl.so.1"
    assert elf_loader(head[:-30]) != "/lib/ld-musl.so.1"  # cut off: no more than what is there


@given(
    st.binary(max_size=200)
    | st.binary(max_size=120).map(lambda tail: b"\x7fELF\x02\x01" + tail)
    | st.binary(max_size=60).map(lambda t: b"#!" + t)
)
@example(b"\x7fELF" + b"\xff" * 60)
@example(b"#!")
def test_no_file_of_an_image_can_confuse_the_explanation(head: bytes) -> None:
    for number in (errno.ENOENT, errno.ENOEXEC, errno.EACCES, errno.ELOOP):
        error = exec_cause("p", "/p", number, seen(head), "x86_64")
        assert error.cause in CASES and error.exit_code in (126, 127) and error.message.startswith("cannot execute /p: ")


def inputs(userns: bool = False, capabilities: int = (1 << 41) - 1, store: str = "/s", root: bool = True) -> Inputs:
    """Return what a run was planned from."""
    facts = Facts(
        uid=0,
        root=root,
        gid=0,
        machine="x86_64",
        release="6.6.0",
        last_cap=40,
        cgroups=Cgroups(),
        masked=(),
        read_only=(),
        cpus=2,
        capabilities=capabilities,
    )
    return Inputs(spec=Spec(image="x", userns=userns), facts=facts, image=Image("x", "sha256:0", ()), dirs=Dirs(store, "/r"))


def reads(monkeypatch: pytest.MonkeyPatch, **files: str) -> None:
    """Let the causes see these files, by their last name, and no others."""
    for module in (causes, probes):
        monkeypatch.setattr(module, "read", lambda path, default="": files.get(path.rsplit("/", 1)[-1], default))


OVERLAY = "29 1 0:29 / / rw - ext4 /dev/x rw\n30 20 0:30 / /s rw - overlay overlay rw\n31 30 0:31 / /disk rw - ext4 /dev/x rw\n"
BELOW_A_CHROOT = "31 30 0:31 / /proc rw - proc proc rw\n"
SECCOMP = {"status": "Name:\tpython3\nSeccomp:\t2\n"}
FULL = {"cgroup": "5:pids:/a\n", "pids.max": "9\n", "pids.current": "9\n"}
Here = tuple[Inputs, dict[str, str]]
# (code, cause, step, inputs and files where it is so, inputs and files where it is not; None: it is always so)
ROWS: list[tuple[str, str, Step, Here, Here | None]] = [
    ("E-CLONE3-EPERM", "userns-off", Clone(()), (inputs(), {"unprivileged_userns_clone": "0\n"}), (inputs(), {"unprivileged_userns_clone": "1\n"})),
    ("E-CLONE3-EPERM", "apparmor", Clone(()), (inputs(root=False), {"apparmor_restrict_unprivileged_userns": "1\n"}), (inputs(), {"apparmor_restrict_unprivileged_userns": "1\n"})),
    ("E-CLONE3-EPERM", "chroot", Clone(()), (inputs(), {"mountinfo": BELOW_A_CHROOT}), (inputs(), {"mountinfo": OVERLAY})),
    ("E-CLONE3-EACCES", "apparmor", Clone(()), (inputs(root=False), {"apparmor_restrict_unprivileged_userns": "1\n"}), (inputs(root=False), {})),
    ("E-CLONE3-ENOSPC", "no-userns", Clone(()), (inputs(), {"max_user_namespaces": "0\n"}), (inputs(), {"max_user_namespaces": "9\n"})),
    ("E-CLONE3-ENOSPC", "none-of-a-kind", Clone(()), (inputs(), {"max_net_namespaces": "0\n"}), (inputs(), {"max_net_namespaces": "9\n"})),
    ("E-CLONE3-ENOSYS", "outer-filter", Clone(()), (inputs(), SECCOMP), (inputs(), {"status": "Seccomp:\t0\n"})),
    ("E-CLONE3-EAGAIN", "pids-of-the-group", Clone(()), (inputs(), FULL), (inputs(), {**FULL, "pids.current": "8\n"})),
    ("E-CLONE3-EPERM", "no-sys-admin", Clone(()), (inputs(capabilities=1), {}), (inputs(), {})),
    ("E-UNSHARE-EPERM", "no-sys-admin", MakeNetwork(), (inputs(capabilities=1 << 12), {}), (inputs(), {})),
    ("E-UNSHARE-EPERM", "no-net-admin", MakeNetwork(), (inputs(capabilities=1 << 21), {}), (inputs(), {})),
    ("E-MKNOD-EPERM", "no-mknod", MakeNode("/dev/null", 1, 3), (inputs(capabilities=1 << 21), {}), (inputs(), {})),
    ("E-MOUNT-EPERM", "no-sys-admin", MountOverlay((), "u", "w"), (inputs(capabilities=1), {}), (inputs(), {})),
    ("E-UNSHARE-EAGAIN", "pids-of-the-group", MakeNetwork(), (inputs(), FULL), (inputs(), {**FULL, "pids.current": "8\n"})),
    ("E-UNSHARE-ENOSPC", "net-namespaces", MakeNetwork(), (inputs(), {}), None),
    ("E-OPENAT2-ELOOP", "symlink-in-image", RealDirectory("/proc"), (inputs(), {}), None),
    ("E-OPENAT2-ENOTDIR", "file-in-image", OpenTarget("/etc/x", "s"), (inputs(), {}), None),
    ("E-OPENAT2-EXDEV", "to-the-kernels", OpenTarget("/etc/x", "s"), (inputs(), {}), None),
    ("E-OPEN_TREE-ENOENT", "gone", OpenSource("/nowhere/x", "s"), (inputs(), {}), None),
    ("E-MOUNT-EINVAL", "store-file-system", MountOverlay((), "u", "w"), (inputs(), {"mountinfo": OVERLAY}), (inputs(store="/disk/s"), {"mountinfo": OVERLAY})),
    ("E-MOUNT-ENODEV", "no-overlay", MountOverlay((), "u", "w"), (inputs(), {"filesystems": "nodev\tproc\n"}), (inputs(), {"filesystems": "nodev\toverlay\n"})),
    ("E-MOUNT-EPERM", "proc-hidden", MountKernelFs("proc", "/proc"), (inputs(userns=True), {}), (inputs(), {})),
    ("E-MOUNT-EACCES", "apparmor", MountKernelFs("proc", "/proc"), (inputs(root=False), {"apparmor_restrict_unprivileged_userns": "1\n"}), (inputs(root=False), {})),
    ("E-MOUNT-ENOSPC", "mount-max", MountOverlay((), "u", "w"), (inputs(), {}), None),
    ("E-MOUNT_SETATTR-EINVAL", "no-idmap", MapLayer("l", "t"), (inputs(userns=True), {"mountinfo": OVERLAY}), (inputs(store="/disk/s"), {"mountinfo": OVERLAY})),
    ("E-MOUNT_SETATTR-EINVAL", "no-idmap-root", MapLayer("/", "t"), (inputs(userns=True), {"mountinfo": "9 1 0:9 / / rw - overlay o rw\n"}), (inputs(), {"mountinfo": OVERLAY})),
    ("E-MKDIR-EROFS", "cgroup-read-only", MakeGroup("/sys/fs/cgroup/x", "s"), (inputs(), {"mountinfo": "9 1 0:9 / /sys/fs/cgroup ro - cgroup2 x rw\n"}), (inputs(), {"mountinfo": OVERLAY})),
    ("E-MKDIR-EROFS", "store-read-only", MakeUpper("/read-only/x"), (inputs(store="/read-only"), {}), (inputs(), {})),
    ("E-MKDIR-ENOSPC", "store-full", MakeUpper("/full/x"), (inputs(store="/full"), {}), (inputs(), {})),
    ("E-MKDIR-ENOSPC", "cgroup-most", MakeGroup("/sys/fs/cgroup/x", "s"), (inputs(), {}), None),
    ("E-MKDIR-EACCES", "store-closed", MakeUpper("/closed/x"), (inputs(store="/closed"), {}), (inputs(), {})),
    ("E-MKDIR-EACCES", "cgroup-closed", MakeGroup("/sys/fs/cgroup/x", "s"), (inputs(), {}), None),
    ("E-PRLIMIT64-EPERM", "hard-limit", SetRlimit("nofile", 1, 2), (inputs(capabilities=0), {}), (inputs(), {})),
    ("E-FCHDIR-EXDEV", "outside", EnterWorkdir("s", "/x"), (inputs(), {}), None),
    ("E-POLL-EOWNERDEAD", "owner", CheckLeash(), (inputs(), {}), None),
]  # fmt: skip


def cause_of(code: str, name: str) -> Cause:
    """Return a cause from the table."""
    (cause,) = [cause for cause in CODES[code].causes if cause.name == name]
    return cause


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_a_cause_is_blamed_when_it_probes_true_and_only_then(
    row: tuple[str, str, Step, Here, Here | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, name, step, (given, files), otherwise = row
    cause = cause_of(code, name)
    assert code.startswith(f"E-{step.call.upper()}-")
    number = getattr(errno, code.rpartition("-")[2])
    failure = Failure(0, number, seen())
    asked: list[Inputs] = [given]
    for probe, place in (("read_only", "/read-only"), ("full", "/full"), ("closed", "/closed")):
        monkeypatch.setattr(probes, probe, lambda path, place=place: asked[0].dirs.store == place)
    reads(monkeypatch, **files)
    error = launch_error(step, failure, given)
    assert isinstance(error, StepFailed)
    assert (error.code, error.cause, error.causes, error.hint, error.fix, error.errno, error.step) == (
        code, cause.sentence, (cause.sentence,), cause.hint, cause.hint, number, step,
    )  # fmt: skip
    assert error.message == f"{step.describe()}: {step.call}: {os.strerror(number)} [{errno.errorcode[number]}]: {cause.sentence}"
    if otherwise is not None:
        asked[0] = otherwise[0]
        reads(monkeypatch, **otherwise[1])
        plain = launch_error(step, failure, otherwise[0])
        assert isinstance(plain, StepFailed) and (plain.causes, plain.hint, plain.code) == ((), None, code)


def test_the_kernels_words_for_a_mount_are_made_harmless_and_said_once() -> None:
    log = b"e overlay: no \x1b[31m\ni overlay: more\ne overlay: no \x1b[31m\ncut"
    error = launch_error(MountKernelFs("tmpfs", "/x"), Failure(0, errno.EINVAL, seen(log)), inputs())
    assert isinstance(error, StepFailed) and error.said == "overlay: no \\x1b[31m; overlay: more"
    assert error.message == f"mount tmpfs on /x: mount: Invalid argument [EINVAL]: the kernel says: {error.said}"


def test_two_causes_that_are_both_so_are_both_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    reads(monkeypatch, unprivileged_userns_clone="0\n", apparmor_restrict_unprivileged_userns="1\n")
    error = launch_error(Clone(()), Failure(0, errno.EPERM, seen()), inputs(root=False))
    assert len(error.causes) == 2 and all(cause in error.message for cause in error.causes)
    assert error.hint is not None and error.hint.count("sysctl") == 2


def test_every_cause_of_a_step_has_a_row_above() -> None:
    assert sorted((code.name, cause.name) for code in STEPS for cause in code.causes) == sorted(row[:2] for row in ROWS)


def test_a_source_that_is_still_there_is_not_said_to_be_gone(tmp_path: Path) -> None:
    error = launch_error(OpenSource(str(tmp_path), "s"), Failure(0, errno.ENOENT, seen()), inputs())
    assert isinstance(error, StepFailed) and error.cause == ""


@pytest.mark.parametrize(
    "step", [PivotRoot(), OpenTarget("/etc/x", "s"), SetRlimit("nofile", 1, 2)], ids=lambda step: type(step).__name__
)
def test_an_errno_without_a_known_cause_is_said_plainly(step: Step) -> None:
    error = launch_error(step, Failure(0, errno.EIO, seen()), inputs())
    assert error.message == f"{step.describe()}: {step.call}: Input/output error [EIO]" and error.hint is None


def test_a_process_killed_in_a_step_is_said_to_be() -> None:
    error = launch_error(Exec(("/x",), ("x",), ()), Failure(0, 0, seen()), inputs())
    assert error.message == "run x: execve: the process was killed in this step"


def test_an_unknown_errno_is_shown_as_its_number() -> None:
    assert StepFailed(PivotRoot(), 9999).message == "make it the root: pivot_root: Unknown error 9999 [9999]"


@pytest.mark.parametrize("candidate", [0, 1, 7])
def test_of_several_candidates_the_one_that_was_there_is_named(candidate: int) -> None:
    step = Exec(("/a/prog", "/b/prog"), ("prog",), ())
    error = launch_error(step, Failure(0, errno.EACCES, seen(mode=0o100644, candidate=candidate)), inputs())
    assert isinstance(error, ExecError) and error.path == ("/a/prog" if candidate == 0 else "/b/prog")


@pytest.mark.parametrize(
    "error",
    [
        launch_error(PivotRoot(), Failure(0, errno.EINVAL, seen()), inputs()),
        exec_cause("p", "/p", errno.ENOEXEC, seen(), "x86_64"),
        exec_cause("p", "/p", errno.ENOENT, seen(stat_errno=2), "x86_64"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_survives_a_process_pool(error: PyboxError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error) and str(again) == str(error) and again.__dict__ == error.__dict__
