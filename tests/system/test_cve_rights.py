"""The second half of test_cve.py: control groups, capabilities, users, code of the image, terminals."""

from __future__ import annotations

import hashlib
import os
import pty
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from harness import (
    DEFAULT_CAPS,
    PURE_V2,
    PYBOX,
    TIMEOUT,
    Images,
    inside,
    running,
    said,
    shell,
    strace,
)
from hypothesis import given
from hypothesis import strategies as st

import pybox
from pybox.errors import SpecError
from pybox.image.model import Image
from pybox.spec import ID_MAX, Spec, parse_user
from pybox.users import find

INITS = pytest.mark.parametrize("init", [True, False], ids=["init", "no-init"])


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


# --- CVE-2022-0492, -2023-25809: control groups -------------------------------------------------------------------------------

NEWUSER, NEWCGROUP, NEWNS = 0x10000000, 0x02000000, 0x00020000


@pytest.mark.parametrize("options", [{}, {"userns": True}, {"user": "alice"}, {"seccomp": "unconfined"}], ids=str)
def test_2022_0492_no_cgroup_file_system_can_be_mounted(options: dict[str, object]) -> None:
    for flags in (NEWUSER, NEWUSER | NEWNS | NEWCGROUP, NEWNS, NEWCGROUP):
        if not (
            options.get("seccomp") and flags & NEWUSER
        ):  # without seccomp a user namespace is anybody's, but the next line holds
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
    words = [
        "setpriv",
        "--inh-caps=+chown,+net_raw",
        "--ambient-caps=+chown,+net_raw",
        *PYBOX,
        "run",
        "--rm",
        "--init" if init else "--no-init",
    ]
    for user, effective in (("0", DEFAULT_CAPS), ("1000", 0)):
        done = subprocess.run(
            [*words, "-u", user, "busybox", "grep", "Cap", "/proc/self/status"], capture_output=True, text=True, timeout=TIMEOUT
        )
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


@INITS
def test_2019_14271_nothing_of_the_image_is_loaded_before_the_command_runs(image: Images, tmp_path: Path, init: bool) -> None:
    def hostile(root: Path) -> None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for folder in (
            f"usr/lib/{version}/encodings",
            f"usr/lib/{version}/site-packages",
            "lib/x86_64-linux-gnu",
            "usr/share/locale",
            "etc/ld.so.conf.d",
        ):
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
        assert (
            ".py" not in line and ".so" not in line and "nsswitch" not in line and "passwd" not in line and "locale" not in line
        ), line
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
