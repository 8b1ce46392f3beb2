"""COPY and ADD: where what is copied lands, with which owner and mode, and what a tar must not do there."""

from __future__ import annotations

import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from test_containerfile_copying import opened, write

from pybox.containerfile import sources
from pybox.containerfile.landing import Item, Landing, Wish, destination
from pybox.containerfile.making import _items
from pybox.containerfile.sources import Stream
from pybox.containerfile.unpacking import archive
from pybox.containerfile.words import WordError
from pybox.errors import PyboxError
from pybox.files.worker import Notes
from pybox.image import layer
from pybox.image.stream import Chunks

# --- landing ---------------------------------------------------------------------------------------------------------------------


def copy(context: Path, image: Path, made: Path, wanted: str, to: str, patterns: str = "", wish: Wish | None = None) -> Path:
    """Do what COPY does; return the tree of the new layer."""
    with opened(context, patterns) as root, opened(image) as there:
        chosen = sources.picks(root, wanted.split())
        names, directory = destination(there.fd, "/", to, chosen, 0)
        landing = Landing(there.fd, wish or Wish(now=5))
        try:
            with Stream(root, chosen, Notes()) as stream:
                layer.unpack(Chunks(landing.layer(_items(stream, chosen, names, directory, (), ()))), str(made))
        finally:
            landing.close()
    return made / "fs"


def found(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path, Path]:
    context, image = tmp_path / "context", tmp_path / "image"
    write(context, f="file", d__g="deep", d__e__h="deeper")
    write(image, usr__lib__there="x", etc__conf="x")
    (image / "lib").symlink_to("usr/lib")
    (image / "evil").symlink_to("../../../../tmp")
    (image / "etc").chmod(0o711)
    return context, image, tmp_path / "made"


@pytest.mark.parametrize(
    ("wanted", "to", "expected"),
    [
        ("f", "/x", "x"),
        ("f", "/x/", "x x/f"),
        ("f", "x/y/z", "x x/y x/y/z"),
        ("f", "/etc", "etc etc/f"),
        ("f", "/lib", "usr usr/lib usr/lib/f"),
        ("f", "/lib/new", "usr usr/lib usr/lib/new"),
        ("f", "/evil", "tmp"),
        ("f", "/../../x", "x"),
        ("d", "/x", "x x/g x/e x/e/h"),
        ("d", "/x/", "x x/g x/e x/e/h"),
        ("d", "/etc", "etc etc/g etc/e etc/e/h"),
        ("d", "/", "g e e/h"),
        ("f d", "/x/", "x x/f x/g x/e x/e/h"),
        ("d/*", "/x/", "x x/g x/h"),
        (".", ".", "f d d/g d/e d/e/h"),
    ],
)
def test_a_destination_means_what_docker_says(places: tuple[Path, Path, Path], wanted: str, to: str, expected: str) -> None:
    assert found(copy(*places, wanted, to)) == set(expected.split())


def test_directories_of_the_image_keep_their_modes_and_copied_ones_have_the_sources(places: tuple[Path, Path, Path]) -> None:
    for name in ("d", "d/e"):
        (places[0] / name).chmod(0o750)
    made = copy(*places, "d", "/etc")
    assert [stat.S_IMODE((made / name).stat().st_mode) for name in ("etc", "etc/e")] == [0o711, 0o750]


def test_a_destination_that_is_made_is_open_to_all_whatever_the_source_is(places: tuple[Path, Path, Path]) -> None:
    (places[0] / "d").chmod(0o700)
    made = copy(*places, "d", "/a/b")
    assert [stat.S_IMODE((made / name).stat().st_mode) for name in ("a", "a/b")] == [0o755, 0o755]


def test_chmod_and_times_are_as_wished(places: tuple[Path, Path, Path]) -> None:
    made = copy(*places, "d", "/n/x", wish=Wish(mode=0o604, now=7, latest=9))
    assert [stat.S_IMODE((made / name).stat().st_mode) for name in ("n", "n/x", "n/x/e", "n/x/g")] == [0o755, 0o755, 0o604, 0o604]
    assert [(made / name).stat().st_mtime for name in ("n", "n/x", "n/x/g")] == [7, 7, 9]


def test_special_bits_of_a_context_do_not_become_roots(places: tuple[Path, Path, Path]) -> None:
    (places[0] / "f").chmod(0o6755)
    assert stat.S_IMODE((copy(*places, "f", "/f") / "f").stat().st_mode) == 0o755


@pytest.mark.parametrize(
    ("prepare", "wanted", "to", "said"),
    [
        (lambda c: write(c, d__lib__x="y"), "d", "/", "cannot put a directory where the image has a symbolic link"),
        (lambda c: write(c, d__usr__lib__there__x="y"), "d", "/", "cannot put a directory where the image has a file"),
        (lambda c: write(c, d__etc="y"), "d", "/", "cannot overwrite a directory with what is none"),
        (lambda c: write(c, d___dot_wh_dot_x="y"), "d", "/", "means a whiteout"),
        (lambda c: None, "d", "/etc/conf", "the image has a file there"),
        (lambda c: None, "f", "/etc/conf/", "the image has a file there"),
        (lambda c: None, "f", "/etc/conf/x", "Not a directory"),
        (lambda c: None, "f d", "/x", "more than one source needs a directory"),
    ],
)
def test_neither_a_directory_nor_a_file_becomes_the_other(
    places: tuple[Path, Path, Path], prepare: Callable[[Path], object], wanted: str, to: str, said: str
) -> None:
    prepare(places[0])
    with pytest.raises((PyboxError, WordError)) as caught:
        copy(*places, wanted, to)
    assert said in str(caught.value)


def test_what_is_taken_back_comes_with_the_directories_above_it(places: tuple[Path, Path, Path]) -> None:
    (places[0] / "d/e").chmod(0o711)
    made = copy(*places, ".", "/x/", "d\n!d/e/h")
    assert found(made) == {"x", "x/f", "x/d", "x/d/e", "x/d/e/h"}
    assert stat.S_IMODE((made / "x/d/e").stat().st_mode) == 0o711


def test_links_in_a_copied_directory_stay_links_and_hard_links_stay_one_file(places: tuple[Path, Path, Path]) -> None:
    (places[0] / "d/link").symlink_to("/etc/passwd")
    os.link(places[0] / "d/g", places[0] / "d/twin")
    made = copy(*places, "d", "/x")
    assert os.readlink(made / "x/link") == "/etc/passwd"
    assert (made / "x/g").samefile(made / "x/twin")


def test_a_sparse_file_stays_what_it_is(places: tuple[Path, Path, Path]) -> None:
    with open(places[0] / "holes", "wb") as file:
        file.write(b"start")
        file.seek(1 << 20)
        file.write(b"end")
        file.truncate(3 << 20)
    copied = copy(*places, "holes", "/deep/holes") / "deep/holes"
    assert copied.read_bytes() == (places[0] / "holes").read_bytes()


# --- ADD of a tar ----------------------------------------------------------------------------------------------------------------


def tar(*entries: tuple[str, bytes, str], mode: str = "w") -> bytes:
    """Return a tar of (name, type, text or link target)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as file:  # type: ignore[call-overload]
        for name, kind, text in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if kind == tarfile.REGTYPE:
                info.size = len(text)
            else:
                info.linkname = text
            file.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def added(blob: bytes, places: tuple[Path, Path, Path], below: str = "x") -> Path:
    _, image, made = places
    (image.parent / "a.tar").write_bytes(blob)
    known = archive(os.open(image.parent / "a.tar", os.O_RDONLY), "a.tar")
    assert known is not None
    with opened(image) as there:
        landing = Landing(there.fd, Wish())
        try:
            layer.unpack(Chunks(landing.layer(known.items(tuple(os.fsencode(below).split(b"/")) if below else ()))), str(made))
        finally:
            landing.close()
            known.close()
    return made / "fs"


FILE = tarfile.REGTYPE


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz", "w:bz2"])
def test_a_tar_is_known_by_its_content_however_it_is_compressed(places: tuple[Path, Path, Path], mode: str) -> None:
    blob = tar(
        ("./", tarfile.DIRTYPE, ""), ("./a/b", FILE, "text"), ("hard", tarfile.LNKTYPE, "a/b"), ("/abs", FILE, "y"), mode=mode
    )
    made = added(blob, places)
    assert found(made) == {"x", "x/a", "x/a/b", "x/hard", "x/abs"}
    assert (made / "x/a/b").read_text() == "text" and (made / "x/hard").samefile(made / "x/a/b")


@pytest.mark.parametrize("blob", [b"", b"text", b"\x1f\x8b" + b"x" * 99, lzma.compress(b"no tar"), b"\0" * 2048])
def test_what_is_no_tar_is_a_file_like_any_other(tmp_path: Path, blob: bytes) -> None:
    (tmp_path / "f").write_bytes(blob)
    assert archive(os.open(tmp_path / "f", os.O_RDONLY), "f") is None


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ((("../x", FILE, "y"),), "the path leaves the directory"),
        ((("a/../../x", FILE, "y"),), "the path leaves the directory"),
        ((("l", tarfile.SYMTYPE, "/etc"), ("l/x", FILE, "y")), "goes through what is no directory"),
        ((("h", tarfile.LNKTYPE, "../../etc/passwd"),), "the path leaves the directory"),
        ((("h", tarfile.LNKTYPE, "conf"),), "a hard link to"),
        (((".wh.x", FILE, ""),), "means a whiteout"),
        (((".wh..wh..opq", FILE, ""),), "means a whiteout"),
        ((("c", tarfile.CHRTYPE, ""),), "whiteout"),
    ],
)
def test_a_hostile_tar_is_refused(
    places: tuple[Path, Path, Path], entries: tuple[tuple[str, bytes, str], ...], said: str
) -> None:
    with pytest.raises(PyboxError) as caught:
        added(tar(*entries), places)
    assert said in str(caught.value)


def test_a_tar_can_not_turn_the_images_link_into_a_directory(places: tuple[Path, Path, Path]) -> None:
    with pytest.raises(PyboxError, match="the image has no directory there"):
        added(tar(("lib/evil", FILE, "y")), places, "")


def test_a_tar_that_is_cut_short_is_refused(places: tuple[Path, Path, Path]) -> None:
    with pytest.raises(PyboxError, match=r"damaged|cut short|ends"):
        added(tar(("a", FILE, "y" * 5000))[:2048], places)


def test_no_item_is_put_where_another_file_is_on_the_way(tmp_path: Path) -> None:
    info = tarfile.TarInfo("a")
    with opened(tmp_path) as root:
        landing = Landing(root.fd, Wish())
        with pytest.raises(PyboxError, match="goes through"):
            list(landing.layer([Item((b"a",), info), Item((b"a", b"b"), tarfile.TarInfo("b"))]))
        landing.close()
