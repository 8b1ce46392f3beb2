"""The ways out of containers that others had to learn of: one test or more for each, named by the CVE.

What pybox does against each is in shared facts (security.md 7) and in the comments of csrc/ and pybox/steps/.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness import (
    BUSYBOX,
    PURE_V2,
    Images,
    below,
    cli,
    inside,
    said,
    shell,
    start,
    strace,
)

import pybox
from pybox.failures import StepFailed

INITS = pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- CVE-2019-5736: the host's runtime, through /proc/PID/exe ----------------------------------------------------------------


@INITS
def test_2019_5736_proc_self_exe_is_not_the_hosts_python(init: bool, image: Images) -> None:
    """The host image has a loader and libraries for it, so it would run."""
    marker = "print('pyth' + 'on')"
    try:
        assert b"python" not in (pybox.run("host", ["/proc/self/exe", "-c", marker], init=init).stdout or b"")
    except pybox.ExecError:
        pass


@INITS
@pytest.mark.parametrize("kind", ["script", "symlink"])
def test_2019_5736_an_entrypoint_that_leads_to_proc_self_exe_runs_nothing_of_the_hosts(
    init: bool, kind: str, tmp_path: Path
) -> None:
    entry = tmp_path / "entry"
    if kind == "script":
        entry.write_text("#!/proc/self/exe\nprint('pyth' + 'on')\n")
        entry.chmod(0o755)
    else:
        entry.symlink_to("/proc/self/exe")
    try:
        result = pybox.run("host", ["/v/entry", "-c", "print('pyth' + 'on')"], init=init, mounts={str(tmp_path): "/v"})
        assert b"python" not in (result.stdout or b"")
    except pybox.ExecError:
        pass


def test_2019_5736_a_container_cannot_overwrite_the_interpreter_that_started_it(tmp_path: Path, tree: Path) -> None:
    """The whole attack, on a copy of python: hold it by /proc/self/exe, wait until no process runs it, write."""
    python = tmp_path / "python"
    shutil.copy2(os.path.realpath(sys.executable), python)
    shutil.copy2(tree / "bin/inside", tmp_path / "inside")
    before = digest(python)
    code = (
        "import os; fd = os.open('/proc/self/exe', os.O_RDONLY); os.dup2(fd, 9, inheritable=True); "
        "os.execv('/v/inside', ['inside', 'reopen', '/proc/self/fd/9', 'PWNED'])"
    )
    attack = (
        f"import sys; sys.path[:] = {sys.path!r}; import pybox; "
        f"pybox.run('host', ['/proc/self/exe', '-c', {code!r}], init=False, capture=False, mounts={{{str(tmp_path)!r}: '/v'}})"
    )
    try:
        for _ in range(8):
            with subprocess.Popen([python, "-c", attack], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                process.stdout.readline()  # "ready", or the end: it could not be executed
                process.kill()
            assert digest(python) == before
    finally:
        cli("gc")


def test_2019_5736_pybox_init_is_a_sealed_copy() -> None:
    import fcntl

    wanted = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    assert int(inside("seals", "/proc/1/exe")) & wanted == wanted


def test_2019_5736_pybox_init_cannot_be_written_to() -> None:
    program = Path(pybox.__file__).parent / "pybox-init"
    before = digest(program)
    for flags in (os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        assert inside("open", "/proc/1/exe", str(flags)) in ("EPERM", "EACCES", "ETXTBSY")
    assert digest(program) == before


def test_2019_5736_the_sealed_copy_as_a_command_does_no_harm() -> None:
    for words in (["/proc/self/exe"], ["/proc/self/exe", "x"], ["/proc/1/exe", "99999999999"], ["/proc/1/exe", "1", "/bin/true"]):
        try:
            assert pybox.run("busybox", words, timeout=2).reason in ("exit", "signal", "timeout")
        except pybox.ExecError:
            pass


# --- CVE-2016-9962: file descriptors of the runtime, by ptrace ----------------------------------------------------------------


@INITS
def test_2016_9962_only_the_streams_are_open_in_the_command(init: bool) -> None:
    rows = dict(line.split(" ", 1) for line in inside("fds", init=init).splitlines())
    assert set(rows) == {"0", "1", "2"}


def test_2016_9962_pybox_init_holds_its_leash_and_nothing_of_the_hosts() -> None:
    rows = said(shell("ls -l /proc/1/fd | tail -n +2 | sed 's/.* \\([0-9]*\\) -> /\\1 /'")).splitlines()
    extra = [target.split(":")[0] for number, target in (row.split(" ", 1) for row in rows) if int(number) > 2]
    assert "socket" in extra and set(extra) <= {"anon_inode", "socket"}  # the leash; a signalfd, as soon as the command runs


def test_2016_9962_pybox_cannot_be_traced_while_a_child_shares_its_memory(tmp_path: Path) -> None:
    lines = strace(tmp_path, "prctl,clone3", "run", "--rm", "busybox", "true")
    calls = [line for line in lines if "PR_SET_DUMPABLE" in line or ("clone3(" in line and "CLONE_THREAD" not in line)]
    first = next(index for index, line in enumerate(calls) if "clone3(" in line)
    assert first > 0 and "SUID_DUMP_DISABLE" in calls[first - 1]


# --- CVE-2024-21626: a leaked fd of a directory of the host's -----------------------------------------------------------------


@pytest.fixture
def leaked(tmp_path: Path) -> LeakedDirs:
    return LeakedDirs(tmp_path)


class LeakedDirs:
    """Directories of the host, open and inheritable at many numbers; a canary and a program are in them."""

    def __init__(self, root: Path) -> None:
        self.path = root / "leaked"
        self.path.mkdir()
        (self.path / "canary").write_text("the host's")
        shutil.copy2(BUSYBOX, self.path / "prog")
        self.fds: list[int] = []

    def __enter__(self) -> LeakedDirs:
        for _ in range(24):
            fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            os.set_inheritable(fd, True)
            self.fds.append(fd)
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.fds:
            os.close(fd)


LOOK = ["sh", "-c", "cat canary ./canary ../leaked/canary; pwd"]


@INITS
def test_2024_21626_a_working_directory_in_proc_self_fd_leads_nowhere(leaked: LeakedDirs, init: bool) -> None:
    with leaked:
        for number in range(3, max(leaked.fds) + 3):
            for path in (
                f"/proc/self/fd/{number}",
                f"/proc/thread-self/fd/{number}",
                f"/proc/1/fd/{number}",
                f"/dev/fd/{number}",
            ):
                try:
                    result = pybox.run("busybox", LOOK, workdir=path, init=init)
                except pybox.PyboxError:
                    continue
                assert b"the host's" not in (result.stdout or b"")


@INITS
def test_2024_21626_neither_does_a_symlink_to_it(leaked: LeakedDirs, image: Images, init: bool) -> None:
    def link(root: Path) -> None:
        for number in range(3, 40):
            (root / f"wd{number}").symlink_to(f"/proc/self/fd/{number}")

    name = image(link)
    with leaked:
        for number in range(3, 40):
            try:
                result = pybox.run(name, LOOK, workdir=f"/wd{number}", init=init)
            except pybox.PyboxError:
                continue
            assert b"the host's" not in (result.stdout or b"")


@INITS
def test_2024_21626_no_program_is_reached_through_proc_self_fd(leaked: LeakedDirs, image: Images, init: bool) -> None:
    def link(root: Path) -> None:
        for number in range(3, 40):
            (root / f"prog{number}").symlink_to(f"/proc/self/fd/{number}/prog")

    name = image(link)
    with leaked:
        for number in range(3, 40):
            for path in (f"/proc/self/fd/{number}/prog", f"/prog{number}"):
                with pytest.raises(pybox.ExecError):
                    pybox.run(name, [path, "echo", "ran"], init=init)


@INITS
def test_2024_21626_leaked_fds_are_closed(leaked: LeakedDirs, init: bool) -> None:
    with leaked:
        done = cli("run", "--rm", "--init" if init else "--no-init", "busybox", "inside", "fds", pass_fds=tuple(leaked.fds))
    assert {line.split()[0] for line in done.stdout.splitlines()} == {"0", "1", "2"}


def test_2024_21626_the_working_directory_is_inside_the_root() -> None:
    for path in ("/", "/tmp", "/home/alice", "/made/for/it"):
        assert said(shell("inside fds >/dev/null; pwd -P; readlink /proc/self/cwd", workdir=path)).split() == [path] * 2


# --- CVE-2019-19921, -2019-16884, -2023-27561, -2023-28642, -2026-41579: where /proc, /sys and /dev lead ----------------------


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
@pytest.mark.parametrize("target", ["/tmp", "../../../../../../tmp", "/nowhere", "."])
def test_2019_19921_an_image_whose_kernel_directory_is_a_symlink_is_refused(
    image: Images, tmp_path: Path, place: str, target: str
) -> None:
    def link(root: Path) -> None:
        (root / place).rmdir()
        (root / place).symlink_to(target)

    before = below("/tmp/pybox-never")
    with pytest.raises(StepFailed, match=f"/{place} is a real directory.*the image has a symlink there"):
        pybox.run(image(link), ["true"])
    assert below("/tmp/pybox-never") == before


@pytest.mark.parametrize("place", ["proc", "sys", "dev"])
def test_2019_19921_an_image_whose_kernel_directory_is_a_file_is_refused(image: Images, place: str) -> None:
    def make(root: Path) -> None:
        (root / place).rmdir()
        (root / place).write_text("x")

    with pytest.raises(StepFailed, match=f"/{place}.*the image has a file where a directory is needed"):
        pybox.run(image(make), ["true"])


def test_an_image_without_those_directories_gets_them(image: Images) -> None:
    def make(root: Path) -> None:
        for name in ("proc", "sys", "dev"):
            (root / name).rmdir()

    assert (
        said(pybox.run(image(make), ["sh", "-c", "test -d /proc/1 && test -d /sys/class && test -c /dev/null && echo fine"]))
        == "fine"
    )


def test_2019_19921_proc_and_sys_are_the_kernels() -> None:
    assert inside("fsmagic", "/proc") == "9fa0" and inside("fsmagic", "/sys") == "62656572"


@pytest.mark.parametrize(
    "target", ["/proc", "/proc/", "//proc/.", "/proc/self/attr", "/proc/sys", "/proc/1", "/sys", "/sys/fs/cgroup", "/dev"]
)
def test_2019_16884_a_volume_over_the_kernels_own_files_is_refused(tmp_path: Path, target: str) -> None:
    done = cli("run", "--rm", "-v", f"{tmp_path}:{target}", "busybox", "true")
    assert done.returncode == 125 and "belongs to the kernel's own file systems" in done.stderr


@pytest.mark.parametrize("target", ["/link", "/link/sys", "/link/self/attr", "/link/1", "/linksys/kernel"])
def test_2023_27561_nor_is_one_laid_there_by_a_symlink_of_the_image(image: Images, tmp_path: Path, target: str) -> None:
    def link(root: Path) -> None:
        (root / "link").symlink_to("/proc")
        (root / "linksys").symlink_to("/sys")

    with pytest.raises(pybox.PyboxError, match=target):
        pybox.run(image(link), ["true"], mounts={str(tmp_path): target})


@pytest.mark.parametrize("target", ["/proc/meminfo", "/proc/cpuinfo", "/proc/uptime"])
def test_lxcfs_may_bring_its_own_view(tmp_path: Path, target: str) -> None:
    (tmp_path / "f").write_text("mine\n")
    assert said(shell(f"cat {target}", mounts={str(tmp_path / "f"): target})) == "mine"


# --- CVE-2021-30465, -2024-45310: a mount target that another container exchanges ---------------------------------------------


def test_2021_30465_a_racing_symlink_in_a_shared_volume_never_leads_to_the_host(tmp_path: Path) -> None:
    shared, outside, source = tmp_path / "shared", tmp_path / "outside", tmp_path / "source"
    for path in (shared, outside, source, shared / "a"):
        path.mkdir()
    (outside / "canary").write_text("the host's")
    (shared / "b").symlink_to(str(outside))
    host_before, ran, refused = below(str(outside)), 0, 0
    starts = 60 if PURE_V2 else 300
    racer = start("run", "--rm", "-v", f"{shared}:/v", "busybox", "sh", "-c", "echo up; exec inside exchange /v/a /v/b")
    with racer:
        try:
            assert racer.stdout is not None and racer.stdout.readline() == b"up\n"
            for _ in range(starts):
                try:
                    mounts = [f"{shared}:/v", f"{source}:/v/a/x"]
                    result = shell("cat /v/a/canary /v/b/canary /v/a/x/canary; touch /v/a/x/mark", mounts=mounts)
                except StepFailed:
                    refused += 1
                    continue
                ran += 1
                assert b"the host's" not in (result.stdout or b"")
        finally:
            racer.terminate()
    assert below(str(outside)) == host_before
    assert ran > 0, f"all {refused} starts were refused: the race was never run"


def test_2024_45310_no_empty_file_appears_on_the_host(image: Images, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "f").write_text("x")
    name = image(lambda root: (root / "out").symlink_to(outside))
    for target in ("/out/file", "/out/dir/file"):
        try:
            pybox.run(name, ["true"], mounts={str(tmp_path / "f"): target})
        except StepFailed:
            pass
    assert os.listdir(outside) == []


# --- CVE-2025-31133, -2025-52881, -2026-41579: what covers the masked files, where kernel files are written -------------------


def test_2025_31133_masks_are_made_of_the_kernels_null_whatever_the_images_is(image: Images) -> None:
    core = Path("/proc/sys/kernel/core_pattern").read_text()

    def link(root: Path) -> None:
        (root / "dev/null").symlink_to("/proc/sys/kernel/core_pattern")

    from pybox.host import probe

    rows = [line.split() for line in said(pybox.run(image(link), ["cat", "/proc/self/mountinfo"])).splitlines()]
    for path, directory in probe().masked:
        row = [row for row in rows if row[4] == path][-1]
        assert row[row.index("-") + 1] == "tmpfs"
        assert row[3] == ("/" if directory else "/null")
        assert not directory or row[5].startswith("ro,")
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core


def test_2025_52881_settings_of_the_process_are_not_written_to_files_of_the_image(image: Images) -> None:
    def fake(root: Path) -> None:
        (root / "proc/self").mkdir()
        (root / "proc/self/oom_score_adj").write_text("untouched")

    name = image(fake)
    assert said(pybox.run(name, ["cat", "/proc/self/oom_score_adj"], oom_score_adj=555)) == "555"


@pytest.mark.parametrize("init", [True, False])
def test_2026_41579_device_nodes_never_appear_on_the_host(image: Images, tmp_path: Path, init: bool) -> None:
    def link(root: Path) -> None:
        (root / "dev").rmdir()
        (root / "dev").symlink_to(f"../../../../../../../..{tmp_path}")

    with pytest.raises(StepFailed):
        pybox.run(image(link), ["true"], init=init)
    assert os.listdir(tmp_path) == []
