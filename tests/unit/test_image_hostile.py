"""The hostile corpus: each of these tars is refused with one clear line, touches nothing outside, leaves nothing in the store."""

from __future__ import annotations

import gzip
import os
import tarfile
from pathlib import Path

import pytest
from image_tars import contents, dirs, entry, folder, hardlink, raw, snapshot, symlink, tar

from pybox.errors import ImageError
from pybox.image import importing


def pax(name: str, records: dict[str, str], **more: object) -> tuple[tarfile.TarInfo, bytes]:
    info, data = entry(name, **more)  # type: ignore[arg-type]
    info.pax_headers = records
    return info, data


def claims(name: str, size: int) -> bytes:
    """A header that promises more content than follows."""
    info, _ = entry(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def sparse(name: str, size: int, holes: str, data: bytes = b"") -> tuple[tarfile.TarInfo, bytes]:
    return pax(name, {"GNU.sparse.map": holes, "GNU.sparse.size": str(size), "GNU.sparse.numblocks": "1"}, data=data)


def nested(depth: int) -> bytes:
    return tar(folder("/".join(["d"] * depth)))


def many_long_names(count: int) -> bytes:
    link = tarfile.TarInfo("././@LongLink")
    link.type, link.size = tarfile.GNUTYPE_LONGNAME, 512
    return (link.tobuf(tarfile.GNU_FORMAT) + b"x" * 511 + b"\0") * count + tar(entry("f"))


def big_header(size: int) -> bytes:
    info = tarfile.TarInfo("pax")
    info.type, info.size = tarfile.XHDTYPE, size
    return info.tobuf(tarfile.GNU_FORMAT) + b"9" * min(size, 1 << 21)


CORPUS = {
    "dotdot": (tar(entry("../canary", data=b"x")), "../canary: the path leaves the layer"),
    "dotdot inside": (tar(folder("a"), entry("a/../../canary")), "leaves the layer"),
    "dotdot that stays in": (tar(folder("a"), entry("a/../b")), "leaves the layer"),
    "absolute": (tar(entry("/canary", data=b"x")), "/canary: an absolute path"),
    "symlink then file": (tar(symlink("out", ".."), entry("out/canary", data=b"x")), "out/canary: its path goes through"),
    "absolute symlink then file": (tar(symlink("out", "/tmp"), entry("out/canary")), "out/canary: its path goes through"),
    "symlink then directory": (tar(symlink("out", ".."), folder("out/new")), "out/new: its path goes through"),
    "symlink chain": (tar(symlink("a", "b"), symlink("b", ".."), entry("a/canary")), "a/canary: its path goes through"),
    "symlink then symlink": (tar(symlink("out", ".."), symlink("out/canary", "x")), "out/canary: its path goes through"),
    "symlink then whiteout": (tar(symlink("out", ".."), entry("out/.wh.canary")), "its path goes through"),
    "symlink then opaque": (tar(symlink("out", ".."), entry("out/.wh..wh..opq")), "its path goes through"),
    "symlink then fifo": (tar(symlink("out", ".."), entry("out/canary", tarfile.FIFOTYPE)), "its path goes through"),
    "file as a directory": (tar(entry("a"), entry("a/b")), "a/b: its path goes through"),
    "hard link out": (tar(hardlink("h", "../canary")), "h: the path leaves the layer (../canary)"),
    "absolute hard link": (tar(hardlink("h", "/etc/passwd")), "h: an absolute path (/etc/passwd)"),
    "hard link through a symlink": (
        tar(symlink("out", ".."), hardlink("h", "out/canary")),
        "h: a hard link to out/canary: its path goes",
    ),
    "hard link to nothing": (tar(hardlink("h", "absent")), "h: a hard link to absent: No such file"),
    "hard link to a directory": (tar(folder("d"), hardlink("h", "d")), "which is a directory"),
    "hard link to a whiteout": (tar(entry(".wh.x"), hardlink("h", "x")), "which is a directory or a whiteout"),
    "hard link to the root": (tar(hardlink("h", ".")), "a hard link to the root"),
    "hard link to what it replaces": (tar(folder("a"), entry("a/f"), hardlink("a", "a/f")), "which it replaces"),
    "root as a file": (tar(entry("./")), "only a directory can be the root"),
    "root as a link": (tar(symlink(".", "/tmp")), "only a directory can be the root"),
    "long component": (tar(entry("x" * 300)), "File name too long"),
    "long path": (tar(entry("/".join(["x" * 100] * 50))), "a path of more than 4000 bytes"),
    "deep path": (nested(300), "more than 200 directories deep"),
    "zero byte": (tar(pax("f", {"path": "a\0b"})), "zero byte"),
    "empty symlink": (tar(symlink("s", "")), "a symbolic link to an impossible name"),
    "unknown type": (tar(entry("f", b"Z")), "f: an entry of unknown type b'Z'"),
    "whiteout as a device": (tar(entry("f", tarfile.CHRTYPE)), "f: device 0:0 is overlayfs' whiteout"),
    "huge device number": (tar(pax("f", {"x": "y"}, kind=tarfile.BLKTYPE, devmajor=5000, devminor=1)), "no such device number"),
    "whiteout of nothing": (tar(entry(".wh.")), "a whiteout of nothing that can be hidden"),
    "whiteout of dot": (tar(entry(".wh..")), "a whiteout of nothing that can be hidden"),
    "whiteout of dotdot": (tar(entry("a/.wh...")), "a whiteout of nothing that can be hidden"),
    "whiteout with a slash": (tar(folder(".wh./")), "a whiteout is an empty file"),
    "whiteout directory": (tar(folder(".wh.x"), entry(".wh.x/y")), "a whiteout is an empty file"),
    "file in a whiteout": (tar(entry(".wh.x/y")), "a whiteout is not a directory"),
    "whiteout symlink": (tar(symlink(".wh.x", "/etc")), "a whiteout is an empty file"),
    "whiteout with content": (tar(entry(".wh.x", data=b"y")), "a whiteout is an empty file"),
    "whiteout of a whiteout": (tar(entry(".wh..wh.x")), "a whiteout of nothing that can be hidden"),
    "opaque root": (tar(entry(".wh..wh..opq")), "hides the root of the layers below"),
    "opaque root by dot": (tar(entry("./.wh..wh..opq")), "hides the root of the layers below"),
    "opaque attribute": (
        tar(pax("d", {"SCHILY.xattr.trusted.overlay.opaque": "y"}, kind=tarfile.DIRTYPE)),
        "trusted.overlay.opaque is overlayfs' own",
    ),
    "user opaque attribute": (
        tar(pax("d", {"SCHILY.xattr.user.overlay.opaque": "y"}, kind=tarfile.DIRTYPE)),
        "is overlayfs' own",
    ),
    "redirect attribute": (
        tar(pax("d", {"SCHILY.xattr.trusted.overlay.redirect": "/"}, kind=tarfile.DIRTYPE)),
        "is overlayfs' own",
    ),
    "attribute for all": (raw(pax("g", {"SCHILY.xattr.user.overlay.redirect": "/"})) + tar(entry("f")), "is overlayfs' own"),
    "bomb by promise": (claims("zeros", 20 << 30), "zeros: more than 17179869184 bytes"),
    "bomb of holes": (tar(sparse("hole", 1 << 60, "0,0")), "hole: more than 17179869184 bytes"),
    "holes backwards": (tar(sparse("f", 2000, "1000,10,0,10", b"x" * 20)), "its map of holes makes no sense"),
    "holes beyond the end": (tar(sparse("f", 100, "90,100", b"x" * 100)), "its map of holes makes no sense"),
    "negative holes": (tar(sparse("f", 100, "-5,5", b"x" * 5)), "its map of holes makes no sense"),
    "holes that eat the next entry": (tar(sparse("f", 9000, "0,9000", b"x" * 5)), "damaged"),
    "huge header": (big_header(3 << 30), "a header of more than 1024 KB"),
    "chain of headers": (many_long_names(3000), "header"),
    "strange owner": (tar(pax("f", {"uid": "4294967295"})), "no such user or group id: 4294967295"),
    "negative owner": (tar(pax("f", {"gid": "-1"})), "no such user or group id: -1"),
    "time that is no number": (tar(pax("f", {"mtime": "nan"})), "its time"),
    "time out of range": (tar(pax("f", {"mtime": "9" * 30})), "out of range"),
    "cut in a header": (raw(entry("a"), entry("b"))[:700], "cut short, at byte 512"),
    "cut in a file": (raw(entry("a", data=b"x" * 5000))[:3000], "a: damaged: it ends in the middle of this file"),
    "junk for a header": (raw(entry("a")) + b"junk" * 128 + tar(entry("b")), "not a tar header"),
    "not a tar": (b"#!/bin/sh\n" * 200, "layer.tar: not a tar: "),
    "empty file": (b"", "empty file"),
    "gzip cut short": (gzip.compress(tar(entry("a", data=os.urandom(9000))))[:5000], "cut short"),
    "gzip damaged": (gzip.compress(tar(entry("a", data=b"x" * 9000)))[:-8] + b"12345678", "incorrect"),
    "gzip junk": (gzip.compress(tar(entry("a"))) + b"junk", "damaged"),
    "xz": (b"\xfd7zXZ\x00" + b"x" * 100, "compressed with xz"),
    "escape sequences": (tar(entry("../\x1b[2J\n")), r"../\x1b[2J\n: the path leaves"),
}


@pytest.mark.parametrize("case", CORPUS)
def test_a_hostile_tar_is_refused_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    data, message = CORPUS[case]
    (tmp_path / "canary").write_text("alive")
    (tmp_path / "layer.tar").write_bytes(data)
    importing.import_(dirs(tmp_path), "before", _good(tmp_path))
    before, outside = contents(dirs(tmp_path).store), snapshot(tmp_path / "canary")
    with pytest.raises(ImageError) as caught:
        importing.import_(dirs(tmp_path), "bad", str(tmp_path / "layer.tar"))
    assert message in caught.value.message
    assert "\n" not in caught.value.message and caught.value.message.isprintable()
    assert contents(dirs(tmp_path).store) == before
    assert os.listdir(f"{dirs(tmp_path).store}/locks") == []
    assert snapshot(tmp_path / "canary") == outside
    assert sorted(os.listdir(tmp_path)) == ["canary", "good.tar", "layer.tar", "store"]


def _good(tmp_path: Path) -> str:
    (tmp_path / "good.tar").write_bytes(tar(entry("f", data=b"good")))
    return str(tmp_path / "good.tar")


def test_a_real_zero_bomb_stops_at_the_ceiling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBOX_LAYER_BYTES", str(1 << 20))
    files = [entry(f"zero{number}", data=bytes(300 << 10)) for number in range(10)]
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(tar(*files)))
    with pytest.raises(ImageError, match="zero3: more than 1048576 bytes") as caught:
        importing.import_(dirs(tmp_path), "bomb", str(tmp_path / "bomb.tar.gz"))
    assert "PYBOX_LAYER_BYTES" in (caught.value.hint or "")
    assert contents(dirs(tmp_path).store) == set()


@pytest.mark.parametrize("value", ["", "-1", "many", "9" * 40])
def test_a_ceiling_that_is_no_number_is_refused(value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBOX_LAYER_BYTES", value)
    with pytest.raises(ImageError, match="not a number of bytes"):
        importing.import_(dirs(tmp_path), "x", _good(tmp_path))


def test_an_entry_bomb_stops_at_the_ceiling(tmp_path: Path) -> None:
    from image_tars import source

    from pybox.image import layer
    from pybox.image.ceilings import Ceilings

    with pytest.raises(ImageError, match="more than 10 entries"):  # 4 entries, but 12 directories
        layer.unpack(
            source(tar(*(entry(f"{name}/b/c/f") for name in "wxyz"))), str(tmp_path / "layer"), most=Ceilings(entries=10)
        )


def test_a_full_disk_is_refused_before_writing(tmp_path: Path) -> None:
    from image_tars import source

    from pybox.image import layer
    from pybox.image.ceilings import Ceilings

    with pytest.raises(ImageError, match="the disk of the store has only 0 to give"):
        layer.unpack(source(tar(entry("f", data=b"x"))), str(tmp_path / "layer"), most=Ceilings(free=1 << 62))


def test_old_gnu_sparse_files_keep_their_holes(tmp_path: Path) -> None:
    """The header form of `tar --sparse --format=gnu`."""
    from image_tars import source

    from pybox.image import layer

    info, _ = entry("hole", tarfile.GNUTYPE_SPARSE)
    info.size = 512
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[386:410] = b"00000010000\0" + b"00000001000\0"  # 512 bytes at 4096
    header[483:495] = b"00000020000\0"  # of 8192
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    layer.unpack(source(bytes(header) + b"x" * 512 + bytes(1024)), str(tmp_path / "layer"))
    assert (tmp_path / "layer/fs/hole").read_bytes() == bytes(4096) + b"x" * 512 + bytes(3584)
