"""COPY and ADD without a kernel's help: which files are meant, what is left out, and what a cache knows them by."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.containerfile import cache, ignore, sources
from pybox.containerfile.sources import Root, resolved
from pybox.containerfile.words import WordError
from pybox.dirs import Dirs
from pybox.errors import PyboxError

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
