"""What a run leaves is removed, whatever a container has made of it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybox.undo import undo


def deep(path: Path, levels: int) -> None:
    """Make directories in each other, deeper than any path or recursion can be."""
    here = os.open(path, os.O_RDONLY)
    for _ in range(levels):
        os.mkdir("d", dir_fd=here)
        os.close(os.open("f", os.O_CREAT | os.O_WRONLY, dir_fd=here))
        below = os.open("d", os.O_RDONLY | os.O_DIRECTORY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_a_tree_too_deep_for_a_path_or_a_recursion_is_removed(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    deep(tmp_path / "t", 3000)
    undo("tree", str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []


def test_symlinks_in_a_tree_are_removed_and_not_followed(tmp_path: Path) -> None:
    (tmp_path / "t" / "a" / "b").mkdir(parents=True)
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "file").write_text("alive")
    (tmp_path / "t" / "dir").symlink_to(tmp_path / "canary")
    (tmp_path / "t" / "a" / "b" / "up").symlink_to("../../..")
    undo("tree", str(tmp_path / "t"))
    assert [path.name for path in tmp_path.iterdir()] == ["canary"]
    assert (tmp_path / "canary" / "file").read_text() == "alive"


def test_names_that_look_like_those_used_while_moving_are_no_trouble(tmp_path: Path) -> None:
    for name in ("1~", "2~", "1~/2~/3~", "2~/1~", "x/1~/2~"):
        (tmp_path / "t" / name).mkdir(parents=True, exist_ok=True)
    (tmp_path / "t" / "3~").write_text("a file")
    undo("tree", str(tmp_path / "t"))
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_a_plain_user_removes_directories_that_are_closed_by_their_mode(tmp_path: Path) -> None:
    (tmp_path / "t").mkdir()
    for path in (tmp_path.parent.parent, tmp_path.parent, tmp_path):
        path.chmod(0o755)
    os.chown(tmp_path, 65534, 65534)
    os.chown(tmp_path / "t", 65534, 65534)
    pid = os.fork()
    if pid == 0:
        os.setresuid(65534, 65534, 65534)
        os.makedirs(tmp_path / "t" / "a" / "b")
        os.chmod(tmp_path / "t" / "a" / "b", 0)
        os.chmod(tmp_path / "t" / "a", 0)
        undo("tree", str(tmp_path / "t"))
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("verb", ["unlink", "tree", "group"])
def test_what_is_not_there_is_undone_already(verb: str, tmp_path: Path) -> None:
    undo(verb, str(tmp_path / "absent"))
    assert os.listdir(tmp_path) == []
