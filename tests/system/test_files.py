"""cp in both directions, files and tars: the files of containers that run and of containers that have ended, as root."""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import select
import signal
import stat
import subprocess
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import PYBOX, TIMEOUT, cli, eventually, start

from pybox import api, dirs
from pybox.files import views
from pybox.spec import Spec


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
