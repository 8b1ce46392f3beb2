"""Rules without a container: where a copy lands, what differs between two trees, what an instruction of commit says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox import native
from pybox.cli.files import COMMIT, _split
from pybox.cli.options import parse_anywhere
from pybox.errors import PyboxError, SpecError
from pybox.files.changes import compare
from pybox.files.commit import amended
from pybox.files.copying import base_of
from pybox.files.place import Place
from pybox.files.reach import Mounts

# --- docker's rules of the destination -----------------------------------------------------------------------------------------

# what is copied, where to, whether SRC ends in "/.", and where it lands below the test's directory ("" is refused)
LANDINGS = [
    ("file", "new", False, "new"),
    ("file", "new/", False, ""),
    ("file", "file", False, "file"),
    ("file", "file/", False, ""),
    ("file", "dir", False, "dir/base"),
    ("file", "dir/", False, "dir/base"),
    ("file", "dir/.", False, "dir/base"),
    ("file", "no/new", False, ""),
    ("file", "file/new", False, ""),
    ("file", "tofile", False, "file"),
    ("file", "todir", False, "dir/base"),
    ("file", "dangling", False, "gone"),
    ("file", "circle", False, ""),
    ("directory", "new", False, "new"),
    ("directory", "new/", False, "new"),
    ("directory", "new", True, "new"),
    ("directory", "file", False, ""),
    ("directory", "dir", False, "dir/base"),
    ("directory", "dir/", False, "dir/base"),
    ("directory", "dir", True, "dir"),
    ("directory", "todir", True, "dir"),
    ("directory", "no/new", False, ""),
    ("directory", "..", True, ".."),
]


@pytest.mark.parametrize(("kind", "to", "contents", "lands"), LANDINGS)
@pytest.mark.parametrize("inside", [False, True], ids=["host", "container"])
def test_a_copy_lands_where_docker_says(tmp_path: Path, kind: str, to: str, contents: bool, lands: str, inside: bool) -> None:
    top = tmp_path / "top"
    (top / "dir").mkdir(parents=True)
    (top / "file").touch()
    (top / "tofile").symlink_to("file")
    (top / "todir").symlink_to("dir")
    (top / "dangling").symlink_to("gone")
    (top / "circle").symlink_to("circle")
    root = os.open(tmp_path, os.O_PATH) if inside else -1
    path = f"/top/{to}" if inside else f"{top}/{to}"
    try:
        if not lands:
            with pytest.raises(PyboxError):
                Place(root).landing(path, b"base", kind == "directory", contents)
            return
        fd, names = Place(root).landing(path, b"base", kind == "directory", contents)
        found = "/".join((os.readlink(f"/proc/self/fd/{fd}"), *map(os.fsdecode, names)))
        os.close(fd)
        assert found == os.path.normpath(f"{top}/{lands}")
    finally:
        if root >= 0:
            os.close(root)


def test_a_path_of_a_container_never_leaves_its_root(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "canary").write_text("host")
    (tmp_path / "root/up").symlink_to("../../..")
    (tmp_path / "root/abs").symlink_to("/etc")
    (tmp_path / "root/magic").symlink_to("/proc/self/root")
    root = os.open(tmp_path / "root", os.O_PATH)
    place = Place(root)
    try:
        for path in ("up", "/up/up", "../..", "/"):
            fd = place.source(path, True)
            assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "root"))
            os.close(fd)
        fd = place.source("abs/", False)
        assert os.path.samestat(os.fstat(fd), os.stat(tmp_path / "root/etc"))
        os.close(fd)
        for path in ("../canary", "up/canary", str(tmp_path / "canary"), "magic/etc"):
            with pytest.raises(PyboxError, match="No such file"):
                place.source(path, True)
    finally:
        os.close(root)


def test_a_lookup_that_the_kernel_could_not_vouch_for_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [BlockingIOError(11, "Resource temporarily unavailable")] * 3
    real = native.open_in_root

    def racing(*words: object) -> int:
        if answers:
            raise answers.pop()
        return real(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(native, "open_in_root", racing)
    root = os.open(tmp_path, os.O_PATH)
    os.close(Place(root).open("/../.", os.O_PATH))
    os.close(root)
    assert answers == []


@pytest.mark.parametrize(
    ("word", "parts"),
    [
        ("c:/x", ("c", "/x")),
        ("c:x:y", ("c", "x:y")),
        ("./c:x", ("", "./c:x")),
        ("/a:b", ("", "/a:b")),
        ("-", ("", "-")),
        ("x", ("", "x")),
    ],
)
def test_an_argument_of_cp_is_split_as_docker_does(word: str, parts: tuple[str, str]) -> None:
    assert _split(word) == parts


@pytest.mark.parametrize(
    ("path", "base"), [("/", b""), ("/a/b/", b"b"), ("a/.", b"a"), ("/..", b""), ("x/../y", b"y"), ("/...", b"...")]
)
def test_a_copy_into_a_directory_has_the_sources_name(path: str, base: bytes) -> None:
    assert base_of(path) == base


def test_options_may_stand_between_the_words() -> None:
    parsed = parse_anywhere(COMMIT, ["-c", "USER a", "one", "-m", "why", "two", "-c", "CMD x"])
    assert (parsed.rest, parsed.all("change"), parsed.one("message")) == (["one", "two"], ["USER a", "CMD x"], "why")


# --- diff ----------------------------------------------------------------------------------------------------------------------


def differences(now: Path, before: Path) -> list[str]:
    fds = [os.open(path, os.O_PATH) for path in (now, before)]
    try:
        return sorted(f"{row.kind} {os.fsdecode(row.path)}" for row in compare(*fds, -1, Mounts()))
    finally:
        for fd in fds:
            os.close(fd)


def test_trees_that_are_the_same_files_do_not_differ(tmp_path: Path) -> None:
    (tmp_path / "d/e").mkdir(parents=True)
    (tmp_path / "d/f").touch()
    assert differences(tmp_path, tmp_path) == []


def test_each_kind_of_change_is_told(tmp_path: Path) -> None:
    now, before = tmp_path / "now", tmp_path / "before"
    for root in (now, before):
        (root / "keep/below").mkdir(parents=True)
        (root / "mode").mkdir()
        (root / "gone" if root == before else root / "new/deep").mkdir(parents=True)
    (before / "gone/inside").touch()
    (before / "kind").mkdir()
    (before / "kind/x").touch()
    (now / "kind").touch()
    (before / "other").touch()
    (now / "other/y").mkdir(parents=True)
    (now / "mode").chmod(0o700)
    for root in (now, before):
        for path in ("keep/below", "keep", "mode"):
            os.utime(root / path, ns=(1, 1))
    assert differences(now, before) == sorted(
        ["C /kind", "C /mode", "D /gone", "A /new", "A /new/deep", "C /other", "A /other/y"]
    )


TREE = st.dictionaries(
    st.sampled_from("abc"), st.one_of(st.integers(0, 1), st.dictionaries(st.sampled_from("abc"), st.integers(0, 1)))
)


@given(TREE, TREE)
def test_every_difference_is_told_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, new: dict[str, object], old: dict[str, object]
) -> None:
    roots = [tmp_path_factory.mktemp(name) for name in ("now", "before")]
    for root, tree in zip(roots, (new, old), strict=True):
        for name, value in tree.items():
            if isinstance(value, dict):
                (root / name).mkdir()
                for below, size in value.items():
                    (root / name / below).write_text("x" * size)
                os.utime(root / name, ns=(1, 1))
            else:
                (root / name).write_text("x" * int(str(value)))
    found = {line[2:]: line[0] for line in differences(*roots)}
    assert {path for path, kind in found.items() if kind == "D"} == {f"/{name}" for name in old.keys() - new.keys()} | {
        f"/{name}/{below}"
        for name in old.keys() & new.keys()
        if isinstance(below_old := old[name], dict) and isinstance(below_new := new[name], dict)
        for below in below_old.keys() - below_new.keys()
    }
    assert {path for path, kind in found.items() if kind == "A" and path.count("/") == 1} == {
        f"/{n}" for n in new.keys() - old.keys()
    }


# --- commit --------------------------------------------------------------------------------------------------------------------


def test_instructions_amend_the_settings() -> None:
    old = {"Cmd": ["old"], "Env": ["A=1", "B=2"], "WorkingDir": "/srv", "Unknown": 7, "Labels": {"x": "1"}}
    lines = ('CMD ["a b", "c"]', "env B=3 C='x y'", "ENV OLD style", "USER 5:6", "WORKDIR app", "LABEL y=2", "EXPOSE 80 53/udp")
    assert amended(old, lines) == {  # type: ignore[arg-type]
        "Cmd": ["a b", "c"],
        "Env": ["A=1", "B=3", "C=x y", "OLD=style"],
        "User": "5:6",
        "WorkingDir": "/srv/app",
        "Unknown": 7,
        "Labels": {"x": "1", "y": "2"},
        "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
    }
    assert amended({"Cmd": ["old"]}, ("ENTRYPOINT echo $A",)) == {"Entrypoint": ["/bin/sh", "-c", "echo $A"]}


@pytest.mark.parametrize("line", ["", "CMD", "RUN x", 'CMD ["a"', "CMD [1]", "ENV =x", "ENV A", "ENV 'A", "LABEL x", "USER a\0b"])
def test_an_instruction_that_makes_no_sense_is_refused(line: str) -> None:
    with pytest.raises(SpecError):
        amended({}, (line,))


@given(st.text(max_size=30), st.sampled_from(["CMD", "ENTRYPOINT", "ENV", "USER", "WORKDIR", "LABEL", "EXPOSE"]))
def test_any_text_is_taken_or_refused(rest: str, word: str) -> None:
    try:
        amended({}, (f"{word} {rest}",))
    except SpecError:
        pass
