"""Layers: what an honest tar becomes, and that the same bytes come out again."""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from image_tars import entry, folder, hardlink, raw, snapshot, source, symlink, tar

from pybox.errors import ImageError
from pybox.image import layer, layerfile, split
from pybox.image.pack import packed
from pybox.image.stream import Chunks, Metered, close, compressed, decompressed

OPAQUE = "trusted.overlay.opaque" if os.geteuid() == 0 else "user.overlay.opaque"


def unpack(tmp_path: Path, data: bytes) -> Path:
    made = layer.unpack(source(data), str(tmp_path / "layer"))
    assert made.diff_id == f"sha256:{hashlib.sha256(data).hexdigest()}"
    assert made.tar_size == len(data)
    assert layerfile.read(str(tmp_path / "layer")) == made
    assert rejoined(tmp_path / "layer") == data
    return tmp_path / "layer/fs"


def rejoined(folder: Path) -> bytes:
    moved = [
        (before, path.encode("utf-8", "surrogateescape"), number) for before, path, number in layerfile.read(str(folder)).moved
    ]
    return b"".join(split.joined(str(folder), moved))


def is_whiteout(path: Path) -> bool:
    status = os.lstat(path)
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0


def test_kinds_modes_and_times_are_kept(tmp_path: Path) -> None:
    fs = unpack(
        tmp_path,
        tar(
            folder("./", 0o711, mtime=11),
            folder("d", 0o1777, mtime=22),
            entry("d/setuid", data=b"#!", mode=0o4755, mtime=33),
            symlink("d/s", "/absolute/../target"),
            hardlink("h", "d/setuid"),
            entry("pipe", tarfile.FIFOTYPE, mode=0o600),
        ),
    )
    assert (fs / "d/setuid").stat().st_mode == stat.S_IFREG | 0o4755
    assert (fs / "h").stat().st_ino == (fs / "d/setuid").stat().st_ino
    assert os.readlink(fs / "d/s") == "/absolute/../target"
    assert stat.S_ISFIFO((fs / "pipe").stat().st_mode)
    assert [(fs / name).stat().st_mtime for name in (".", "d", "d/setuid")] == [11, 22, 33]
    assert [stat.S_IMODE((fs / name).stat().st_mode) for name in (".", "d")] == [0o711, 0o1777]


def test_a_missing_parent_is_made_as_tar_would(tmp_path: Path) -> None:
    fs = unpack(tmp_path, tar(entry("a/b/f", data=b"x")))
    assert (fs / "a/b/f").read_bytes() == b"x"
    assert [stat.S_IMODE((fs / name).stat().st_mode) for name in (".", "a", "a/b")] == [0o755] * 3


def test_long_names_and_strange_bytes_survive(tmp_path: Path) -> None:
    long, strange = "/".join(["n" * 120] * 8), b"caf\xe9\xff\n".decode("utf-8", "surrogateescape")
    fs = unpack(tmp_path, tar(entry(long, data=b"1"), entry(strange, data=b"2")))
    assert (fs / long).read_bytes() == b"1"
    assert sorted(os.listdir(bytes(fs)))[0] == b"caf\xe9\xff\n"


def test_fractions_of_seconds_are_exact(tmp_path: Path) -> None:
    info, _ = entry("f")
    info.pax_headers = {"mtime": "1234567890.123456789"}
    assert unpack(tmp_path, tar((info, b""))).joinpath("f").stat().st_mtime_ns == 1234567890123456789


def test_sparse_files_have_their_size_and_their_holes(tmp_path: Path) -> None:
    info, data = entry("hole", data=b"ab")
    info.pax_headers = {"GNU.sparse.map": "4096,1,9000000,1", "GNU.sparse.size": "10000000", "GNU.sparse.numblocks": "2"}
    hole = unpack(tmp_path, tar((info, data), entry("next"))) / "hole"
    assert hole.stat().st_size == 10_000_000
    assert hole.stat().st_blocks < 100
    assert (hole.read_bytes()[4096], hole.read_bytes()[9_000_000]) == (ord("a"), ord("b"))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([entry("f", data=b"old")], [entry("f", data=b"new")]),
        ([symlink("f", "/etc/passwd")], [entry("f", data=b"new")]),
        ([entry("f", data=b"old")], [folder("f"), entry("f/x", data=b"new")]),
        ([folder("f"), entry("f/x", data=b"old"), entry("f/y", data=b"old")], [entry("f", data=b"new")]),
        ([folder("f"), entry("f/x", data=b"old")], [symlink("f", "elsewhere")]),
        ([entry("f", tarfile.FIFOTYPE)], [entry("f", data=b"new")]),
        ([entry("f", data=b"one"), entry("f", data=b"two")], [folder("f"), entry("f/x", data=b"3"), entry("f", data=b"4")]),
        ([entry("f", data=b"old"), entry("keep", data=b"old")], [hardlink("f", "keep")]),
        ([entry("f", data=b"old")], [hardlink("f", "f")]),
    ],
)
def test_the_later_of_two_entries_wins_and_no_byte_is_lost(tmp_path: Path, first: list, second: list) -> None:  # type: ignore[type-arg]
    fs = unpack(tmp_path, tar(*first, *second))
    if second != [hardlink("f", "f")]:
        (tmp_path / "alone").mkdir()
        keep = [item for item in first if item[0].name == "keep"]
        assert snapshot(fs / "f") == snapshot(unpack(tmp_path / "alone", tar(*keep, *second)) / "f")
    assert (tmp_path / "layer/split.gz").exists()


def test_directory_metadata_may_come_late_or_twice(tmp_path: Path) -> None:
    fs = unpack(tmp_path, tar(entry("d/f"), folder("d", 0o700), folder("d", 0o750)))
    assert stat.S_IMODE((fs / "d").stat().st_mode) == 0o750
    assert (fs / "d/f").exists()


def test_an_unwritable_directory_can_still_be_filled(tmp_path: Path) -> None:
    fs = unpack(tmp_path, tar(folder("d", 0o500), entry("d/f", data=b"x", mode=0o400), folder("d/e", 0o555), entry("d/e/g")))
    assert stat.S_IMODE((fs / "d").stat().st_mode) == 0o500
    assert (fs / "d/e/g").exists()
    os.chmod(fs / "d", 0o700)  # so that pytest can clean up
    os.chmod(fs / "d/e", 0o700)


def test_a_file_that_its_owner_cannot_read_comes_out_again(tmp_path: Path) -> None:
    fs = unpack(tmp_path, tar(entry("shadow", data=b"secret" * 1000, mode=0), entry("after", data=b"x")))
    assert stat.S_IMODE((fs / "shadow").stat().st_mode) == 0


# Whiteouts


def test_a_whiteout_becomes_device_zero_zero(tmp_path: Path) -> None:
    fs = unpack(tmp_path, tar(folder("d"), entry("d/.wh.gone"), entry(".wh.at-root")))
    assert is_whiteout(fs / "d/gone") and is_whiteout(fs / "at-root")
    assert sorted(os.listdir(fs / "d")) == ["gone"]


def test_an_opaque_directory_gets_the_attribute(tmp_path: Path) -> None:
    fs = unpack(tmp_path, tar(folder("d"), entry("d/.wh..wh..opq"), entry("d/f")))
    assert os.getxattr(fs / "d", OPAQUE) == b"y"
    assert os.listdir(fs / "d") == ["f"]


@pytest.mark.parametrize("order", [(0, 1, 2), (1, 0, 2), (1, 2, 0), (0, 2, 1), (2, 0, 1), (2, 1, 0)])
def test_a_directory_deleted_and_made_again_hides_the_old_one_in_any_order(tmp_path: Path, order: tuple[int, ...]) -> None:
    entries = (entry(".wh.d"), folder("d"), entry("d/f", data=b"x"))
    fs = unpack(tmp_path, tar(*(entries[index] for index in order)))
    assert os.getxattr(fs / "d", OPAQUE) == b"y"
    assert (fs / "d/f").read_bytes() == b"x"


@pytest.mark.parametrize("entries", [(entry(".wh.f"), entry("f", data=b"x")), (entry("f", data=b"x"), entry(".wh.f"))])
def test_a_whiteout_never_hides_a_file_of_its_own_layer(tmp_path: Path, entries: tuple) -> None:  # type: ignore[type-arg]
    assert (unpack(tmp_path, tar(*entries)) / "f").read_bytes() == b"x"


def test_the_bookkeeping_of_aufs_is_dropped(tmp_path: Path) -> None:
    assert os.listdir(unpack(tmp_path, tar(folder(".wh..wh.plnk"), entry(".wh..wh.aufs")))) == []


def test_attributes_of_users_are_kept_and_others_dropped(tmp_path: Path) -> None:
    info, _ = entry("f")
    info.pax_headers = {
        "SCHILY.xattr.user.note": "caf\udce9",
        "SCHILY.xattr.security.selinux": "x",
        "SCHILY.xattr.trusted.x": "y",
    }
    file = unpack(tmp_path, tar((info, b""))) / "f"
    assert {key: os.getxattr(file, key) for key in os.listxattr(file)} == {"user.note": b"caf\xe9"}


# Digests


def test_a_layer_of_another_digest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=f"not sha256:{'0' * 64} as its image says"):
        layer.unpack(source(tar(entry("f"))), str(tmp_path / "layer"), f"sha256:{'0' * 64}")


def test_padding_and_a_missing_end_belong_to_the_digest(tmp_path: Path) -> None:
    for number, data in enumerate((tar(entry("f")) + bytes(10240), raw(entry("f")), tar(entry("f")) + b"trailing junk")):
        (tmp_path / str(number)).mkdir()
        unpack(tmp_path / str(number), data)


def test_a_changed_layer_is_noticed(tmp_path: Path) -> None:
    fs = unpack(tmp_path, tar(entry("f", data=b"0123456789")))
    (fs / "f").write_bytes(b"short")
    with pytest.raises(ImageError, match="is shorter than it was"):
        rejoined(tmp_path / "layer")
    (fs / "f").unlink()
    (fs / "f").symlink_to("/etc/passwd")
    with pytest.raises(ImageError, match="the layer is damaged"):
        rejoined(tmp_path / "layer")


# Packing

NAME = st.text(st.characters(blacklist_characters="/\0", blacklist_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: name not in (".", "..") and not name.startswith(".wh.") and len(name.encode()) < 255
)
LEAF = st.one_of(
    st.tuples(st.just("file"), st.binary(max_size=2000), st.sampled_from([0o644, 0o4755, 0o600, 0o444])),
    st.tuples(
        st.just("link"), st.text(st.characters(blacklist_characters="\0", blacklist_categories=("Cs",)), min_size=1, max_size=40)
    ),
    st.tuples(st.just("fifo")),
)
TREE = st.dictionaries(
    NAME, st.recursive(LEAF, lambda below: st.dictionaries(NAME, below, max_size=4), max_leaves=12), max_size=6
)


def plant(path: Path, tree: dict) -> None:  # type: ignore[type-arg]
    for name, what in tree.items():
        if isinstance(what, dict):
            (path / name).mkdir()
            plant(path / name, what)
        elif what[0] == "file":
            (path / name).write_bytes(what[1])
            (path / name).chmod(what[2])
        elif what[0] == "link":
            (path / name).symlink_to(what[1])
        else:
            os.mkfifo(path / name)
        os.utime(path / name, (1_600_000_000, 1_600_000_000), follow_symlinks=False)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(TREE)
def test_packing_and_unpacking_any_tree_gives_the_same_tree(tree: dict) -> None:  # type: ignore[type-arg]
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "in").mkdir()
        plant(Path(scratch) / "in", tree)
        os.utime(Path(scratch) / "in", (1_600_000_000, 1_600_000_000))
        data = b"".join(packed(f"{scratch}/in"))
        assert b"".join(packed(f"{scratch}/in")) == data
        assert snapshot(unpack(Path(scratch), data)) == snapshot(f"{scratch}/in")
        with tarfile.open(fileobj=source(data)) as read_by_others:
            assert len(read_by_others.getmembers()) == len(snapshot(f"{scratch}/in"))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=4000), st.integers(0, 1500), st.integers(0, 255))
def test_any_damage_to_a_tar_gives_an_image_error_or_a_tree(junk: bytes, where: int, value: int) -> None:
    """No input may raise anything but ImageError: this is the fuzzer of the parser."""
    whole = bytearray(tar(entry("a", data=b"x" * 700), symlink("s", "a"), folder("d")))
    whole[where % len(whole)] = value
    for data in (bytes(whole), junk, bytes(whole[:where]) + junk):
        with tempfile.TemporaryDirectory() as scratch:
            try:
                layer.unpack(source(data), f"{scratch}/layer")
            except ImageError as error:
                assert error.message.isprintable()


def test_hard_links_are_packed_as_such_and_sockets_left_out(tmp_path: Path) -> None:
    import socket

    (tmp_path / "in").mkdir()
    (tmp_path / "in/b").write_bytes(b"x" * 1000)
    os.link(tmp_path / "in/b", tmp_path / "in/a")
    with socket.socket(socket.AF_UNIX) as listening:
        here = os.open(tmp_path / "in", os.O_RDONLY)
        listening.bind(f"/proc/self/fd/{here}/socket")
        os.close(here)
    fs = unpack(tmp_path, b"".join(packed(str(tmp_path / "in"))))
    assert sorted(os.listdir(fs)) == ["a", "b"]
    assert (fs / "a").stat().st_ino == (fs / "b").stat().st_ino


def test_a_directory_with_whiteout_names_is_not_packed(tmp_path: Path) -> None:
    (tmp_path / ".wh.x").touch()
    with pytest.raises(ImageError, match=r"\.wh\.x: a name that starts with \.wh\. means a whiteout"):
        b"".join(packed(str(tmp_path)))


def test_an_upper_layer_is_not_packed(tmp_path: Path) -> None:
    os.mknod(tmp_path / "gone", stat.S_IFCHR, 0)
    with pytest.raises(ImageError, match="gone: a whiteout of overlayfs"):
        b"".join(packed(str(tmp_path)))


# Streams


@pytest.mark.parametrize("kind", ["gzip", "zstd", ""])
@pytest.mark.parametrize("library", [True, False])
def test_compressed_data_comes_back(kind: str, library: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    if not library:  # as on a Python without zstd: the program does it
        monkeypatch.setitem(sys.modules, "backports.zstd", None)
        monkeypatch.setitem(sys.modules, "compression.zstd", None)
    data = os.urandom(700_000) + bytes(3_000_000)
    stored = b"".join(compressed(kind, iter((data[:5], data[5:])))) if kind else data
    plain = decompressed(Metered(source(stored)))
    back = b""
    while piece := plain.read(65536):
        back += piece
    close(plain)
    assert back == data
    if kind:
        cut = decompressed(Metered(source(stored[:-100])))
        with pytest.raises(EOFError):
            while cut.read(65536):
                pass
        close(cut)


def test_gzip_members_follow_each_other(tmp_path: Path) -> None:
    import gzip

    plain = decompressed(Metered(Chunks(iter((gzip.compress(b"one"), gzip.compress(b"two"), bytes(100))))))
    assert b"".join(iter(lambda: plain.read(100), b"")) == b"onetwo"


def test_without_any_zstd_the_hint_names_both_ways(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "backports.zstd", None)
    monkeypatch.setitem(sys.modules, "compression.zstd", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="compressed with zstd") as caught:
        decompressed(Metered(source(b"\x28\xb5\x2f\xfd rest")))
    assert caught.value.hint == "apt install zstd, or pip install backports.zstd"
