"""What the system tests share: the command line as a child process, the test image, what the host looks like.

The same tests run on the hybrid host and inside User Mode Linux (tests/uml), which is slow and lacks things: what a kernel
can't do is skipped with the reason, and nothing here is timed. TIMEOUT only ends what hangs.
"""

from __future__ import annotations

import ctypes
import functools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import pybox
from pybox import api, dirs, host
from pybox.image.importing import import_
from pybox.image.model import ImageConfig
from pybox.native import Child
from pybox.runtime import Options
from pybox.seen import Seen
from pybox.spec import Spec

CGROUPS = host.probe().cgroups
PURE_V2 = CGROUPS.pure
CONTROLLERS = CGROUPS.controllers if PURE_V2 else frozenset(name for name, _ in CGROUPS.v1)  # that limits can use here
TIMEOUT = 600 if PURE_V2 else 60  # seconds; User Mode Linux is slow
HERE = Path(__file__).resolve().parent
# -B: what Python is told by its environment it does not hear in isolation
PYBOX = (sys.executable, "-ISB" if sys.dont_write_bytecode else "-IS", str(HERE / "command.py"))
DEFAULT_CAPS = 0x800405FB  # podman's eleven, see pybox/kernel/credentials.py
LIBC = ctypes.CDLL(None, use_errno=True)


def cli(*words: str, input: bytes | None = None, **options: object) -> subprocess.CompletedProcess[str]:
    """Run `pybox WORDS` and return what it said."""
    feed = {"input": input.decode()} if input is not None else {"stdin": subprocess.DEVNULL}
    options = {"capture_output": True, "text": True, "timeout": TIMEOUT, "errors": "surrogateescape", **feed, **options}
    return subprocess.run([*PYBOX, *words], check=False, **options)  # type: ignore[call-overload, no-any-return]


def many(commands: Sequence[Sequence[str]], stdin: str = os.devnull, **options: object) -> list[subprocess.CompletedProcess[str]]:
    """Run hundreds of commands one after the other, as cli would but in forks of one process; each reads the file ``stdin``."""
    options = {"capture_output": True, "text": True, "timeout": 2 * TIMEOUT, **options}
    done = subprocess.run(
        [*PYBOX[:-1], HERE / "forks.py", stdin], input=json.dumps([list(words) for words in commands]), check=True, **options
    )  # type: ignore[call-overload]
    return [subprocess.CompletedProcess(words, *end) for words, end in zip(commands, json.loads(done.stdout), strict=True)]


def start(*words: str, **options: object) -> subprocess.Popen[bytes]:
    """Start `pybox WORDS`; its stdout is a pipe."""
    options = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, **options}
    return subprocess.Popen([*PYBOX, *words], **options)  # type: ignore[call-overload, no-any-return]


def shell(script: str, **options: object) -> pybox.Result:
    """Run a shell script in the test image; the arguments are those of pybox.run."""
    return pybox.run("busybox", ["sh", "-c", script], **options)  # type: ignore[arg-type]


def said(result: pybox.Result) -> str:
    """Return what a run wrote to stdout; fails, with its stderr, unless it ended with 0."""
    assert result.ok, (result.reason, result.exit_code, result.stdout, result.stderr)
    assert result.stdout is not None
    return result.stdout.decode().rstrip("\n")


def inside(*words: str, **options: object) -> str:
    """Run tests/system/inside.c in the test image and return its verdict."""
    return said(pybox.run("busybox", ["inside", *words], **options))  # type: ignore[arg-type]


@contextmanager
def running(spec: Spec) -> Iterator[tuple[Seen, Child, str]]:
    """Start a container and look at it from outside while it runs; it is killed at the end."""
    from queue import Queue
    from signal import SIGKILL, pidfd_send_signal
    from threading import Event, Thread

    begun: Queue[tuple[Child, str] | BaseException] = Queue()
    looked = Event()

    def started(child: Child, identity: str) -> None:
        begun.put((child, identity))
        looked.wait(TIMEOUT)
        try:
            pidfd_send_signal(child.pidfd, SIGKILL)
        except ProcessLookupError:
            pass

    def run() -> None:
        try:
            api._SHARED.runtime().run(spec, Options(capture=True), started)
        except BaseException as error:
            begun.put(error)

    thread = Thread(target=run)
    thread.start()
    try:
        first = begun.get(timeout=TIMEOUT)
        if isinstance(first, BaseException):
            raise first
        yield Seen(first[0].pid, first[1]), *first
    finally:
        looked.set()
        thread.join()


def eventually(question: Callable[[], bool], seconds: float = TIMEOUT) -> bool:
    """Ask again and again until the answer is yes; False when it never is."""
    limit = time.monotonic() + seconds
    while not question():
        if time.monotonic() > limit:
            return False
        time.sleep(0.01)
    return True


def strace(folder: Path, calls: str, *words: str) -> list[str]:
    """Return the system calls of `pybox WORDS` and all its children, in order."""
    if not shutil.which("strace"):
        pytest.skip("no strace (Debian package strace)")
    done = subprocess.run(
        ["strace", "-f", "-qq", "-s", "512", "-o", folder / "trace", "-e", f"trace={calls}", *PYBOX, *words],
        capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "trace").read_text(errors="replace").splitlines()


# --- the image ---------------------------------------------------------------------------------------------------------------

BUSYBOX = next((path for path in ("/bin/busybox", "/usr/bin/busybox") if os.path.exists(path)), "")


@functools.cache
def _inside_program(folder: Path) -> Path:
    made = folder / "inside"
    subprocess.run(["gcc", "-static", "-O1", "-Wall", "-Wextra", "-Werror", "-o", made, HERE / "inside.c"], check=True)
    return made


def make_tree(root: Path, work: Path) -> Path:
    """Make the root file system of the test image: busybox, inside, a user alice, and the empty places that are mounted over."""
    for name in ("bin", "dev", "etc", "home/alice", "proc", "root", "run", "sys", "tmp", "usr/bin", "var"):
        (root / name).mkdir(parents=True)
    (root / "root").chmod(0o700)
    (root / "tmp").chmod(0o1777)
    os.chown(root / "home/alice", 1000, 1000)
    shutil.copy2(BUSYBOX, root / "bin/busybox")
    for applet in subprocess.run([BUSYBOX, "--list"], capture_output=True, text=True, check=True).stdout.split():
        if applet != "busybox":
            (root / "bin" / applet).symlink_to("busybox")
    shutil.copy2(_inside_program(work), root / "bin/inside")
    (root / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nalice:x:1000:1000::/home/alice:/bin/sh\n")
    (root / "etc/group").write_text("root:x:0:\ntty:x:5:\nalice:x:1000:\nwheel:x:10:alice\nvideo:x:44:bob,alice\n")
    for name in ("hosts", "hostname", "resolv.conf"):
        (root / "etc" / name).touch()
    return root


class Images:
    """Makes variants of the test image."""

    def __init__(self, tree: Path, work: Path) -> None:
        self.tree, self.work, self.count = tree, work, 0

    def __call__(self, change: Callable[[Path], object] | None = None, config: ImageConfig | None = None) -> str:
        """Import a copy of the test image's tree after a change to it; return the new image's name."""
        self.count += 1
        name = f"variant{self.count}"
        copy = self.work / name
        shutil.copytree(self.tree, copy, symlinks=True)
        os.chown(copy / "home/alice", 1000, 1000)
        if change is not None:
            change(copy)
        import_(dirs.current(), name, str(copy), run=config)
        shutil.rmtree(copy)
        return name


# --- the host ----------------------------------------------------------------------------------------------------------------


def children() -> dict[int, str]:
    """Return our children and their states; "Z" is a zombie."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return {}  # which is so most of the time, and looking at all processes takes milliseconds
    found, me = {}, str(os.getpid())
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                state, parent = state_and_parent(name)
            except OSError:
                continue
            if parent == me:
                found[int(name)] = state
    return found


def state_and_parent(pid: str) -> list[str]:
    """Return what proc_pid_stat(5) calls the state and the parent of a process; raises OSError when there is none."""
    with open(f"/proc/{pid}/stat", "rb", buffering=0) as file:
        return file.read().rpartition(b")")[2].decode().split(None, 2)[:2]


def groups() -> set[str]:
    """Return the control groups of pybox's below where we may make them, without those of other people's containers."""
    places = {CGROUPS.unified, *(path for _, path in CGROUPS.v1)} - {None}
    found = {f"{place}/{name}" for place in places for name in os.listdir(str(place)) if name.startswith("pybox-")}
    return {group for group in found if not _of_others(group)}


def _of_others(group: str) -> bool:
    """Whether processes are in it that do not descend from us; orphans come to us, so ours always do."""
    try:
        pid, me = Path(f"{group}/cgroup.procs").read_text().split()[0], str(os.getpid())
        while pid not in ("0", "1", me):
            pid = state_and_parent(pid)[1]
    except (OSError, IndexError):
        return False  # nobody is in it, or no more
    return pid != me


def below(*folders: str) -> set[str]:
    """Return all paths below some directories."""
    found = set()
    for folder in folders:
        for path, names, files in os.walk(folder):
            found |= {f"{path}/{name}" for name in (*names, *files)}
    return found


def _fds() -> dict[str, str]:
    found = {}
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:
            continue
        # kept for the next run, by design: a sealed pybox-init, each kind of user namespace, a network namespace made beforehand
        if not target.startswith(("/memfd:pybox-init", "user:[", "net:[")):
            found[fd] = target
    return found


def _self() -> dict[str, str]:
    status = Path("/proc/self/status").read_text().splitlines()
    fields = dict(line.split(":\t", 1) for line in status if ":\t" in line)
    kept = {name: fields.get(name, "") for name in ("Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapEff", "NoNewPrivs")}
    # 32 and 33 are the C library's: it takes them when the first thread is made, whoever had them ignored
    kept["SigIgn"] = f"{int(kept['SigIgn'], 16) & ~(3 << 31):016x}"
    kept["dumpable"] = str(LIBC.prctl(3, 0, 0, 0, 0))  # PR_GET_DUMPABLE
    kept["cwd"] = os.getcwd()
    for kind in os.listdir("/proc/self/ns"):
        kept[kind] = os.readlink(f"/proc/self/ns/{kind}")
    return kept


Snapshot = Mapping[str, object]


def snapshot() -> Snapshot:
    """Return all of the host that a container could have changed, and of this process that a launch could."""
    where = dirs.current()
    return {
        "mounts": [line.split(" ", 3)[3] for line in Path("/proc/self/mountinfo").read_text().splitlines()],
        "groups": groups(),
        "links": {line.partition(":")[0].strip() for line in Path("/proc/self/net/dev").read_text().splitlines()[2:]},
        "children": set(children()),
        "fds": _fds(),
        "self": _self(),
        "hostname": os.uname().nodename,
        "state": below(where.state),
        "store": below(where.uppers, *(f"{where.store}/{name}" for name in ("mnt", "scratch", "names", "containers"))),
    }


def reap_orphans(known: object = frozenset()) -> None:
    """Reap what a killed pybox left for its subreaper, which we are; only the dead, the living are a leak."""
    assert isinstance(known, (set, frozenset))
    for pid, state in children().items():
        if pid not in known and state == "Z":
            os.waitpid(pid, 0)


def differences(before: Snapshot) -> dict[str, object]:
    """Return what is not as it was."""
    reap_orphans(before["children"])
    after = snapshot()
    found: dict[str, object] = {}
    for name in before:
        was, now = before[name], after[name]
        if was != now:
            if isinstance(was, set) and isinstance(now, set):
                if now - was or name != "groups":  # a group that is gone was another's
                    found[name] = {"new": now - was, "gone": was - now}
            elif isinstance(was, dict) and isinstance(now, dict):
                found[name] = {"new": dict(now.items() - was.items()), "gone": dict(was.items() - now.items())}
            else:
                found[name] = {"was": was, "is": now}
    return found
