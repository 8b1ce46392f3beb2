"""The ways out of containers that others had to learn of: one test or more for each, named by the CVE.

What pybox does against each is in shared facts (security.md 7) and in the comments of csrc/ and pybox/steps/.
"""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pybox
import pytest
from harness import BUSYBOX, DEFAULT_CAPS, PURE_V2, PYBOX, TIMEOUT, Images, below, cli, inside, running, said, shell, start
from hypothesis import given
from hypothesis import strategies as st

from pybox.errors import SpecError
from pybox.failures import StepFailed
from pybox.image.model import Image
from pybox.spec import ID_MAX, Spec, parse_user
from pybox.users import find

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
def test_2019_5736_an_entrypoint_that_leads_to_proc_self_exe_runs_nothing_of_the_hosts(init: bool, kind: str, tmp_path: Path) -> None:
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
    calls = [line for line in lines if "PR_SET_DUMPABLE" in line or "clone3(" in line]
    first = next(index for index, line in enumerate(calls) if "clone3(" in line)
    assert first > 0 and "SUID_DUMP_DISABLE" in calls[first - 1]


# --- CVE-2024-21626: a leaked fd of a directory of the host's -----------------------------------------------------------------


@pytest.fixture
def leaked(tmp_path: Path) -> "LeakedDirs":
    return LeakedDirs(tmp_path)


class LeakedDirs:
    """Directories of the host, open and inheritable at many numbers; a canary and a program are in them."""

    def __init__(self, root: Path) -> None:
        self.path = root / "leaked"
        self.path.mkdir()
        (self.path / "canary").write_text("the host's")
        shutil.copy2(BUSYBOX, self.path / "prog")
        self.fds: list[int] = []

    def __enter__(self) -> "LeakedDirs":
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
            for path in (f"/proc/self/fd/{number}", f"/proc/thread-self/fd/{number}", f"/proc/1/fd/{number}", f"/dev/fd/{number}"):
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
def test_2019_19921_an_image_whose_kernel_directory_is_a_symlink_is_refused(image: Images, tmp_path: Path, place: str, target: str) -> None:
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

    assert said(pybox.run(image(make), ["sh", "-c", "test -d /proc/1 && test -d /sys/class && test -c /dev/null && echo fine"])) == "fine"


def test_2019_19921_proc_and_sys_are_the_kernels() -> None:
    assert inside("fsmagic", "/proc") == "9fa0" and inside("fsmagic", "/sys") == "62656572"


@pytest.mark.parametrize("target", ["/proc", "/proc/", "//proc/.", "/proc/self/attr", "/proc/sys", "/proc/1", "/sys", "/sys/fs/cgroup", "/dev"])
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


# --- CVE-2022-0492, -2023-25809: control groups -------------------------------------------------------------------------------

NEWUSER, NEWCGROUP, NEWNS = 0x10000000, 0x02000000, 0x00020000


@pytest.mark.parametrize("options", [{}, {"userns": True}, {"user": "alice"}, {"seccomp": "unconfined"}], ids=str)
def test_2022_0492_no_cgroup_file_system_can_be_mounted(options: dict[str, object]) -> None:
    for flags in (NEWUSER, NEWUSER | NEWNS | NEWCGROUP, NEWNS, NEWCGROUP):
        if not (options.get("seccomp") and flags & NEWUSER):  # without seccomp a user namespace is anybody's, but the next line holds
            assert inside("unshare", str(flags), **options) == "EPERM"
    for fstype in ("cgroup", "cgroup2", "proc", "tmpfs"):
        assert inside("mount", "none", "/tmp", fstype, "0", "memory" if fstype == "cgroup" else "", **options) == "EPERM"


def test_2022_0492_no_release_agent_is_in_sight() -> None:
    assert said(shell("find / -xdev -name release_agent 2>/dev/null; find /sys -name release_agent 2>/dev/null; true")) == ""


@pytest.mark.parametrize("options", [{}, {"memory": "64M"}, {"userns": True}], ids=str)
def test_2023_25809_the_control_groups_cannot_be_written(options: dict[str, object]) -> None:
    result = shell("mkdir /sys/fs/cgroup/x; touch /sys/fs/cgroup/x; echo 0 >/sys/fs/cgroup/cgroup.procs", **options)
    assert result.exit_code != 0
    assert not PURE_V2 or b"Read-only file system" in (result.stderr or b"")
    mounts = [line.split() for line in said(shell("cat /proc/mounts", **options)).splitlines()]
    assert all(mount[3].startswith("ro,") for mount in mounts if mount[2].startswith("cgroup"))


# --- CVE-2022-29162, -27650, -27649: inheritable capabilities -----------------------------------------------------------------


@INITS
def test_2022_29162_nothing_is_inheritable_or_ambient_whatever_the_caller_has(init: bool) -> None:
    if not shutil.which("setpriv"):
        pytest.skip("no setpriv (util-linux)")
    words = ["setpriv", "--inh-caps=+chown,+net_raw", "--ambient-caps=+chown,+net_raw", *PYBOX, "run", "--rm", "--init" if init else "--no-init"]
    for user, effective in (("0", DEFAULT_CAPS), ("1000", 0)):
        done = subprocess.run([*words, "-u", user, "busybox", "grep", "Cap", "/proc/self/status"], capture_output=True, text=True, timeout=TIMEOUT)
        found = {line.split()[0].rstrip(":"): int(line.split()[1], 16) for line in done.stdout.splitlines()}
        assert (found["CapInh"], found["CapAmb"], found["CapEff"], found["CapPrm"]) == (0, 0, effective, effective)


# --- CVE-2026-30892: whom -u names -------------------------------------------------------------------------------------------

NOBODYS = ("", ":", "-1", "4294967295", "4294967296", "99999999999999999999", "0x0", "1:", ":1", "1:2:3", " ", "0 ", " 0", "+0", "1:-1", "root:",
           "0:4294967295", "\u0660", "1_0", "1\n", "a b", "a/b", "a,b", "1:\t")  # fmt: skip


@pytest.mark.parametrize("user", NOBODYS[1:])
def test_2026_30892_what_is_not_a_user_is_refused(user: str) -> None:
    with pytest.raises(SpecError):
        Spec("busybox", ("true",), user=user)
        shell("true", user=user)


@given(st.one_of(st.text(max_size=24), st.from_regex(r"[0-9+\-x:]{1,14}", fullmatch=True)))
def test_2026_30892_a_parsed_user_is_exactly_what_was_said(user: str) -> None:
    try:
        name, group = parse_user(user)
    except SpecError:
        return
    parts = user.split(":")
    assert len(parts) in (1, 2) and (len(parts) == 2) == (group is not None)
    for text, value in zip(parts, (name, group), strict=False):
        if isinstance(value, int):
            assert text.isascii() and text.isdigit() and 0 <= value <= ID_MAX and int(text) == value
        else:
            assert value == text and text and not text.lstrip().isdigit() and text[0] not in "+-"


@pytest.mark.parametrize(
    "row",
    ["evil:x:4294967295:0::/:/bin/sh", "evil:x:4294967296:0::/:/bin/sh", "evil:x:-1:0::/:/bin/sh", "evil:x:0x0:0::/:", "evil:x::0::/:/bin/sh",
     "evil:x:" + "1" * 5000 + ":0::/:/bin/sh", "evil:x:1000:4294967295::/:/bin/sh", "evil:x:1000:4294967296::/:/bin/sh",
     "evil:x:1000:" + "1" * 5000 + "::/:/bin/sh", "evil:x:1000:-1::/:/bin/sh"],
)  # fmt: skip
def test_2026_30892_an_id_of_the_images_that_is_none_is_nobodys(tmp_path: Path, row: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(row + "\n")
    with pytest.raises(SpecError):
        find(Image("x", "x", (str(tmp_path),)), "evil")


@pytest.mark.parametrize("gone", ["whiteout", "directory whiteout", "file for a directory", "opaque"])
def test_2026_30892_a_user_that_an_upper_layer_has_deleted_is_gone(tmp_path: Path, gone: str) -> None:
    low, top = tmp_path / "low", tmp_path / "top"
    (low / "etc").mkdir(parents=True)
    (low / "etc/passwd").write_text("old:x:0:0::/:/bin/sh\n")
    top.mkdir()
    if gone == "whiteout":
        (top / "etc").mkdir()
        os.mknod(top / "etc/passwd", stat.S_IFCHR, 0)
    elif gone == "directory whiteout":
        os.mknod(top / "etc", stat.S_IFCHR, 0)
    elif gone == "opaque":
        (top / "etc").mkdir()
        os.setxattr(top / "etc", "trusted.overlay.opaque", b"y")
    else:
        (top / "etc").write_text("")
    with pytest.raises(SpecError):
        find(Image("x", "x", (str(top), str(low))), "old")


# --- CVE-2019-14271: code of the image in pybox ------------------------------------------------------------------------------


def strace(folder: Path, calls: str, *words: str) -> list[str]:
    """Return the system calls of `pybox WORDS` and all its children, in order."""
    if not shutil.which("strace"):
        pytest.skip("no strace")
    done = subprocess.run(
        ["strace", "-f", "-qq", "-s", "512", "-o", folder / "trace", "-e", f"trace={calls}", *PYBOX, *words],
        capture_output=True, stdin=subprocess.DEVNULL, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return (folder / "trace").read_text(errors="replace").splitlines()


@INITS
def test_2019_14271_nothing_of_the_image_is_loaded_before_the_command_runs(image: Images, tmp_path: Path, init: bool) -> None:
    def hostile(root: Path) -> None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for folder in (f"usr/lib/{version}/encodings", f"usr/lib/{version}/site-packages", "lib/x86_64-linux-gnu", "usr/share/locale", "etc/ld.so.conf.d"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        for name in ("encodings/idna.py", "site-packages/sitecustomize.py", "traceback.py", "linecache.py"):
            (root / f"usr/lib/{version}" / name).write_text("raise SystemExit('loaded')\n")
        (root / "etc/nsswitch.conf").write_text("passwd: evil files\n")
        (root / "lib/x86_64-linux-gnu/libnss_evil.so.2").write_bytes(b"\x7fELF")

    words = ["run", "--rm", "--init" if init else "--no-init", "-u", "alice", image(hostile), "inside", "ids"]
    lines = strace(tmp_path, "open,openat,openat2,openat2,execve,execveat,pivot_root,mmap", *words)
    pivot = next(index for index, line in enumerate(lines) if "pivot_root(" in line)
    pid = lines[pivot].split()[0]
    after = [line for line in lines[pivot + 1 :] if line.split()[0] == pid]
    end = next(index for index, line in enumerate(after) if "execve" in line)
    opened = [line for line in after[:end] if "open" in line]
    assert opened, "strace saw no mount target opened: the test looks at the wrong process"
    for line in opened:
        assert ".py" not in line and ".so" not in line and "nsswitch" not in line and "passwd" not in line and "locale" not in line, line
        assert "O_PATH" in line or "O_EXCL" in line or "/proc/" in line or '/inside"' in line, line
    parent = [line for line in lines if line.split()[0] != pid and "nsswitch.conf" in line]
    assert not parent, parent


# --- CVE-2017-5226: keystrokes into the caller's terminal --------------------------------------------------------------------


@pytest.mark.parametrize("what", ["tiocsti", "tioclinux"])
@pytest.mark.parametrize("options", [(), ("--no-init",), ("--security-opt", "seccomp=unconfined")], ids=" ".join)
def test_2017_5226_nothing_can_be_typed_into_the_callers_terminal(what: str, options: tuple[str, ...]) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(PYBOX[0], [*PYBOX, "run", "--rm", *options, "busybox", "inside", what])
    said_ = b""
    try:
        while part := os.read(terminal, 4096):
            said_ += part
    except OSError:  # EIO: the last process on the terminal is gone
        pass
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert said_.split()[-1] in (b"EPERM", b"EIO", b"ENOTTY", b"EINVAL"), said_


# --- CVE-2020-15257, -2023-30549, -2022-31214 --------------------------------------------------------------------------------


def test_2020_15257_pybox_has_no_abstract_socket() -> None:
    def abstract() -> set[str]:
        rows = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
        return {row[7] for row in rows if len(row) > 7 and row[7].startswith("@")}

    before = abstract()
    with running(Spec("busybox", ("sleep", "1000"))):
        assert not {name for name in abstract() - before if "pybox" in name}
    with running(Spec("busybox", ("sleep", "1000"), network="host")) as (seen, _, _):
        assert not [line for line in seen.file("net/unix").splitlines() if "pybox" in line.partition("@")[2]]


def test_2023_30549_no_file_of_the_package_has_rights_of_its_own() -> None:
    package = Path(pybox.__file__).parent
    files = [path for path in package.rglob("*") if path.is_file()]
    assert any(path.name == "pybox-init" for path in files)
    for path in files:
        assert not path.stat().st_mode & (stat.S_ISUID | stat.S_ISGID | stat.S_IWOTH), path
        assert "security.capability" not in os.listxattr(path), path


# --- rules that hardening must not break, from crun's regressions ------------------------------------------------------------


@pytest.mark.parametrize("options", [{}, {"userns": True}, {"read_only": True}, {"user": "alice"}], ids=str)
def test_hardening_leaves_a_usable_system(options: dict[str, object]) -> None:
    checks: dict[str, str] = {
        "echo x >/dev/fd/1": "x",
        "echo y | cat /dev/stdin": "y",
        "stat -c %a /dev/shm": "1777",
        "touch /dev/shm/f && echo ok": "ok",
        "test -r /sys/class/net && echo ok": "ok",
        "head -c 1 /dev/zero | wc -c": "1",
        "cat /proc/self/comm": "cat",
    }
    for script, expected in checks.items():
        assert said(shell(script, **options)) == expected, script
