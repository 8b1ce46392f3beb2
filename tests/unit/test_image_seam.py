"""Directories that a layer does not describe stay what a lower layer says they are."""

from __future__ import annotations

import os
from pathlib import Path

from image_tars import dirs, entry, folder, tar
from test_image_stack import bring

from pybox.dirs import Dirs
from pybox.image import changes, store

BASE = tar(folder("tmp", 0o1777, mtime=7), folder("opt"), folder("opt/in", 0o750, mtime=8), entry("opt/in/f"))


def stacked(here: Dirs, name: str) -> list[Path]:
    """The trees of an image, topmost first."""
    return [Path(path) for path in store.find(here, name).layers]


def shown(trees: list[Path], path: str) -> tuple[int, int]:
    """Mode and time of a directory as overlayfs shows it."""
    status = next((tree / path).stat() for tree in trees if (tree / path).is_dir())
    return status.st_mode & 0o7777, int(status.st_mtime)


def test_what_a_layer_does_not_describe_stays_as_it_was(tmp_path: Path) -> None:
    here = dirs(tmp_path)
    bring(here, "tool", BASE, tar(entry("tmp/x")), tar(entry("opt/in/deep/y")))
    seam, *trees = stacked(here, "tool")
    assert len(trees) == 3 and sorted(os.listdir(seam)) == ["opt", "tmp"] and os.listdir(seam / "opt") == ["in"]
    assert (shown([seam], "tmp"), shown([seam], "opt/in")) == ((0o1777, 7), (0o750, 8))
    assert not (seam / "opt/in/deep").exists()  # nobody says anything else of it


def test_the_topmost_word_counts_and_needs_no_seam(tmp_path: Path) -> None:
    here = dirs(tmp_path)
    bring(here, "tool", BASE, tar(entry("tmp/x")), tar(folder("tmp", 0o700, mtime=9)))
    assert len(stacked(here, "tool")) == 3 and shown(stacked(here, "tool"), "tmp") == (0o700, 9)


def test_a_directory_that_replaces_is_a_new_one(tmp_path: Path) -> None:
    here = dirs(tmp_path)
    bring(here, "above", BASE, tar(folder("opt"), entry("opt/.wh..wh..opq"), entry("opt/in/new")))
    bring(here, "removed", BASE, tar(folder("opt"), entry("opt/.wh.in")), tar(folder("opt"), entry("opt/in/new")))
    bring(here, "file", BASE, tar(folder("opt"), entry("opt/.wh.in"), entry("opt/in")), tar(folder("opt"), entry("opt/in/new")))
    for name in ("above", "removed", "file"):
        assert shown(stacked(here, name), "opt/in")[0] == 0o755, name


def test_a_directory_that_is_emptied_is_still_the_same_one(tmp_path: Path) -> None:
    here = dirs(tmp_path)
    bring(here, "tool", BASE, tar(entry("opt/in/.wh..wh..opq"), entry("opt/in/new")))
    assert shown(stacked(here, "tool"), "opt/in")[0] == 0o750


def test_images_share_a_seam_and_it_goes_with_the_last_of_them(tmp_path: Path) -> None:
    here = dirs(tmp_path)
    bring(here, "one", BASE, tar(entry("tmp/x")))
    bring(here, "two", BASE, tar(entry("tmp/other")))
    assert stacked(here, "one")[0] == stacked(here, "two")[0] and len(os.listdir(here.layers)) == 4
    assert changes.sweep(here) == []
    changes.remove(here, "one")
    assert stacked(here, "two")[0].is_dir()
    changes.remove(here, "two")
    assert os.listdir(here.layers) == []


def test_an_image_of_which_each_directory_is_described_has_no_seam(tmp_path: Path) -> None:
    here = dirs(tmp_path)
    bring(here, "tool", BASE, tar(folder("tmp"), entry("tmp/x")))
    bring(here, "flat", tar(entry("a/b/c")))
    assert (len(stacked(here, "tool")), len(stacked(here, "flat"))) == (2, 1)
