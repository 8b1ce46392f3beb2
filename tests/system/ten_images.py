"""Ten images that hold what tools get wrong, written as one OCI layout with ten tags: no tool's own writer has a part in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from itertools import cycle
from pathlib import Path

Entry = tuple[tarfile.TarInfo, bytes]
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw+ep, as the kernel stores it


def entry(
    name: str, data: bytes = b"", kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644, **more: object
) -> Entry:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.size, info.mtime = kind, link, mode, len(data), 1_400_000_000
    for field, value in more.items():
        setattr(info, field, value)
    return info, data


def folder(name: str, mode: int = 0o755, **more: object) -> Entry:
    return entry(name, kind=tarfile.DIRTYPE, mode=mode, **more)


def symlink(name: str, to: str) -> Entry:
    return entry(name, kind=tarfile.SYMTYPE, link=to, mode=0o777)


def hardlink(name: str, to: str) -> Entry:
    return entry(name, kind=tarfile.LNKTYPE, link=to)


def attributes(**values: bytes) -> dict[str, str]:
    """PAX records of extended attributes; ``_`` in a name stands for a dot."""
    return {f"SCHILY.xattr.{name.replace('_', '.')}": value.decode("utf-8", "surrogateescape") for name, value in values.items()}


def tar(*entries: Entry, form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as archive:
        for info, data in entries:
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def sparse(work: Path, form: str) -> bytes:
    """A layer with files of holes, as GNU tar writes them."""
    root = work / f"sparse-{form}"
    (root / "in").mkdir(parents=True)
    for name, places in (("begin", (0,)), ("middle", (3 << 20,)), ("end", (0, 1 << 20, 5 << 20)), ("empty", ())):
        with (root / "in" / name).open("wb") as file:
            for place in places:
                file.seek(place)
                file.write(name.encode() * 1000)
            file.truncate(6 << 20)
    command = ["tar", *form.split(), "--sparse", "--mtime=@1400000000", "-C", str(root), "-cf", "-", "."]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    shutil.rmtree(root)
    return data


BASE = tar(
    folder("."), folder("etc"), entry("etc/passwd", b"root:x:0:0::/:/bin/sh\n"), folder("tmp", 0o1777), folder("opt"), folder("opt/a", 0o750, uid=7, gid=8),
    entry("opt/a/one", b"1"), entry("opt/a/two", b"2"), folder("opt/a/deep"), entry("opt/a/deep/three", b"3"), symlink("opt/link", "a"),
)  # fmt: skip


def images(work: Path) -> dict[str, list[bytes]]:
    """Return {tag: its layers, lowest first}."""
    long, longer = "n" * 120, "d" * 90
    return {
        "hardlinks": [
            tar(
                folder("bin"), entry("bin/a", b"same" * 999, mode=0o755, uid=3, gid=4), hardlink("bin/b", "bin/a"), hardlink("c", "bin/b"), folder("x"),
                hardlink("x/d", "./bin/a"), symlink("x/s", "../bin/a"), hardlink("x/t", "x/s"), entry("pipe", kind=tarfile.FIFOTYPE), hardlink("p2", "pipe"),
            ),
            tar(folder("x"), entry("x/d", b"another"), hardlink("x/e", "x/d"), entry("bin/.wh.b")),
        ],
        "xattrs": [
            tar(
                folder("d", pax_headers=attributes(user_note=b"of a directory")), entry("d/f", b"f", pax_headers=attributes(user_note=b"\x01\xff=\n", user_empty=b"")),
                entry("d/ping", b"p", mode=0o755, pax_headers=attributes(security_capability=CAPABILITY)), hardlink("d/ping2", "d/ping"),
            ),
            tar(folder("d", pax_headers=attributes(user_note=b"of the upper one")), entry("d/f", b"g")),
        ],
        "modes": [
            tar(
                folder("d", 0o3777, uid=1000, gid=1001), entry("d/su", b"s", mode=0o4755, uid=0), entry("d/sg", b"s", mode=0o2755, gid=42), entry("d/none", b"n", mode=0),
                folder("closed", 0, uid=65534, gid=65534), entry("closed/f", b"f", mode=0o6711, uid=2_000_000, gid=4_000_000_000), entry("old", b"o", mtime=1),
                entry("before", b"b", mtime=-5), entry("part", b"p", mtime=1_400_000_000, pax_headers={"mtime": "1400000000.123456789"}), entry("far", b"f", mtime=4_500_000_000),
            ),
        ],
        "opaque": [
            BASE,
            tar(folder("opt/a", 0o700), entry("opt/a/new", b"n"), entry("opt/a/.wh..wh..opq"), folder("opt/a/deep"), entry("opt/a/deep/other", b"o")),
            tar(folder("etc"), entry("etc/.wh..wh..opq"), folder("opt/a"), entry("opt/a/two", b"again")),
        ],
        "names": [
            tar(
                entry(long, b"l"), folder(longer), folder(f"{longer}/{longer}"), entry(f"{longer}/{longer}/{long}", b"x"), symlink("s", f"{longer}/{longer}/{long}"),
                hardlink("h", f"{longer}/{longer}/{long}"), entry("sp ace\ttab", b"s"), entry("back\\slash", b"b"), entry("é\u0301☃", b"u"), entry("new\nline", b"n"), entry("n" * 255, b"m"),
                entry("-dash", b"d"), entry("...", b"."),
            ),
            tar(entry(f"{longer}/{longer}/{long}", b"gnu"), symlink("t", "to/" * 40), entry("g" * 200, b"g"), entry("byte\udcff", b"b"), form=tarfile.GNU_FORMAT),
            tar(folder(longer), entry(f"{longer}/u", b"ustar"), form=tarfile.USTAR_FORMAT),
        ],
        "whiteouts": [
            BASE,
            tar(entry("opt/.wh.link"), entry("etc/.wh.passwd"), entry("opt/a/.wh.deep"), entry("opt/a/.wh.never"), folder("opt"), folder("etc")),
            tar(folder("opt/a/deep"), entry("opt/a/deep/new", b"n"), entry("etc/passwd", b"again"), folder("opt"), folder("opt/link"), entry("opt/link/f", b"f")),
            tar(entry("opt/.wh.a"), entry("opt/a", b"a file where a directory was"), folder("opt"), entry(".wh.tmp")),
        ],
        "devices": [
            tar(
                folder("dev"), entry("dev/null", kind=tarfile.CHRTYPE, devmajor=1, devminor=3, mode=0o666), entry("dev/sda", kind=tarfile.BLKTYPE, devmajor=8, mode=0o660, gid=6),
                entry("dev/big", kind=tarfile.CHRTYPE, devmajor=300, devminor=70_000), entry("dev/fifo", kind=tarfile.FIFOTYPE, mode=0o622, uid=5), hardlink("dev/zero2", "dev/null"),
            ),
            tar(folder("dev"), entry("dev/.wh.sda"), entry("dev/null", b"no device any more")),
        ],
        "sparse": [sparse(work, "--format=pax --sparse-version=0.1"), sparse(work, "--format=pax --sparse-version=1.0")],
        "layers": [BASE, *(tar(entry(f"opt/f{number % 7}", b"%d" % number), entry(f"only{number}", b"", mode=0o600 + number % 64)) for number in range(60))],
        "implied": [  # directories that a layer does not mention keep what a lower one says of them
            BASE, tar(entry("tmp/x", b"x"), entry("opt/a/deep/y", b"y"), entry("fresh/z", b"z"), entry("opt/b/c/d", b"d")),
            tar(entry("tmp/.wh.x"), entry("fresh/again/f", b"f"), entry("opt/a/.wh..wh..opq"), entry("opt/a/g", b"g")),
        ],
    }  # fmt: skip


def write(layout: Path, made: dict[str, list[bytes]], ways: tuple[str, ...]) -> None:
    """Write an OCI layout of images whose layers are compressed in these ways, in turn."""
    blobs = layout / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(data: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(data).hexdigest()
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": f"sha256:{digest}", "size": len(data)}

    def layer(data: bytes, how: str) -> dict[str, object]:
        if how == "gzip":
            return put(gzip.compress(data, 1, mtime=0), "layer.v1.tar+gzip")
        if how == "zstd":
            packed = subprocess.run(["zstd", "-1", "-q", "-c"], input=data, capture_output=True, check=True).stdout
            return put(packed, "layer.v1.tar+zstd")
        return put(data, "layer.v1.tar")

    manifests = []
    turn = cycle(ways)
    for tag, layers in made.items():
        diff_ids = [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in layers]
        config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
        blob = put(json.dumps(config).encode(), "config.v1+json")
        manifest = {"schemaVersion": 2, "config": blob, "layers": [layer(data, next(turn)) for data in layers]}
        manifests.append(
            {**put(json.dumps(manifest).encode(), "manifest.v1+json"), "annotations": {"org.opencontainers.image.ref.name": tag}}
        )
    (layout / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": manifests}))
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
