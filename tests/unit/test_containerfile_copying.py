"""COPY and ADD without a kernel's help: which files are meant, what is left out, where they land, and what must not."""

from __future__ import annotations

import io
import lzma
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.containerfile import cache, ignore, sources
from pybox.containerfile.landing import Item, Landing, Wish, destination
from pybox.containerfile.making import _items
from pybox.containerfile.sources import Root, Stream, resolved
from pybox.containerfile.unpacking import archive
from pybox.containerfile.words import WordError
from pybox.dirs import Dirs
from pybox.errors import PyboxError
from pybox.files.worker import Notes
from pybox.image import layer
from pybox.image.stream import Chunks

# --- .dockerignore ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "left_out", "taken"),
    [
        ("a", "a a/b", "b/a ab"),
        ("/a\n./b/", "a b b/c", "c/a"),
        ("*.log", "x.log", "d/x.log xlog"),
        ("**/*.log", "x.log d/x.log d/e/x.log", "x.txt"),
        ("d/**", "d/x d/e/x", "e d"),
        ("**", "a a/b", ""),
        ("a/**/z", "a/z a/b/z a/b/c/z", "a/b az z"),
        ("a/*/z", "a/b/z", "a/z a/b/c/z"),
        ("x?", "xa xa/b", "x xab x/a"),
        ("[ab]c\n[^x-z]d", "ac bc ad", "cc xd"),
        ("\\*", "*", "a"),
        ("# comment\n\n  a  \n", "a", "# comment"),
        ("d\n!d/keep", "d d/x", "d/keep d/keep/y"),
        ("*\n!a\na/b", "b c/d a/b a/b/c", "a a/c"),
        ("!a\na", "a", "b"),
        (".", "", "a"),
    ],
)
def test_patterns_mean_what_docker_says(patterns: str, left_out: str, taken: str) -> None:
    found = ignore.parse(patterns, ".dockerignore")
    assert [path for path in left_out.split() if not found.excluded(path)] == []
    assert [path for path in taken.split(" ") if path and found.excluded(path)] == []


def test_a_pattern_that_is_none_is_refused_with_its_line() -> None:
    with pytest.raises(PyboxError, match=r"\.dockerignore:2: \[a: not a pattern"):
        ignore.parse("x\n[a\n", ".dockerignore")


@given(st.text(alphabet="ab*?[]^-\\/!#. \n", max_size=40), st.text(alphabet="ab/.", min_size=1, max_size=12))
def test_any_pattern_is_refused_or_has_an_answer(patterns: str, path: str) -> None:
    try:
        found = ignore.parse(patterns, "x")
    except PyboxError:
        return
    found.excluded(path)
    found.worth_entering(path)


# --- paths -----------------------------------------------------------------------------------------------------------------------


@contextmanager
def opened(path: Path, patterns: str = "") -> Iterator[Root]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield Root(fd, ignore=ignore.parse(patterns, "x"))
    finally:
        os.close(fd)


def write(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("d/f", "d/f"),
        ("/d//./f", "d/f"),
        ("../../d/f", "d/f"),
        ("in/f", "d/f"),
        ("absolute/f", "d/f"),
        ("out/etc/passwd", "etc/passwd"),
        ("up/d", "d"),
        ("d/new/er", "d/new/er"),
        ("dangling", "d/nowhere"),
    ],
)
def test_links_lead_to_what_they_would_in_a_root_of_their_own(tmp_path: Path, path: str, names: str) -> None:
    write(tmp_path, d__f="x")
    for name, target in {"in": "d", "absolute": "/d", "out": "/", "up": "../../..", "dangling": "d/nowhere"}.items():
        (tmp_path / name).symlink_to(target)
    with opened(tmp_path) as root:
        assert os.fsdecode(b"/".join(resolved(root.fd, path)[0])) == names


def test_a_loop_of_links_and_a_file_on_the_way_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    (tmp_path / "f").touch()
    with opened(tmp_path) as root:
        with pytest.raises(OSError, match="Too many levels"):
            resolved(root.fd, "a/x")
        with pytest.raises(NotADirectoryError):
            resolved(root.fd, "f/x")


def test_wildcards_go_part_by_part_and_see_nothing_that_is_left_out(tmp_path: Path) -> None:
    write(tmp_path, a__x_dot_c="", a__y_dot_c="", b__z_dot_c="", b__z_dot_h="", secret__k_dot_c="")
    with opened(tmp_path, "secret\na/y.c") as root:
        assert [os.fsdecode(b"/".join(pick.path)) for pick in sources.picks(root, ["*/*.c"])] == ["a/x.c", "b/z.c"]
        with pytest.raises(WordError, match=r"matches nothing that \.dockerignore lets through"):
            sources.picks(root, ["secret/*"])
        with pytest.raises(WordError, match=r"left out by \.dockerignore"):
            sources.picks(root, ["secret/k.c"])
        with pytest.raises(WordError, match="no such file or directory in the build context"):
            sources.picks(root, ["nope"])


# --- digests ---------------------------------------------------------------------------------------------------------------------


def digest(path: Path, *wanted: str, patterns: str = "") -> str:
    with opened(path, patterns) as root:
        return sources.digest(root, sources.picks(root, list(wanted)))


def test_the_digest_is_of_names_modes_and_contents_and_not_of_times(tmp_path: Path) -> None:
    write(tmp_path, d__f="x", d__g="y")
    first = digest(tmp_path, "d")
    os.utime(tmp_path / "d/f", (1, 1))
    os.utime(tmp_path / "d", (1, 1))
    assert digest(tmp_path, "d") == first
    (tmp_path / "other").touch()
    assert digest(tmp_path, "d") == first
    changes: list[Callable[[], object]] = [
        lambda: (tmp_path / "d/f").write_text("z"),
        lambda: (tmp_path / "d/f").chmod(0o600),
        lambda: (tmp_path / "d/f").rename(tmp_path / "d/h"),
        lambda: (tmp_path / "d/empty").mkdir(),
        lambda: (tmp_path / "d/link").symlink_to("h"),
    ]
    seen = {first}
    for change in changes:
        change()
        seen.add(digest(tmp_path, "d"))
    assert len(seen) == len(changes) + 1


def test_what_is_left_out_does_not_count(tmp_path: Path) -> None:
    write(tmp_path, d__f="x", d__log="y")
    first = digest(tmp_path, ".", patterns="d/log")
    (tmp_path / "d/log").write_text("other")
    assert digest(tmp_path, ".", patterns="d/log") == first
    assert digest(tmp_path, ".") != first


def test_keys_can_not_run_into_each_other() -> None:
    assert len({cache.key("a", "b"), cache.key("ab"), cache.key("a", "", "b"), cache.key("b", "a"), cache.key("2:ab")}) == 5


def test_a_cache_entry_means_nothing_without_its_image(tmp_path: Path) -> None:
    where = Dirs(str(tmp_path), str(tmp_path))
    (tmp_path / "images").mkdir()
    known = cache.Known("a" * 64, "2020-01-01T00:00:00Z", layer=True)
    cache.remember(where, str(tmp_path), "k" * 64, known)
    assert cache.look(where, "k" * 64) is None
    (tmp_path / f"images/{'a' * 64}.json").touch()
    assert cache.look(where, "k" * 64) == known
    (tmp_path / f"images/{'a' * 64}.json").unlink()
    cache.sweep(where)
    assert os.listdir(tmp_path / "builds") == []


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
