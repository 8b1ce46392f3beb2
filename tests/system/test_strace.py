"""The plan that explain prints equals what strace sees of the same run: call by call, in order, with flags."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import cli

pytestmark = pytest.mark.skipif(shutil.which("strace") is None, reason="no strace (Debian package strace)")

# Not effects: fds given back, the row loop's own signals, the search for a program, and a process waiting for another.
BOOKKEEPING = "close rt_sigaction rt_sigprocmask wait4 waitid exit exit_group faccessat fcntl"

RUNS = {
    "default": ("--rm", "busybox", "/bin/true"),
    "limits, kept, no init": ("-m", "64M", "--pids-limit", "20", "--no-init", "busybox", "/bin/true"),
    "files": ("--rm", "-v", "/etc:/root:ro", "--tmpfs", "/tmp:size=1m", "--read-only", "-w", "/tmp", "busybox", "/bin/true"),
    "user namespace": ("--rm", "--userns", "--cap-drop", "ALL", "busybox", "/bin/true"),
    "rights": (
        *("--rm", "-u", "1000:1000", "--ulimit", "nofile=64:64", "--cap-add", "net_raw", "--oom-score-adj", "500"),
        *("--security-opt", "seccomp=unconfined", "--network", "host", "-h", "box", "busybox", "/bin/true"),
    ),
    "an init": ("--rm", "--system", "busybox", "/bin/true"),
    "everything shared": ("--rm", "--pid", "host", "--ipc", "host", "--uts", "host", "busybox", "/bin/true"),
}


def canonical(call: str) -> str:
    """Put flags into one order, name those that strace shows as a number, and drop what it remarks on other numbers."""
    call = re.sub(r" /\* [^*]* \*/", "", call)
    call = call.replace("TIOCGPTPEER, 0x80102)", "TIOCGPTPEER, O_RDWR|O_NOCTTY|O_CLOEXEC)")
    return re.sub(r"[A-Z][A-Z0-9_]+(\|[A-Z0-9_]+)+", lambda flags: "|".join(sorted(flags[0].split("|"))), call)


def pattern(call: str) -> re.Pattern[str]:
    """Turn a call as explain shows it into a pattern of what strace prints."""
    text = re.escape(call).replace("CONTAINER\\-ID", "[0-9a-f]{12}").replace("\\.\\.\\.", ".*")
    return re.compile(re.sub(r"<[a-z0-9:.\\_-]+>", r"\\d+", text))


def same(call: str, seen: str) -> bool:
    """Return whether a planned call is the one that was seen."""
    if call.startswith("clone3(") and seen.startswith("clone3("):
        planned, actual = (set(re.search(r"flags=([A-Z0-9_|]+)", text).group(1).split("|")) for text in (call, seen))  # type: ignore[union-attr]
        return planned == actual
    if call.startswith("dup3(") and seen.startswith("fcntl("):  # onto itself: only the flag is set
        return re.fullmatch(r"fcntl\((\d+), F_SETFD, (0|FD_CLOEXEC)\)", seen) is not None
    return pattern(canonical(call)).fullmatch(canonical(seen)) is not None


def threads_of(log: str) -> set[str]:
    """Return the ids of threads, as strace prints them: of a clone3 that is unfinished in the end of its line only."""
    found, begun = set(), {}
    for line in log.splitlines():
        pid = line.partition(" ")[0]
        if "clone3(" in line:
            begun[pid] = "CLONE_THREAD" in line
        told = re.search(r"parent_tid=\[(\d+)\]", line)
        if told and begun.get(pid):
            found.add(told[1])
    return found


def trace(folder: Path, words: tuple[str, ...], names: set[str]) -> tuple[list[str], list[str]]:
    """Run pybox under strace; return the calls of pybox's threads, and of the new processes, without their results."""
    log = folder / "trace"
    traced = ",".join(sorted(names | {"clone3", "fcntl"}))
    command = ["strace", "-f", "-s", "65536", "-o", str(log), "-e", f"trace={traced}", "-e", "signal=none"]
    done = subprocess.run([*command, sys.executable, "-m", "pybox", *words], check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    lines, threaded, pybox, unfinished = [], [], "", {}
    threads = threads_of(log.read_text())
    for line in log.read_text().splitlines():
        pid, _, text = line.partition(" ")
        text = text.strip()
        if text.endswith("<unfinished ...>"):
            unfinished[pid] = text.removesuffix(" <unfinished ...>")
            # a clone3 is followed by its child's calls before it returns
            if not text.startswith("clone3("):
                continue
            text = unfinished[pid]
        elif text.startswith("<... "):
            name = text.split(" ")[1]
            if name == "clone3":
                continue
            text = unfinished.pop(pid) + text.partition(" resumed>")[2]
        pybox = pybox or pid
        if text.startswith(("+++", "---")) or "CLONE_THREAD" in text:
            continue
        text = re.sub(r"\)?\s+=\s+(-?\d+|\?|0x[0-9a-f]+).*$", ")", text)
        if pid in threads:
            threaded.append(text)
        elif pid != pybox or text.startswith("clone3("):
            lines.append(text)
    return threaded, lines


@pytest.mark.parametrize("words", RUNS.values(), ids=RUNS.keys())
def test_the_plan_is_what_strace_sees(store: object, words: tuple[str, ...], tmp_path: Path) -> None:
    plan = json.loads(cli("explain", "--format", "json", "run", *words).stdout)
    planned = [call for step in plan["steps"] if step["side"] == "inside" for call in step["calls"]]
    networks = [step["calls"] for step in plan["steps"] if step["side"] == "host" and step["calls"][0] == "unshare(CLONE_NEWNET)"]
    beforehand = [call for calls in networks for call in calls]
    names = {call.partition("(")[0] for call in (*beforehand, *planned)}
    assert not names & set(BOOKKEEPING.split())
    try:
        threaded, seen = trace(tmp_path, ("run", *words), names)
    finally:
        cli("rm", *cli("ps", "-a", "-q").stdout.split())
    userns = next((n for n, call in enumerate(seen) if "CLONE_NEWUSER" in call and call.startswith("clone3(")), None)
    if userns is not None:  # the holder of the user namespace belongs to the host's side of the plan
        assert any("CLONE_NEWUSER" in call for step in plan["steps"] if step["side"] == "host" for call in step["calls"])
        seen = seen[next(n for n, call in enumerate(seen[userns + 1 :], userns + 1) if call.startswith("clone3(")) :]
    assert len(threaded) == len(beforehand) and all(map(same, beforehand, threaded)), threaded
    follows(planned, seen)


EXECS = {
    "default": ((), ("box", "/bin/true")),
    "limits": (("-m", "64M", "--oom-score-adj", "5"), ("box", "/bin/true")),
    "user namespace": (("--userns",), ("box", "/bin/true")),
    "rights": (("--ulimit", "nofile=64:64"), ("-u", "alice", "-w", "/tmp", "-e", "A=b", "box", "/bin/true")),
    "terminal": ((), ("-t", "box", "/bin/true")),
    "terminal, user namespace": (("--userns",), ("-t", "-u", "alice", "box", "/bin/true")),
    "privileged": ((), ("--privileged", "box", "/bin/true")),
    "detached": ((), ("-d", "box", "/bin/true")),
    "watched": (("--cap-add", "SYS_PTRACE"), ("-t", "box", "/bin/true")),
    "everything shared": (("--pid", "host", "--ipc", "host", "--uts", "host"), ("box", "/bin/true")),
}


@pytest.mark.parametrize(("options", "words"), EXECS.values(), ids=EXECS.keys())
def test_the_plan_of_an_exec_is_what_strace_sees(
    store: object, options: tuple[str, ...], words: tuple[str, ...], tmp_path: Path
) -> None:
    started = cli("run", "-d", "--name", "box", *options, "busybox", "sleep", "100000")
    if "cannot enforce" in started.stderr:
        pytest.skip(started.stderr)
    try:
        plan = json.loads(cli("explain", "--format", "json", "exec", *words).stdout)
        planned = [call for step in plan["steps"] if step["side"] == "inside" for call in step["calls"]]
        follows(planned, trace(tmp_path, ("exec", *words), {call.partition("(")[0] for call in planned})[1])
    finally:
        cli("rm", "-f", "box")


def follows(planned: list[str], seen: list[str]) -> None:
    """Fail unless the calls that were seen are those that were planned, in order."""
    position = 0
    for call in planned:
        while position < len(seen) and seen[position].startswith("fcntl(") and not same(call, seen[position]):
            position += 1
        assert position < len(seen), f"planned but not seen: {call}"
        if call.startswith("execve("):  # what pybox-init does before it is its own; its source is csrc/init.c
            while position < len(seen) and not seen[position].startswith("execve("):
                position += 1
        assert same(call, seen[position]), f"planned {call}\nbut seen {seen[position]}"
        position += 1
    rest = [call for call in seen[position:] if call.startswith(("mount(", "clone3(", "setns(", "openat2(", "move_mount("))]
    assert rest == []
