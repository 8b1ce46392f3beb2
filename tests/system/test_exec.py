"""What exec runs in a container is in it: the same namespaces, groups, rights and files, and no more of the host's than the command has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import LIBC, PYBOX, TIMEOUT, Images, children, cli, eventually, start

from pybox.image.model import ImageConfig

KINDS = ("user", "mnt", "pid", "uts", "ipc", "net", "cgroup")
KEPT = {
    "plain": (),
    "watched": ("--cap-add", "SYS_PTRACE"),
    "userns": ("--userns",),
    "host pid": ("--pid", "host"),
    "limits": ("-m", "64M", "--pids-limit", "50"),
    "rights": ("--cap-drop", "ALL", "--cap-add", "CHOWN", "--ulimit", "nofile=77:88", "--oom-score-adj", "321"),
    "loose": ("--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges=false"),
    "alice": ("-u", "alice"),
}


@pytest.fixture(params=KEPT, ids=str)
def box(request: pytest.FixtureRequest, store: object) -> Iterator[str]:
    yield from _box("box", *KEPT[request.param])


@pytest.fixture(scope="module", params=["plain", "watched"])
def two(request: pytest.FixtureRequest, store: object) -> Iterator[str]:
    """Both ways in: directly, and through a sealed pybox-init. Shared by the tests, which write only where nothing is kept."""
    yield from _box("two", "--tmpfs", "/tmp", "--tmpfs", "/x:exec", *KEPT[request.param])


@pytest.fixture(params=["plain", "watched"])
def mortal(request: pytest.FixtureRequest, store: object) -> Iterator[str]:
    """The same for one test, which may end it."""
    yield from _box("mortal", *KEPT[request.param])


def _box(name: str, *options: str, image: str = "busybox") -> Iterator[str]:
    done = cli("run", "-d", "--name", name, *options, image, "sleep", "100000")
    if "cannot enforce" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    try:
        yield name
    finally:
        # what an exec left is ours to reap, whenever it has died: the container can't end before (pid_namespaces(7))
        with start("rm", "-f", name) as removing:
            assert eventually(lambda: reap(removing.pid) or removing.poll() is not None)


def run(name: str, *command: str, options: tuple[str, ...] = ()) -> str:
    done = cli("exec", *options, name, *command)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def first(name: str) -> int:
    """Return the host's pid of the command that the container was started with."""
    pid = next(entry["pid"] for entry in json.loads(cli("ps", "--format", "json").stdout) if entry["name"] == name)
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


# --- the same as the command -----------------------------------------------------------------------------------------------------


def test_namespaces_groups_rights_and_limits_are_those_of_the_command(box: str) -> None:
    own = first(box)
    seen = status(run(box, "cat", "/proc/self/status"))
    wanted = status(Path(f"/proc/{own}/status").read_text())
    for field in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask", "SigBlk", "SigIgn"):
        assert seen[field] == wanted[field], field
    assert seen["CapInh"] == seen["CapAmb"] == "0" * 16
    namespaces = run(box, "sh", "-c", "cd /proc/self/ns && for kind in " + " ".join(KINDS) + "; do readlink $kind; done").split()
    assert namespaces == [os.readlink(f"/proc/{own}/ns/{kind}") for kind in KINDS]
    process = start("exec", box, "sh", "-c", "echo up; exec sleep 4321")
    with process:
        try:
            assert process.stdout is not None and process.stdout.readline() == b"up\n"
            mine = pid_of(4321)
            for file in ("cgroup", "limits", "oom_score_adj", "uid_map", "attr/current"):
                try:
                    there = Path(f"/proc/{own}/{file}").read_text()
                except OSError:
                    continue
                assert Path(f"/proc/{mine}/{file}").read_text() == there, file
            assert os.stat(f"/proc/{mine}/root").st_ino == os.stat(f"/proc/{own}/root").st_ino
            fields = status(Path(f"/proc/{mine}/status").read_text())
            assert {fields[name] for name in ("Uid", "Gid", "Groups")} == {wanted[name] for name in ("Uid", "Gid", "Groups")}
        finally:
            process.terminate()


def cmdline(pid: str) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def pid_of(seconds: int) -> str:
    """Return the host's pid of the `sleep` of so many seconds, as soon as it is one."""
    found: list[str] = []

    def there() -> bool:
        found[:] = [pid for pid in os.listdir("/proc") if pid.isdigit() and cmdline(pid) == b"sleep\x00%d\0" % seconds]
        return bool(found)

    assert eventually(there)
    return found[0]


def test_nothing_of_pyboxs_is_open(two: str) -> None:
    for options in ((), ("-i",), ("-d",)):
        if options == ("-d",):
            run(two, "sh", "-c", "inside fds >/tmp/fds", options=options)
            assert eventually(lambda: "2 " in run(two, "cat", "/tmp/fds"))
            rows = run(two, "cat", "/tmp/fds")
        else:
            rows = run(two, "inside", "fds", options=options)
        assert {row.split()[0] for row in rows.splitlines()} == {"0", "1", "2"}


def test_user_groups_home_and_environment(image: Images) -> None:
    name = image(config=ImageConfig(env=("FROM=image", "BOTH=image", "PATH=/bin:/usr/bin"), cmd=("sh",), workdir="/tmp"))
    for box in _box("box", "-e", "OWN=container", "-e", "BOTH=container", image=name):
        env = dict(line.split("=", 1) for line in run(box, "env", options=("-e", "BOTH=exec", "-e", "NEW=a=b")).splitlines())
        assert (env["FROM"], env["OWN"], env["BOTH"], env["NEW"], env["HOME"]) == ("image", "container", "exec", "a=b", "/root")
        assert env["PATH"] == "/bin:/usr/bin" and env["HOSTNAME"] and "TERM" not in env
        assert run(box, "inside", "ids", options=("-u", "alice")) == "1000 1000 1000 / 1000 1000 1000 / 10 44"
        assert run(box, "sh", "-c", "echo $HOME", options=("-u", "alice")) == "/home/alice"
        assert run(box, "inside", "ids", options=("-u", "1234:55")).startswith("1234 1234 1234 / 55 55 55")
        assert run(box, "grep", "CapEff", "/proc/self/status", options=("-u", "alice")).endswith("0" * 16)
        assert run(box, "pwd") == "/tmp" and run(box, "pwd", options=("-w", "/etc")) == "/etc"
        run(box, "sh", "-c", "echo carol:x:77:88::/home/carol:/bin/sh >>/etc/passwd; echo team:x:99:carol >>/etc/group")
        assert run(box, "inside", "ids", options=("-u", "carol")) == "77 77 77 / 88 88 88 / 99"


def test_privileged_has_all_capabilities_and_no_filter(two: str) -> None:
    seen = status(run(two, "cat", "/proc/self/status", options=("--privileged",)))
    assert (seen["Seccomp"], seen["NoNewPrivs"]) == ("0", "0")
    assert seen["CapEff"] == status(Path("/proc/self/status").read_text())["CapEff"]


@pytest.mark.parametrize(
    "user", ["", ":", "-1", "4294967296", "0x0", "1:", ":1", "+0", " 0", "0 ", "root:", "nobody2", "alice:nogroup", "٣", "1e3"]
)
def test_2026_30892_a_user_that_is_none_is_refused(two: str, user: str) -> None:
    done = cli("exec", "-u", user, two, "id", "-u")
    if user == "":  # as if it were not given: root, which the container's command is
        assert (done.returncode, done.stdout) == (0, "0\n")
        return
    assert done.returncode == 125 and done.stdout == "" and done.stderr.startswith("pybox: error: ")


# --- how it ends -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 125, 126, 127, 255])
def test_the_exit_code_is_the_commands_own(two: str, code: int) -> None:
    assert cli("exec", two, "sh", "-c", f"exit {code}").returncode == code


@pytest.mark.parametrize("number", [1, 2, 9, 11, 15])
def test_an_end_by_a_signal_is_told(two: str, number: int) -> None:
    assert cli("exec", two, "inside", "kill", str(number)).returncode == 128 + number


FAILURES = {
    "nosuch": 127, "/nosuch": 127, "/etc/passwd": 126, "/etc": 126, "/x/nointerpreter": 127, "/x/garbage": 126, "/x/empty": 126,
    "/x/loop": 126, "/proc/self/exe": 126,
}  # fmt: skip


@pytest.mark.parametrize("detach", [(), ("-d",)], ids=["foreground", "detached"])
def test_what_can_not_be_executed_is_told_as_by_run(two: str, detach: tuple[str, ...]) -> None:
    script = (
        "cd /x && rm -f *; printf '#!/nosuch\\n' >nointerpreter; printf '\\1\\2' >garbage; : >empty; chmod 755 *; ln -s loop loop"
    )
    run(two, "sh", "-c", script)
    for command, code in FAILURES.items():
        done = cli("exec", *detach, two, command)
        assert done.returncode == code, (command, done.stderr)
        assert done.stderr.startswith("pybox: error: cannot execute ") and "Traceback" not in done.stderr


@pytest.mark.parametrize("path", ["/nosuch", "/etc/passwd", "relative"])
def test_a_working_directory_that_is_not_there_is_refused_and_not_made(two: str, path: str) -> None:
    done = cli("exec", "-w", path, two, "pwd")
    assert done.returncode == 125 and done.stderr.startswith("pybox: error: ") and path in done.stderr
    assert cli("exec", two, "ls", "/nosuch").returncode != 0


def test_detached_it_outlives_pybox_and_dies_with_the_container(mortal: str) -> None:
    assert cli("exec", "-d", mortal, "sleep", "4322").stdout == ""
    pid = pid_of(4322)
    assert "sleep 4322" in run(mortal, "ps", "-o", "args")
    cli("kill", mortal)

    def gone() -> bool:
        reap()
        return not cmdline(pid)

    assert eventually(gone)


def reap(but: int = 0) -> None:
    for pid, state in children().items():
        if state == "Z" and pid != but:
            os.waitpid(pid, 0)


@pytest.mark.parametrize("options", [(), ("-u", "alice"), ("--privileged",)], ids=str)
def test_in_the_foreground_it_dies_with_pybox(two: str, options: tuple[str, ...]) -> None:
    process = start("exec", *options, two, "sh", "-c", "echo up; exec sleep 4323")
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        process.kill()

    def gone() -> bool:
        reap()
        return not [pid for pid in os.listdir("/proc") if pid.isdigit() and cmdline(pid) == b"sleep\x004323\0"]

    assert eventually(gone)


def test_when_the_container_ends_exec_ends(mortal: str) -> None:
    process = start("exec", mortal, "sh", "-c", "echo up; exec sleep 4324")
    with process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        cli("kill", mortal)
        assert process.wait(TIMEOUT) == 137


# --- where it can't be ------------------------------------------------------------------------------------------------------------


def test_what_does_not_run_can_not_be_entered_and_says_so_in_one_line(store: object) -> None:
    try:
        cli("create", "--name", "idle", "busybox", "true")
        for name in ("idle", "nobody", "", "-"):
            done = cli("exec", name, "true")
            lines = done.stderr.splitlines()
            assert done.returncode == 125 and done.stdout == "", name
            assert lines[0].startswith("pybox: error: ") and len(lines) <= 2, lines
        for words in (("exec",), ("exec", "idle"), ("exec", "--nosuch", "idle", "true"), ("exec", "-i", "-t", "idle", "true")):
            done = cli(*words)
            assert done.returncode == 125 and "Traceback" not in done.stderr
    finally:
        cli("rm", "-f", "idle")


def test_a_foreground_run_can_be_entered(store: object) -> None:
    with start("run", "--rm", "--name", "front", "busybox", "sh", "-c", "echo up; exec sleep 4325") as process:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        try:
            assert run("front", "sh", "-c", "echo in; ps | grep -c 'sleep 432[5]'") == "in\n1"
        finally:
            process.terminate()


def test_explain_shows_it(two: str) -> None:
    plan = json.loads(cli("explain", "--format", "json", "exec", "-u", "alice", two, "true").stdout)
    kinds = [step["step"] for step in plan["steps"]]
    assert kinds[-1] == "Exec" and "EnterNamespaces" in kinds and "MountOverlay" not in kinds
    assert kinds.index("SetUid") < kinds.index("NewSession")
    assert "EnterNamespaces" in kinds and ("HideMemory" in kinds) != ("BecomeInit" in kinds)
    assert run(two, "ps", "-o", "args").count("true") == 0


def test_leaked_fds_and_ids_of_the_caller_do_not_matter(two: str, tmp_path: Path) -> None:
    code = (
        "import os, sys; fds = [os.open(sys.argv[1], os.O_RDONLY) for _ in range(20)]; [os.set_inheritable(fd, True) for fd in fds];"
        "os.umask(0o777); os.execv(sys.executable, [sys.executable, '-m', 'pybox', 'exec', *sys.argv[2:]])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path, two, "inside", "fds"], capture_output=True, text=True, timeout=TIMEOUT
    )
    assert {row.split()[0] for row in done.stdout.splitlines()} == {"0", "1", "2"}
    assert PYBOX and LIBC
