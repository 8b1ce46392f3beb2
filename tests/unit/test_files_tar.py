"""Trees to tars and back: what a copy keeps, and what no tar can do to the host or to a container."""

from __future__ import annotations

import io
import os
import resource
import stat
import subprocess
import tarfile
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_tars import entry, folder, hardlink, raw, snapshot, symlink, tar

from pybox.errors import PyboxError
from pybox.files.putting import Putter
from pybox.files.taking import Taker
from pybox.files.worker import Notes
from pybox.image import tape as tapes
from pybox.image.stream import Chunks
from pybox.image.tape import Tape

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.image.stream import Source

PATH = os.O_PATH | os.O_NOFOLLOW


def take(path: Path | str, name: bytes = b".") -> Iterator[bytes]:
    fd = os.open(path, PATH)
    try:
        yield from Taker(Notes(), strict=True).tar(fd, name)
    finally:
        os.close(fd)


def put(source: Source, target: Path | str, prefix: tuple[bytes, ...] = (), keep: bool = False) -> list[str]:
    tape, notes = Tape(source, hashed=False), Notes()
    root = os.open(target, PATH)
    putter = Putter(tape, root, list(prefix), notes, keep=keep, owner=None)
    try:
        putter.run(tapes.entries(tape))
    finally:
        putter.close()
        os.close(root)
    return notes.all()


def names(target: Path) -> set[str]:
    return {str(path.relative_to(target)) for path in target.rglob("*")}


# --- there and back ------------------------------------------------------------------------------------------------------------


def exact(root: Path) -> dict[str, tuple[object, ...]]:
    """A tree as a value, with nanoseconds; the root's own time and mode are the destination's."""
    found = {path: value for path, value in snapshot(root).items() if path not in ("", ".", str(root))}
    times = {str(path.relative_to(root)): (path.lstat().st_mtime_ns,) for path in root.rglob("*")}
    return found | {f"time {path}": value for path, value in times.items()}


def test_a_copy_has_the_same_modes_times_links_contents_and_attributes(tmp_path: Path) -> None:
    tree, copy = tmp_path / "tree", tmp_path / "copy"
    (tree / "d/e").mkdir(parents=True)
    (tree / "d/f").write_bytes(os.urandom(700_000))
    (tree / "d/f").chmod(0o640)
    os.utime(tree / "d/f", ns=(1, 1_234_567_890_123_456_789))
    os.link(tree / "d/f", tree / "d/e/same")
    (tree / "link").symlink_to("../../nowhere")
    os.utime(tree / "link", ns=(1, 999_999_999), follow_symlinks=False)
    os.mkfifo(tree / "pipe", 0o600)
    (tree / "old").write_text("before 1970")
    os.utime(tree / "old", ns=(1, -1_500_000_000))
    (tree / "d").chmod(0o1711)
    os.utime(tree / "d", ns=(1, 77_000_000_001))
    os.utime(tree / "d/e", ns=(1, 77_000_000_002))
    copy.mkdir()
    assert put(Chunks(take(tree)), copy) == []
    assert exact(copy) == exact(tree)
    assert os.stat(copy / "d/f").st_ino == os.stat(copy / "d/e/same").st_ino


NAME = st.binary(min_size=1, max_size=12).map(lambda raw: raw.replace(b"/", b"\n").replace(b"\0", b"\xff")).filter(
    lambda raw: raw not in (b".", b"..")
)  # fmt: skip


@given(
    st.dictionaries(
        NAME, st.one_of(st.binary(max_size=600), st.dictionaries(NAME, st.binary(max_size=3), max_size=3)), max_size=4
    )
)
def test_any_names_and_contents_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, tree: dict[bytes, object]
) -> None:
    top, copy = (os.fsencode(tmp_path_factory.mktemp(name)) for name in ("tree", "copy"))
    flat = {}
    for name, value in tree.items():
        if isinstance(value, dict):
            os.mkdir(top + b"/" + name)
        flat |= {name + b"/" + below: data for below, data in value.items()} if isinstance(value, dict) else {name: value}
    for name, data in flat.items():
        Path(os.fsdecode(top + b"/" + name)).write_bytes(data)
    put(Chunks(take(os.fsdecode(top))), os.fsdecode(copy))
    for name, data in flat.items():
        assert Path(os.fsdecode(copy + b"/" + name)).read_bytes() == data
    assert sorted(os.listdir(copy)) == sorted(tree)


def test_gnu_tar_reads_what_is_taken_holes_included(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.write(b"begin")
        file.seek(9 << 20)
        file.write(b"middle")
        file.truncate(30 << 20)
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 20)
    (tmp_path / ("n" * 200)).write_text("long")
    data = b"".join(take(tmp_path, b"top"))
    assert len(data) < 1 << 20
    listed = subprocess.run(["tar", "-xOf", "-", "top/sparse"], input=data, capture_output=True, check=True)
    assert listed.stdout == (tmp_path / "sparse").read_bytes()
    (tmp_path / "copy").mkdir()
    put(io.BytesIO(data), tmp_path / "copy")
    assert (tmp_path / "copy/top/sparse").read_bytes() == (tmp_path / "sparse").read_bytes()
    assert (tmp_path / "copy/top/hole").stat().st_size == 1 << 20
    assert (tmp_path / "copy/top/sparse").stat().st_blocks * 512 < 1 << 20


def test_a_tree_of_3000_levels_goes_through_few_fds(tmp_path: Path) -> None:
    deep = os.open(tmp_path, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=deep)
        below = os.open("d", os.O_RDONLY, dir_fd=deep)
        os.close(deep)
        deep = below
    os.close(os.open("f", os.O_CREAT, dir_fd=deep))
    os.close(deep)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    (tmp_path / "copy").mkdir()
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (700, limits[1]))
        put(Chunks(take(tmp_path / "d")), tmp_path / "copy")
        find = ["find", tmp_path / "copy", "-name", "f", "-printf", "%d"]
        assert subprocess.run(find, capture_output=True, check=True).stdout == b"3000"
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        subprocess.run(["rm", "-rf", tmp_path / "d", tmp_path / "copy"], check=True)  # pytest's own removal is recursive


def test_a_large_file_takes_no_memory(tmp_path: Path) -> None:
    with open(tmp_path / "large", "wb") as file:
        for _ in range(64):
            file.write(os.urandom(1 << 20))
    (tmp_path / "copy").mkdir()
    tracemalloc.start()
    try:
        put(Chunks(take(tmp_path / "large")), tmp_path / "copy", (b"large",))
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()
    assert (tmp_path / "copy/large").stat().st_size == 64 << 20


def test_a_file_that_shrinks_while_it_is_read_is_filled_with_zeros_and_noted(tmp_path: Path) -> None:
    path, notes = tmp_path / "f", Notes()
    path.write_bytes(b"x" * 1000)
    fd = os.open(path, PATH)
    stream = Taker(notes).tar(fd, b"f")
    header = next(stream)
    path.write_bytes(b"y" * 10)
    data = header + b"".join(stream)
    os.close(fd)
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        file = archive.extractfile("f")
        assert file is not None and file.read() == b"y" * 10 + b"\0" * 990
    assert notes.all() == ["f: it shrank while it was read; the rest is zeros"]


def test_no_fifo_or_device_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")  # opening it would wait for ever
    assert names_in(b"".join(take(tmp_path, b"t"))) == ["t", "t/fifo"]
    assert names_in(b"".join(take("/dev/null", b"null"))) == ["null"]


def names_in(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return archive.getnames()


# --- hostile tars --------------------------------------------------------------------------------------------------------------

REFUSED = {
    "a name that climbs": (tar(entry("../canary", data=b"x")), "the path leaves the directory"),
    "one that climbs in the middle": (tar(folder("a"), entry("a/../../canary", data=b"x")), "the path leaves the directory"),
    "an absolute name": (tar(entry("/tmp/pybox-canary", data=b"x")), "an absolute path"),
    "a link and a file through it": (tar(symlink("l", ".."), entry("l/canary", data=b"x")), "symbolic link?"),
    "a link and a directory through it": (tar(symlink("l", "/tmp"), folder("l/pybox-canary")), "symbolic link?"),
    "a link where the directory was": (tar(symlink("there", "/"), folder("there/x")), "cannot overwrite a directory"),
    "a directory on a link": (tar(symlink("l", ".."), folder("l")), "cannot overwrite what is there with a directory"),
    "a hard link out": (tar(hardlink("h", "../canary")), "leaves the directory"),
    "a hard link out, absolute": (tar(hardlink("h", "/etc/passwd")), "an absolute path"),
    "a hard link through a link": (tar(symlink("l", ".."), hardlink("h", "l/canary")), "symbolic link?"),
    "a hard link to a directory": (tar(folder("d"), hardlink("h", "d")), "which is no file"),
    "a hard link to nothing": (tar(hardlink("h", "nothing")), "No such file"),
    "a file on a directory": (tar(entry("there", data=b"x")), "cannot overwrite a directory"),
    "a directory on a file": (tar(folder("file")), "cannot overwrite what is there with a directory"),
    "a file below a file": (tar(entry("file/x")), "not a directory"),
    "a root that is a file": (tar(entry(".", data=b"x")), "only a directory can be the root"),
    "a name too long": (tar(entry("n" * 256)), "File name too long"),
    "an unknown type": (tar(entry("x", b"Q")), "unknown type"),
    "a file cut short": (raw(entry("x", data=b"1" * 600))[:-700], "damaged"),
    "no tar": (b"nonsense" * 1000, "not a tar"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_hostile_tar_is_refused_and_touches_nothing_outside(tmp_path: Path, what: str) -> None:
    data, said = REFUSED[what]
    target = tmp_path / "target"
    (target / "there").mkdir(parents=True)
    (target / "file").write_text("kept")
    (tmp_path / "canary").write_text("alive")
    before = snapshot(tmp_path)
    with pytest.raises(PyboxError) as caught:
        put(io.BytesIO(data), target)
    assert said in caught.value.message and "\n" not in caught.value.message
    after = {path: value for path, value in snapshot(tmp_path).items() if path in before}
    kept = {path: value for path, value in before.items() if "target" not in path}
    assert {path: value for path, value in after.items() if "target" not in path}.keys() == kept.keys()
    assert (tmp_path / "canary").read_text() == "alive" and os.stat(tmp_path / "canary").st_nlink == 1
    assert (target / "file").read_text() == "kept" and not [name for name in names(target) if ".pybox-" in name]
    assert not os.path.lexists("/tmp/pybox-canary")


def test_what_is_written_through_an_old_link_replaces_the_link(tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("alive")
    (tmp_path / "target").mkdir()
    (tmp_path / "target/f").symlink_to("../canary")
    put(io.BytesIO(tar(entry("f", data=b"new"))), tmp_path / "target")
    assert (tmp_path / "canary").read_text() == "alive"
    assert not (tmp_path / "target/f").is_symlink() and (tmp_path / "target/f").read_text() == "new"


def test_a_file_with_several_names_is_replaced_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "canary").write_text("alive")
    (tmp_path / "target").mkdir()
    os.link(tmp_path / "canary", tmp_path / "target/f")
    put(io.BytesIO(tar(entry("f", data=b"new"))), tmp_path / "target")
    assert (tmp_path / "canary").read_text() == "alive" and (tmp_path / "target/f").read_text() == "new"


def test_device_nodes_are_skipped_and_said(tmp_path: Path) -> None:
    data = tar(entry("sda", tarfile.BLKTYPE, devmajor=8, devminor=0), entry("whiteout", tarfile.CHRTYPE), entry("f", data=b"x"))
    assert put(io.BytesIO(data), tmp_path) == ["sda: skipped, a device node", "whiteout: skipped, a device node"]
    assert names(tmp_path) == {"f"}


def test_an_interrupted_replacement_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("old")
    with pytest.raises(PyboxError):
        put(io.BytesIO(raw(entry("f", data=b"n" * 5000))[:2000]), tmp_path)
    assert (tmp_path / "f").read_text() == "old" and names(tmp_path) == {"f"}


def test_set_user_id_goes_with_the_owner(tmp_path: Path) -> None:
    data = tar(entry("suid", data=b"x", mode=0o6755), folder("d", mode=0o2775))
    for keep, modes in ((False, (0o755, 0o775)), (True, (0o6755, 0o2775))):
        target = tmp_path / str(keep)
        target.mkdir()
        put(io.BytesIO(data), target, keep=keep)
        assert (stat.S_IMODE((target / "suid").stat().st_mode), stat.S_IMODE((target / "d").stat().st_mode)) == modes


def test_a_directory_that_was_there_keeps_its_mode_and_one_that_was_not_gets_its_time_last(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o700)
    put(io.BytesIO(tar(folder("there", mode=0o777), folder("new", mode=0o500, mtime=5), entry("new/f", data=b"x"))), tmp_path)
    assert stat.S_IMODE((tmp_path / "there").stat().st_mode) == 0o700
    assert (stat.S_IMODE((tmp_path / "new").stat().st_mode), (tmp_path / "new").stat().st_mtime) == (0o500, 5)
    (tmp_path / "new").chmod(0o700)


@given(st.binary(max_size=3000))
def test_random_bytes_are_refused_or_unpacked_never_a_crash(tmp_path_factory: pytest.TempPathFactory, noise: bytes) -> None:
    target = tmp_path_factory.mktemp("noise")
    honest = tar(entry("a", data=b"x" * 700), symlink("b", "a"))
    at = len(noise) % len(honest)
    try:
        put(io.BytesIO(honest[:at] + noise + honest[at + len(noise) :]), target)
    except PyboxError as error:
        assert "\n" not in error.message
