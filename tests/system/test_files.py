"""cp, diff, export and commit: the files of containers that run and of containers that have ended, as root."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import shutil
import signal
import stat
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from harness import CGROUPS, PURE_V2, PYBOX, TIMEOUT, Images, cli, eventually, many, start

from pybox import api, dirs
from pybox.files import views
from pybox.spec import Spec

Box = Callable[..., str]


@contextlib.contextmanager
def alive(*words: str, image: str = "busybox", script: str = "true") -> Iterator[str]:
    """Start a container that has run the script and waits; yields its id; it is ended and forgotten afterwards."""
    process = start("run", *words, image, "sh", "-c", f"{script}; echo up; exec sleep 600")
    try:
        assert process.stdout is not None and process.stdout.readline() == b"up\n"
        found = json.loads(cli("ps", "--format", "json").stdout)
        yield str(found[-1]["id"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(TIMEOUT)
        process.stdout.close()
        if "--rm" not in words:
            cli("rm", str(json.loads(cli("ps", "-a", "--format", "json").stdout)[-1]["id"]))


@contextlib.contextmanager
def ended(*words: str, image: str = "busybox", script: str = "true") -> Iterator[str]:
    """As ``alive``, but the container has ended after its script."""
    done = cli("run", *words, image, "sh", "-c", script)
    assert done.returncode == 0, done.stderr
    identity = str(json.loads(cli("ps", "-a", "--format", "json").stdout)[-1]["id"])
    try:
        yield identity
    finally:
        assert cli("rm", identity).returncode == 0


KINDS = {
    "running, on disk": (alive, ("--upper", "disk")),
    "running, in memory": (alive, ("--rm",)),
    "running, with --userns": (alive, ("--userns",)),
    "ended": (ended, ()),
    "ended, with --userns": (ended, ("--userns",)),
}
EACH = pytest.mark.parametrize("kind", KINDS)


def box(kind: str, script: str = "true", image: str = "busybox") -> contextlib.AbstractContextManager[str]:
    make, words = KINDS[kind]
    return make(*words, image=image, script=script)


def binary(*words: str, input: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run `pybox WORDS` with bytes in and out."""
    return subprocess.run([*PYBOX, *words], input=input or b"", capture_output=True, timeout=TIMEOUT)


def good(*words: str, input: bytes | None = None) -> bytes:
    done = binary(*words, input=input)
    assert (done.returncode, done.stderr) == (0, b""), done.stderr
    return done.stdout


def refused(*words: str, input: bytes | None = None) -> str:
    """Run what must fail; returns the error line."""
    done = binary(*words, input=input)
    lines = done.stderr.decode().splitlines()
    assert done.returncode == 125 and lines[0].startswith("pybox: error: ") and len(lines) <= 2, lines
    return lines[0].removeprefix("pybox: error: ")


def members(data: bytes) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return {member.name: member for member in archive}


def tar(*entries: tuple[str, bytes, str, bytes]) -> bytes:
    """A tar of (name, type, link, content)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, link, data in entries:
            info = tarfile.TarInfo(name)
            info.type, info.linkname, info.size, info.uid = kind, link, len(data), 4321
            info.mode = 0o755
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


# --- cp ------------------------------------------------------------------------------------------------------------------------


@EACH
def test_a_tree_goes_in_and_comes_out_as_it_was(tmp_path: Path, kind: str) -> None:
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "data").write_bytes(os.urandom(3_000_000))
    (tree / "data").chmod(0o640)
    os.chown(tree / "data", 1000, 1000)
    os.utime(tree / "data", ns=(1, 1_111_111_111_222_333_444))
    os.link(tree / "data", tree / "sub/same")
    (tree / "link").symlink_to("/etc/passwd")
    os.utime(tree / "sub", ns=(1, 5))
    with box(kind) as container:
        good("cp", str(tree), f"{container}:/new")
        good("cp", f"{container}:/new", str(tmp_path / "back"))
        inside = members(good("cp", f"{container}:/new", "-"))
    assert {name: (member.uid, member.gid) for name, member in inside.items()}.keys() == {
        "new", "new/data", "new/link", "new/sub", "new/sub/same"
    }  # fmt: skip
    assert {(member.uid, member.gid) for member in inside.values()} == {(0, 0)}
    back = tmp_path / "back"
    assert (back / "data").read_bytes() == (tree / "data").read_bytes()
    assert os.readlink(back / "link") == "/etc/passwd"
    status = (back / "data").stat()
    assert (status.st_mtime_ns, stat.S_IMODE(status.st_mode), status.st_uid, status.st_nlink) == (
        1_111_111_111_222_333_444, 0o640, 0, 2,
    )  # fmt: skip
    assert (back / "sub").stat().st_mtime_ns == 5


@EACH
def test_with_a_the_owner_is_kept_as_a_number_of_the_containers(tmp_path: Path, kind: str) -> None:
    (tmp_path / "f").write_text("x")
    os.chown(tmp_path / "f", 33, 44)
    (tmp_path / "f").chmod(0o4711)
    with box(kind, "touch /theirs && chown 1000:10 /theirs") as container:
        good("cp", "-a", str(tmp_path / "f"), f"{container}:/f")
        found = members(good("cp", f"{container}:/f", "-"))["f"]
        assert (found.uid, found.gid, found.mode) == (33, 44, 0o4711)
        good("cp", "-a", f"{container}:/theirs", str(tmp_path))
        good("cp", f"{container}:/theirs", str(tmp_path / "ours"))
    assert (os.stat(tmp_path / "theirs").st_uid, os.stat(tmp_path / "theirs").st_gid) == (1000, 10)
    assert (os.stat(tmp_path / "ours").st_uid, os.stat(tmp_path / "ours").st_gid) == (0, 0)


def test_set_user_id_of_a_container_does_not_become_the_callers(tmp_path: Path) -> None:
    with ended(script="cp /bin/busybox /su; chown 1000:1000 /su; chmod 6755 /su") as container:
        good("cp", f"{container}:/su", str(tmp_path / "su"))
    assert (os.stat(tmp_path / "su").st_uid, stat.S_IMODE(os.stat(tmp_path / "su").st_mode)) == (0, 0o755)


def test_a_running_container_sees_at_once_what_is_copied_in(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("new\n")
    with alive(script="echo old >/f; { { until grep -q new /f; do :; done; touch /seen; } & }") as container:
        good("cp", str(tmp_path / "f"), f"{container}:f")
        assert eventually(lambda: binary("cp", f"{container}:/seen", "-").returncode == 0)


def test_volumes_are_reached_through_the_container(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "f").write_text("x")
    with alive("-v", f"{tmp_path}/v:/v", "--tmpfs", "/t") as container:
        good("cp", str(tmp_path / "f"), f"{container}:/v/new")
        good("cp", str(tmp_path / "f"), f"{container}:/t/new")
        assert set(members(good("cp", f"{container}:/t", "-"))) == {"t", "t/new"}
        assert {"./v", "./t"} <= set(members(good("export", container))) and "./v/new" not in members(good("export", container))
    assert (tmp_path / "v/new").read_text() == "x"


@EACH
def test_any_names_go_both_ways(tmp_path: Path, kind: str) -> None:
    names = [b"new\nline", b"\xff\xfe", "ü".encode(), b"-dash", b" ", b"a\tb", b"n" * 255]
    tree = os.fsencode(tmp_path / "tree")
    os.mkdir(tree)
    for name in names:
        Path(os.fsdecode(tree + b"/" + name)).write_bytes(name)
    with box(kind) as container:
        good("cp", os.fsdecode(tree), f"{container}:/t")
        good("cp", f"{container}:/t", str(tmp_path / "back"))
        if kind != "running, in memory":
            listed = binary("diff", container).stdout
            assert b"A /t/new\\nline\n" in listed and b"A /t/\xff\xfe\n" in listed
    assert sorted(os.listdir(os.fsencode(tmp_path / "back"))) == sorted(names)
    for name in names:
        assert Path(os.fsdecode(os.fsencode(tmp_path / "back") + b"/" + name)).read_bytes() == name


def test_a_gigabyte_with_holes_and_200_mb_without_take_no_memory(tmp_path: Path) -> None:
    script = "truncate -s 1G /sparse; dd if=/dev/urandom of=/full bs=1M count=200 2>/dev/null; md5sum /full"
    with ended(script=script) as container:
        program = (
            "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
        )
        for name in ("sparse", "full"):
            words = (*PYBOX, "cp", f"{container}:/{name}", str(tmp_path))
            used = subprocess.run([PYBOX[0], "-c", program, *words], capture_output=True, text=True, check=True)
            assert int(used.stdout) < 64 << 10  # KB
        good("cp", str(tmp_path / "full"), f"{container}:/again")
        good("cp", f"{container}:/again", str(tmp_path / "again"))
    assert (tmp_path / "sparse").stat().st_size == 1 << 30 and (tmp_path / "sparse").stat().st_blocks < 100
    assert subprocess.run(["cmp", tmp_path / "full", tmp_path / "again"]).returncode == 0


def test_a_tree_of_3000_levels_comes_out_with_few_fds(tmp_path: Path) -> None:
    script = (  # in three parts: the names of more are too long for any one call
        "p=$(yes d | head -1000 | tr '\\n' /); for c in deep b c; do mkdir -p /$c/$p; done; touch /c/$p/bottom; "
        "mv /c/d /b/$p/d && mv /b/d /deep/$p/d"
    )

    def few() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (700, 700))

    try:
        with ended(script=script) as container:
            done = subprocess.run(
                [*PYBOX, "cp", f"{container}:/deep", str(tmp_path / "deep")], capture_output=True, timeout=TIMEOUT, preexec_fn=few
            )
            assert (done.returncode, done.stderr) == (0, b"")
            assert good("diff", container).count(b"\n") == 3004
        find = ["find", tmp_path / "deep", "-name", "bottom", "-printf", "%d"]
        assert subprocess.run(find, capture_output=True, check=True).stdout == b"3001"
    finally:
        subprocess.run(["rm", "-rf", tmp_path / "deep"], check=True)  # pytest's own removal is recursive


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("cp", "no-such:/x", "."), "no such container: no-such"),
        (("cp", "a", "b"), "one of the two must be in a container"),
        (("cp", "a:/x", "b:/y"), "one of the two must be in a container"),
        (("cp", "a:/x"), "needs a source and a destination"),
        (("cp", "a:", "b"), "a path is empty"),
        (("diff",), "must be [--format json|text] CONTAINER"),
        (("export", "a", "b"), "needs one container"),
        (("commit", "a"), "needs a container and a name"),
        (("commit", "-c", "RUN x", "a", "b"), "must be one of CMD"),
        (("commit", "a", "Bad Name"), "Bad Name"),
    ],
)
def test_nonsense_is_refused_in_one_line(words: tuple[str, ...], said: str) -> None:
    assert said in refused(*words)


@EACH
def test_what_is_not_there_or_can_not_be_is_refused_and_nothing_is_made(tmp_path: Path, kind: str) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "d").mkdir()
    with box(kind, "mkdir /d; echo kept >/file") as container:
        assert "No such file" in refused("cp", f"{container}:/none", str(tmp_path / "out"))
        assert "No such file" in refused("cp", str(tmp_path / "none"), f"{container}:/x")
        assert "no such directory" in refused("cp", str(tmp_path / "f"), f"{container}:/none/")
        assert "No such file" in refused("cp", str(tmp_path / "f"), f"{container}:/none/x")
        assert "cannot copy a directory to a file" in refused("cp", str(tmp_path / "d"), f"{container}:/file")
        assert "Not a directory" in refused("cp", str(tmp_path / "f"), f"{container}:/file/x")
        assert "Not a directory" in refused("cp", f"{container}:/file/", str(tmp_path / "out"))
        assert "No such file" in refused("cp", "-", f"{container}:/none", input=tar())
        assert "Not a directory" in refused("cp", "-", f"{container}:/file", input=tar())
        assert "not a tar" in refused("cp", "-", f"{container}:/d", input=b"nonsense" * 999)
        assert "damaged" in refused("cp", "-", f"{container}:/d", input=b"\x1f\x8b" + b"x" * 999)
        assert good("cp", f"{container}:/file", "-").count(b"kept\n") == 1
        assert set(members(good("cp", f"{container}:/d/.", "-"))) == {"."}
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said_and_the_old_file_is_kept(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"x" * 300_000)
    with alive("--tmpfs", "/t:size=64k", script="echo old >/t/f") as container:
        assert "No space left on device" in refused("cp", str(tmp_path / "big"), f"{container}:/t/f")
        assert set(members(good("cp", f"{container}:/t", "-"))) == {"t", "t/f"}
        assert b"old\n" in good("cp", f"{container}:/t/f", "-")


# --- tars on standard input ------------------------------------------------------------------------------------------------------

HOSTILE = {
    "climbs": tar(("../canary", b"0", "", b"x")),
    "absolute": tar(("/canary", b"0", "", b"x")),
    "link, then file": tar(("l", b"2", "/", b""), ("l/canary", b"0", "", b"x")),
    "link up, then file": tar(("l", b"2", "..", b""), ("l/canary", b"0", "", b"x")),
    "hard link out": tar(("h", b"1", "../file", b"")),
    "hard link through a link": tar(("l", b"2", "..", b""), ("h", b"1", "l/file", b"")),
}


@EACH
def test_a_hostile_tar_touches_nothing_outside_its_target(kind: str) -> None:
    with box(kind, "mkdir /d; echo kept >/file") as container:
        before = set(members(good("export", container)))
        for what, data in HOSTILE.items():
            assert refused("cp", "-", f"{container}:/d", input=data), what
        after = members(good("export", container))
        assert {name for name in set(after) - before if not name.startswith("./d/")} == set()
        assert b"kept\n" in good("cp", f"{container}:/file", "-")


@EACH
def test_a_tar_from_stdin_belongs_to_root_and_with_a_to_whom_it_says(kind: str) -> None:
    data = tar(("d", b"5", "", b""), ("d/f", b"0", "", b"content"), ("sda", b"4", "", b""))
    with box(kind) as container:
        for words, owner in (((), 0), (("-a",), 4321)):
            done = binary("cp", *words, "-", f"{container}:/tmp", input=data)
            assert (done.returncode, done.stderr) == (0, b"pybox: note: sda: skipped, a device node\n")
            found = members(good("cp", f"{container}:/tmp/d/f", "-"))["f"]
            assert (found.uid, found.size) == (owner, 7)
        import gzip

        assert binary("cp", "-q", "-", f"{container}:/", input=gzip.compress(data)).returncode == 0
        assert "d/f" in members(good("cp", f"{container}:/d", "-"))


# --- a hostile container ---------------------------------------------------------------------------------------------------------


def test_2018_15664_a_race_of_links_leads_no_copy_to_the_host(tmp_path: Path) -> None:
    """A directory and a link to / (and one to the canary's own directory) change places all the time, while files are copied."""
    canary = tmp_path / "canary"
    canary.mkdir()
    (canary / "secret").write_text("the host's")
    (tmp_path / "new").write_text("planted")
    script = (
        f"mkdir -p /a{canary} /dir{canary} && echo mine >/a{canary}/secret && ln -s / /b && ln -s {canary} /c && mkdir /d && "
        "echo mine >/d/secret && { inside exchange /a /b & inside exchange /d /c & }"
    )
    planted = tmp_path / "planted.tar"
    planted.write_bytes(tar(("a", b"5", "", b""), (f"a{canary}/secret", b"0", "", b"planted")))
    with alive("--rm", script=script) as container:
        copies = []
        for turn in range(3 if PURE_V2 else 40):  # the one CPU of User Mode Linux is the racers'
            copies += [
                ("cp", f"{container}:/a{canary}", str(tmp_path / f"out{turn}")),
                ("cp", str(tmp_path / "new"), f"{container}:/a{canary}/secret"),
                ("cp", f"{container}:/d/secret", str(tmp_path / f"secret{turn}")),
                ("cp", str(tmp_path / "new"), f"{container}:/d/secret"),
                ("cp", "-", f"{container}:/"),
            ]
            if turn % 8 == 0:
                copies.append(("cp", f"{container}:/", str(tmp_path / f"all{turn}")))
        ends = many(copies, stdin=str(planted))
    assert 0 in {end.returncode for end in ends if any("/a/" in word for word in end.args)}
    assert (canary / "secret").read_text() == "the host's" and os.listdir(canary) == ["secret"]
    stolen = subprocess.run(["grep", "-rl", "the host's", tmp_path], capture_output=True, text=True)
    assert stolen.stdout.split() == [str(canary / "secret")]


def test_2019_14271_nothing_of_the_container_is_loaded(tmp_path: Path, image: Images) -> None:
    """No library, name service or codec of the image's is opened by a copy, whatever it is called."""
    if not shutil.which("strace"):
        pytest.skip("no strace (Debian package strace)")

    def traps(root: Path) -> None:
        for name in (
            "usr/lib/x86_64-linux-gnu/libnss_files.so.2",
            "etc/nsswitch.conf",
            "usr/lib/python3/encodings/idna.py",
            "etc/ld.so.preload",
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text("trap")

    with alive("--rm", image=image(traps)) as container:
        (tmp_path / "f").write_text("x")
        for words in (("cp", f"{container}:/home", str(tmp_path / "out")), ("cp", str(tmp_path / "f"), f"{container}:/tmp")):
            traced = subprocess.run(
                ["strace", "-f", "-qq", "-y", "-e", "trace=openat,openat2,open,execve,mmap", *PYBOX, *words], capture_output=True
            )
            assert traced.returncode == 0
            assert not [
                line for line in traced.stderr.splitlines() if b"trap" in line or b"libnss" in line or b"nsswitch" in line
            ]


def test_a_number_that_is_another_processs_by_now_is_not_taken_for_the_containers(tmp_path: Path) -> None:
    with alive("--rm") as container:
        journal = Path(dirs.current().state, container, "journal")
        first = journal.read_text().partition("\n")[0]
        journal.write_text(f"{first}\n{os.getpid()}")
        for words in (("cp", f"{container}:/etc", str(tmp_path / "out")), ("diff", container), ("export", container)):
            assert "has just ended" in refused(*words)
        assert os.listdir(tmp_path) == []


def test_a_fifo_in_the_containers_tree_holds_nobody_up(tmp_path: Path) -> None:
    with alive(script="mkfifo /tmp/p; ln -s /tmp/p /l") as container:
        good("cp", f"{container}:/tmp", str(tmp_path / "out"))
        assert stat.S_ISFIFO((tmp_path / "out/p").stat().st_mode)
        good("cp", "-L", f"{container}:/l", str(tmp_path / "followed"))
        assert stat.S_ISFIFO((tmp_path / "followed").stat().st_mode)


def test_the_kernels_files_are_not_copied(tmp_path: Path) -> None:
    with alive() as container:
        assert "kernel's own file systems" in refused("cp", f"{container}:/proc", str(tmp_path / "out"))
        assert set(members(good("cp", f"{container}:/", "-"))) >= {"./proc", "./sys", "./dev", "./bin/busybox"}
        assert not [
            name for name in members(good("cp", f"{container}:/", "-")) if name.startswith(("./proc/", "./sys/", "./dev/"))
        ]


# --- export ----------------------------------------------------------------------------------------------------------------------


@EACH
def test_an_export_is_the_merged_root_in_order_and_the_same_twice(tmp_path: Path, kind: str) -> None:
    script = "rm /etc/group; echo x >/new; ln /new /same; rm -r /home; mkdir /home; touch /home/only"
    with box(kind, script) as container:
        first = good("export", container)
        good("export", "-o", str(tmp_path / "out.tar"), container)
        assert "no such" in refused("export", "-o", str(tmp_path / "none/x"), container).lower()
    assert first == (tmp_path / "out.tar").read_bytes()
    found = members(first)
    names = list(found)
    assert names == sorted(names, key=lambda name: name.split("/")) and "./etc/group" not in found
    assert (found["./same"].type, found["./same"].linkname) == (tarfile.LNKTYPE, "./new")
    assert [name for name in names if name.startswith("./home/")] == ["./home/only"]
    assert not [name for name in names if name.startswith(("./proc/", "./sys/", "./dev/"))]
    assert os.listdir(tmp_path) == ["out.tar"]


def test_capabilities_of_files_are_in_an_export_and_in_an_image(image: Images) -> None:
    value = bytes.fromhex("0100000200200000000000000000000000000000")
    name = image(lambda root: os.setxattr(root / "bin/inside", "security.capability", value))
    with ended(image=name, script="cp -p /bin/inside /other; mv /bin/inside /moved") as container:
        found = members(good("export", container))["./moved"]
        assert found.pax_headers["SCHILY.xattr.security.capability"].encode("utf-8", "surrogateescape") == value
        good("commit", container, "capable")
    layer = json.loads(cli("image", "inspect", "capable").stdout)[0]["Layers"][0]
    assert os.getxattr(f"{layer}/moved", "security.capability") == value
    good("rmi", "capable")


def test_an_export_can_be_imported_and_runs() -> None:
    with ended(script="echo mine >/mine") as container:
        data = good("export", container)
    good("import", "exported", "-", input=data)
    assert cli("run", "--rm", "exported", "cat", "/mine").stdout == "mine\n"
    good("rmi", "exported")


# --- diff ------------------------------------------------------------------------------------------------------------------------

CHANGES = (
    "rm /etc/group; echo x >>/etc/passwd; mkdir -p /new/deep; touch /new/deep/f; rm -r /home; mkdir /home; touch /home/only; "
    "rm -r /var; ln -s /tmp /var; chmod 700 /usr/bin; touch /tmp/gone; rm /tmp/gone; mv /bin/inside /bin/outside"
)
CHANGED = """C /bin
D /bin/inside
A /bin/outside
C /etc
D /etc/group
C /etc/passwd
C /home
D /home/alice
A /home/only
A /new
A /new/deep
A /new/deep/f
C /tmp
C /usr
C /usr/bin
C /var
"""


@EACH
def test_diff_lists_what_docker_lists(kind: str) -> None:
    with box(kind, CHANGES) as container:
        assert good("diff", container).decode() == CHANGED
        rows = json.loads(good("diff", "--format", "json", container))
        assert rows[0] == {"kind": "C", "path": "/bin"} and len(rows) == CHANGED.count("\n")


@EACH
def test_diff_of_a_container_that_changed_nothing_is_empty(kind: str) -> None:
    with box(kind) as container:
        assert good("diff", container) == b""


def test_what_is_copied_over_the_files_that_pybox_mounts_is_told_and_committed(tmp_path: Path) -> None:
    (tmp_path / "hosts").write_text("127.0.0.1 mine\n")
    with ended() as container:
        good("cp", str(tmp_path / "hosts"), f"{container}:/etc/")
        assert good("diff", container) == b"C /etc\nC /etc/hosts\n"
        good("commit", container, "hosts")
    layer = json.loads(cli("image", "inspect", "hosts").stdout)[0]["Layers"][0]
    assert Path(layer, "etc/hosts").read_text() == "127.0.0.1 mine\n"
    good("rmi", "hosts")


def test_diff_of_the_machines_own_root_is_told_from_the_disk_and_refused_in_memory() -> None:
    with ended(image="host", script="echo x >/pybox-new") as container:
        assert good("diff", container) == b"A /pybox-new\n"
    with alive("--rm", image="host") as container:
        assert "can't be told" in refused("diff", container)
        assert "machine's own root" in refused("commit", container, "x")


# --- commit ----------------------------------------------------------------------------------------------------------------------


@EACH
def test_a_commit_runs_and_has_the_changes_and_nothing_else(kind: str) -> None:
    with box(kind, CHANGES) as container:
        words = (
            "-m",
            "why",
            "-a",
            "me",
            "-c",
            'CMD ["cat", "/etc/passwd"]',
            "-c",
            "ENV A=1",
            "-c",
            "USER alice",
            "-c",
            "WORKDIR /tmp",
        )
        printed = good("commit", *words, container, "committed:v1").decode().strip()
    found = json.loads(cli("image", "inspect", "committed:v1").stdout)[0]
    assert found["Id"] == printed and len(found["RootFS"]["Layers"]) == 2
    assert (found["History"][-1]["comment"], found["History"][-1]["author"]) == ("why", "me")
    assert cli("run", "--rm", "committed:v1").stdout.endswith("x\n")
    script = (
        "id -u; pwd; echo $A; ls /home /new/deep; readlink /var; stat -c %a /usr/bin; ls /etc/group /bin/inside; ls /bin/outside"
    )
    done = cli("run", "--rm", "committed:v1", "sh", "-c", script)
    assert done.stdout.split() == ["1000", "/tmp", "1", "/home:", "only", "/new/deep:", "f", "/tmp", "700", "/bin/outside"]
    with ended(image="committed:v1") as again:
        assert good("diff", again) == b""
    good("rmi", "committed:v1")


@pytest.mark.skipif(not (shutil.which("skopeo") and shutil.which("umoci")), reason="skopeo and umoci are not installed")
def test_skopeo_and_umoci_read_a_committed_image(tmp_path: Path) -> None:
    with ended(script=f"{CHANGES}; truncate -s 5M /holes; echo end >>/holes") as container:
        good("commit", container, "committed")
        exported = members(good("export", container))
    good("save", "-o", f"{tmp_path}/archive", "committed")
    subprocess.run(
        ["skopeo", "copy", f"docker-archive:{tmp_path}/archive", f"oci:{tmp_path}/oci:x"], check=True, capture_output=True
    )
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/oci:x", f"{tmp_path}/bundle"], check=True, capture_output=True)
    root = tmp_path / "bundle/rootfs"
    assert sorted(os.listdir(root / "home")) == ["only"] and not (root / "etc/group").exists() and (root / "var").is_symlink()
    assert (root / "holes").stat().st_size == (5 << 20) + 4 and (root / "holes").read_bytes().endswith(b"\0end\n")
    unpacked = {f"./{path.relative_to(root)}" for path in root.rglob("*")}
    assert {name for name in exported if name != "."} - {"./dev", "./proc", "./sys"} == unpacked - {"./dev", "./proc", "./sys"}
    good("rmi", "committed")


def test_a_commit_of_a_commit_keeps_what_the_image_said() -> None:
    with ended(script="echo 1 >/one") as container:
        good("commit", "-c", "LABEL a=1", "-c", "EXPOSE 80", container, "first")
    with ended(image="first", script="rm /one; echo 2 >/two") as container:
        good("commit", "-c", "LABEL b=2", container, "second")
    config = json.loads(cli("image", "inspect", "second").stdout)[0]["Config"]
    assert config["Labels"] == {"a": "1", "b": "2"} and config["ExposedPorts"] == {"80/tcp": {}} and config["Cmd"] == ["sh"]
    assert cli("run", "--rm", "second", "ls", "/").stdout.split().count("two") == 1
    assert "one" not in cli("run", "--rm", "second", "ls", "/").stdout.split()
    good("rmi", "second")
    good("rmi", "first")


def test_a_name_that_means_a_whiteout_is_not_committed() -> None:
    where = dirs.current()
    with ended(script="touch /.wh.etc") as container:
        before = sorted(os.listdir(where.images)), sorted(os.listdir(where.layers))
        assert "means a whiteout" in refused("commit", container, "bad")
    assert (sorted(os.listdir(where.images)), sorted(os.listdir(where.layers))) == before


def test_a_running_container_stands_still_while_it_is_committed_and_goes_on_after() -> None:
    if not PURE_V2 and CGROUPS.unified is None:
        pytest.skip("no cgroup2 tree here")
    words = ("--pids-limit", "50") if PURE_V2 else ("--pid", "host")  # what brings a cgroup2 group
    script = "{ i=0; while :; do i=$((i+1)); echo $i >/one; echo $i >/two; done & }"
    with alive(*words, script=script) as container:
        for turn in range(3):
            good("commit", container, f"still{turn}")
            shown = cli("run", "--rm", f"still{turn}", "cat", "/one", "/two").stdout.split()
            assert len(shown) <= 2 and (len(shown) < 2 or int(shown[0]) - int(shown[1]) in (0, 1))
            good("rmi", f"still{turn}")
        before = binary("cp", f"{container}:/one", "-").stdout
        assert eventually(lambda: binary("cp", f"{container}:/one", "-").stdout != before)


# --- locks and leftovers -----------------------------------------------------------------------------------------------------------


def test_two_copies_into_an_ended_container_wait_for_each_other(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"x" * 1_000_000)
    with ended() as container:
        both = [start("cp", str(tmp_path / "f"), f"{container}:/f{number}") for number in range(4)]
        for process in both:
            assert process.wait(TIMEOUT) == 0
            assert process.stdout is not None
            process.stdout.close()
        assert good("diff", container) == b"A /f0\nA /f1\nA /f2\nA /f3\n"


def test_a_copy_that_is_killed_leaves_no_mount_and_no_process(tmp_path: Path) -> None:
    with ended(script="dd if=/dev/zero of=/f bs=1M count=100 2>/dev/null") as container:
        process = start("cp", f"{container}:/f", "-")
        assert process.stdout is not None and process.stdout.read(10)
        process.kill()
        process.wait(TIMEOUT)
        process.stdout.close()
        good("cp", f"{container}:/f", str(tmp_path / "f"))
    assert (tmp_path / "f").stat().st_size == 100 << 20


def test_a_view_of_an_image_stays_until_it_is_let_go(store: dirs.Dirs) -> None:
    runtime = api.shared()
    runtime.make_directories()
    held = views.image(runtime.planner.inputs(Spec(image="busybox")))
    watch = select.poll()
    watch.register(held.child.pidfd, select.POLLIN)
    gone = watch.poll(100)  # who holds it: had it ended by itself, at once
    held.close()
    assert not gone
