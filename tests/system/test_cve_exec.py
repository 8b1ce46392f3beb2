"""The ways out of containers that others had to learn of, by way of exec: somebody hostile is in there already."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PURE_V2, TIMEOUT, Images, cli, eventually, many, strace

import pybox

WAYS = {
    "plain": (),
    "ptrace": ("--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined"),
    "userns": ("--userns", "--cap-add", "SYS_PTRACE"),
}


@pytest.fixture(params=WAYS)
def hostile(request: pytest.FixtureRequest, store: object) -> Iterator[str]:
    """A container whose root watches all that appears in its /proc, and writes down what it finds that is not its own."""
    yield from _hostile(*WAYS[request.param], script=WATCH)


# What is looked for: a program that is not the container's, an fd or memory of a process that is not the command yet.
WATCH = r"""
echo up
while :; do
  for p in /proc/[0-9]*; do
    e=$(readlink $p/exe 2>/dev/null)
    case "$e" in
      */bin/busybox|*/bin/inside|"") ;;
      */memfd:pybox-init*) ;;
      *) echo "exe $e" >>/tmp/found; (exec 9<>$p/exe) 2>/dev/null && echo "written $e" >>/tmp/found ;;
    esac
    for f in $p/fd/*; do
      t=$(readlink $f 2>/dev/null)
      case "$t" in
        ""|pipe:*|/dev/null|/dev/pts/*|/tmp/*|/proc/*|socket:*|anon_inode:*|/bin/*|"(unreachable)"*|/) ;;
        *) echo "fd $t" >>/tmp/found ;;
      esac
    done
  done
done
"""


def _hostile(*options: str, script: str = "exec sleep 100000") -> Iterator[str]:
    done = cli("run", "-d", "--name", "hostile", *options, "busybox", "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    try:
        yield "hostile"
    finally:
        cli("rm", "-f", "hostile")


def digest(path: str) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_2019_5736_and_2016_9962_a_racer_inside_never_sees_the_hosts_python(hostile: str) -> None:
    python, native = os.path.realpath(sys.executable), str(pybox._native.__file__)  # type: ignore[attr-defined]
    before = digest(python), digest(native)
    ends = many([("exec", hostile, "true")] * (20 if PURE_V2 else 60))
    ends += [cli("exec", hostile, "true") for _ in range(5)]
    assert {end.returncode for end in ends} == {0}
    assert cli("exec", hostile, "cat", "/tmp/found").stdout == ""
    assert (digest(python), digest(native)) == before


def test_2016_9962_it_is_not_seen_before_it_is_hidden_and_has_no_more_rights(store: object, tmp_path: Path) -> None:
    """The order of the calls: rights are given up and memory is hidden before the process is born that the container can see."""
    for _ in _hostile():
        lines = strace(tmp_path, "clone3,setns,prctl,capset,execve", "exec", "hostile", "true")
        births = [number for number, line in enumerate(lines) if "clone3(" in line and "resumed" not in line]
        enter = next(number for number, line in enumerate(lines) if "setns(" in line)
        caps = max(number for number, line in enumerate(lines) if "capset(" in line)
        hidden = max(number for number, line in enumerate(lines) if "SUID_DUMP_DISABLE" in line)
        assert births[-2] < enter < caps < hidden < births[-1]


def test_2016_9962_with_sys_ptrace_only_a_sealed_copy_is_born_inside(store: object, tmp_path: Path) -> None:
    for _ in _hostile("--cap-add", "SYS_PTRACE"):
        lines = strace(tmp_path, "clone3,clone,setns,execveat", "exec", "hostile", "true")
        enter = next(number for number, line in enumerate(lines) if "setns(" in line)
        after = [line for line in lines[enter:] if "clone" in line or "execveat(" in line]
        assert "execveat(" in after[0] and '"pybox-init"' in after[0]
        assert not any("CLONE_VM|" in line and "clone3" in line for line in after[1:] if "resumed" not in line)
        assert any("clone(" in line and "CLONE_VFORK" in line and "CLONE_VM" not in line for line in after)


def test_2016_9962_a_plain_users_container_can_not_look_into_pybox(store: object, tmp_path: Path) -> None:
    """Its root has the user's id; without the step, /proc/PID/mem of the new process is pybox's memory."""
    for _ in _hostile("--userns", "--cap-add", "SYS_PTRACE"):
        lines = strace(tmp_path, "clone3,prctl", "exec", "hostile", "true")
        assert any("SUID_DUMP_DISABLE" in line for line in lines)


@pytest.mark.parametrize("options", [(), ("--cap-add", "SYS_PTRACE")], ids=["plain", "watched"])
def test_2024_21626_a_working_directory_in_proc_self_fd_leads_nowhere(
    store: object, tmp_path: Path, options: tuple[str, ...]
) -> None:
    (tmp_path / "canary").write_text("the host's")
    shutil.copy2("/bin/busybox", tmp_path / "prog")
    fds = [os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY) for _ in range(16)]
    try:
        for _ in _hostile(*options):
            cli("exec", "hostile", "sh", "-c", "for n in $(seq 3 30); do ln -s /proc/self/fd/$n /wd$n; done")
            numbers = range(3, 31, 2 if PURE_V2 else 1)
            paths = [path for n in numbers for path in (f"/proc/self/fd/{n}", f"/wd{n}", f"/proc/1/fd/{n}")]
            show = ("hostile", "sh", "-c", "cat canary ./canary; pwd")
            for done in many([("exec", "-w", path, *show) for path in paths], pass_fds=tuple(fds)):
                assert "the host's" not in done.stdout and done.returncode == 125, done
            paths = [path for n in numbers for path in (f"/proc/self/fd/{n}/prog", f"/wd{n}/prog")]
            for done in many([("exec", "hostile", path, "echo", "ran") for path in paths], pass_fds=tuple(fds)):
                assert done.returncode in (126, 127) and "ran" not in done.stdout, done
            for fd in (fds[0], fds[-1]):  # and as a start of its own, which opens other fds before
                done = cli("exec", "-w", f"/proc/self/fd/{fd}", *show, pass_fds=tuple(fds))
                assert "the host's" not in done.stdout and done.returncode == 125, fd
    finally:
        for fd in fds:
            os.close(fd)


def test_2022_29162_nothing_is_inheritable(hostile: str) -> None:
    for options in ((), ("-u", "alice"), ("--privileged",)):
        seen = cli("exec", *options, hostile, "grep", "-E", "Cap(Inh|Amb)", "/proc/self/status").stdout.split()
        assert seen == ["CapInh:", "0" * 16, "CapAmb:", "0" * 16]


@pytest.mark.parametrize("trick", ["ln -s /proc/1/fd/0 {}", "mkfifo {}", "touch {}", "ln -s /dev/null {}", "mkdir {}"])
def test_2025_52565_a_dev_pts_that_is_not_the_kernels_gives_no_terminal(store: object, trick: str) -> None:
    """Only with CAP_SYS_ADMIN can the container lay something else over /dev/pts; what is found there is asked what it is."""
    options = ("--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined")
    for _ in _hostile(*options):
        script = f"mount -t tmpfs none /dev/pts && cd /dev/pts && {trick.format('ptmx')}"
        assert cli("exec", "hostile", "sh", "-c", script).returncode == 0
        done = cli("exec", "-t", "hostile", "sh", "-c", "echo ran")
        assert done.returncode == 125 and "ran" not in done.stdout and done.stderr.startswith("pybox: error: make a terminal")


@pytest.mark.parametrize("tty", [(), ("-t",)], ids=["pipe", "tty"])
def test_2019_14271_nothing_of_the_images_is_loaded_before_the_command(
    image: Images, tmp_path: Path, tty: tuple[str, ...]
) -> None:
    def poison(root: Path) -> None:
        for place in ("usr/lib/python3", f"usr/lib/python3.{sys.version_info.minor}", "lib/x86_64-linux-gnu"):
            for name in (
                "encodings/__init__.py",
                "encodings/idna.py",
                "sitecustomize.py",
                "libnss_files.so.2",
                "termios.so",
                "socket.py",
            ):
                (root / place / name).parent.mkdir(parents=True, exist_ok=True)
                (root / place / name).write_text("import os; os.write(2, b'PWNED')")
        (root / "etc/nsswitch.conf").write_text("passwd: evil\n")
        (root / "etc/ld.so.preload").write_text("/lib/evil.so\n")

    name = image(poison)
    assert cli("run", "-d", "--name", "hostile", name, "sleep", "100000").returncode == 0
    try:
        lines = strace(
            tmp_path, "setns,open,openat,openat2,execve", "exec", *tty, "-u", "alice", "hostile", "nosuch" if False else "true"
        )
        enter = next(number for number, line in enumerate(lines) if "setns(" in line)
        inside = lines[enter].split()[0]
        done = next(number for number, line in enumerate(lines[enter:], enter) if "execve(" in line)
        opened = [line for line in lines[enter:done] if "open" in line]
        assert all(any(fine in line for fine in ('"/"', "/dev/pts/ptmx", '"/bin/', '"/usr/', '"/sbin')) for line in opened), (
            inside,
            opened,
        )
        assert not [line for line in opened if ".py" in line or ".so" in line or "nsswitch" in line]
        failed = cli("exec", "hostile", "nosuch")
        assert failed.returncode == 127 and "PWNED" not in failed.stderr
    finally:
        cli("rm", "-f", "hostile")


@pytest.mark.skipif(PURE_V2, reason="User Mode Linux has one CPU, which the racer takes")
def test_the_attack_finds_python_when_pybox_does_not_defend_itself(store: object) -> None:
    """The racer is no straw man: a python of the host's in the container's PID namespace is found by it."""
    for _ in _hostile("--cap-add", "SYS_PTRACE", "--security-opt", "seccomp=unconfined", script=WATCH):
        pid = next(
            line.split()[0]
            for line in subprocess.run(
                ["ps", "-A", "-o", "pid=,args="], capture_output=True, text=True, check=True
            ).stdout.splitlines()
            if "echo up" in line
        )
        enter = f"import os; fd = os.pidfd_open({pid}); import ctypes; ctypes.CDLL(None).setns(fd, 0x20000000); pid = os.fork(); pid or os.read(0, 1); pid and os.waitpid(pid, 0)"
        with subprocess.Popen([sys.executable, "-c", enter], stdin=subprocess.PIPE) as entered:
            assert eventually(lambda: "exe " in cli("exec", "hostile", "cat", "/tmp/found").stdout)
            entered.communicate(timeout=TIMEOUT)
