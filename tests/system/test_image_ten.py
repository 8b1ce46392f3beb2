"""Ten images that hold what tools get wrong: pybox's trees are those that skopeo and umoci unpack, entry by entry.

Beside what a listing shows that means: extended attributes, device numbers, which names are one file, and times to the
nanosecond. What umoci gives a time of its own, of the moment in which it unpacks, is no property of the image.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ten_images
from harness import said

import pybox
from pybox.dirs import Dirs
from pybox.image import archive, changes, export
from pybox.image import store as find

pytestmark = pytest.mark.skipif(
    not (shutil.which("skopeo") and shutil.which("umoci") and shutil.which("zstd")), reason="no skopeo, umoci and zstd (packages)"
)
Listing = dict[bytes, dict[str, object]]


def listing(root: bytes) -> Listing:
    """A tree as a value: all that there is to each of its entries."""
    found: Listing = {}
    names: dict[int, list[bytes]] = {}
    for parent, folders, files in os.walk(root):
        for name in [b"", *folders, *files] if parent == root else folders + files:
            path = os.path.join(parent, name) if name else root
            shown, status = os.path.relpath(path, root), os.lstat(path)
            entry: dict[str, object] = {
                "mode": oct(status.st_mode), "owner": (status.st_uid, status.st_gid), "time": status.st_mtime_ns,
                "attributes": {key: os.getxattr(path, key, follow_symlinks=False) for key in os.listxattr(path, follow_symlinks=False)},
            }  # fmt: skip
            if stat.S_ISREG(status.st_mode):
                entry["content"] = hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
            elif stat.S_ISLNK(status.st_mode):
                entry["target"] = os.readlink(path)
            elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
                entry["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
            if not stat.S_ISDIR(status.st_mode):
                entry["names"] = names.setdefault(status.st_ino, [])
                names[status.st_ino].append(shown)
            found[shown] = entry
    for same in names.values():
        same.sort()
    return found


def show(where: Dirs, tags: list[str]) -> None:
    """Write to stdout how overlayfs shows the images; in a mount namespace of our own, see below."""
    os.chdir(where.store)
    for name in ("empty", "merged"):
        os.mkdir(name)
    shown = {}
    for tag in tags:
        layers = (os.path.relpath(layer, where.store) for layer in find.find(where, f"ten:{tag}").layers)
        options = f"ro,lowerdir={':'.join((*layers, 'empty'))}"  # overlayfs wants two, if there is no writable one
        subprocess.run(["mount", "-t", "overlay", "overlay", "-o", options, "merged"], check=True)
        shown[tag] = listing(b"merged")
        subprocess.run(["umount", "merged"], check=True)
    sys.stdout.buffer.write(pickle.dumps(shown))


def test_ten_images_are_unpacked_to_the_trees_of_skopeo_and_umoci(tmp_path: Path) -> None:
    made, began = ten_images.images(tmp_path), time.time_ns()
    ten_images.write(tmp_path / "ten", made, ("gzip", "zstd", "none"))
    ten_images.write(tmp_path / "plain", made, ("gzip", "none"))  # umoci has no zstd, skopeo does not take it away
    where = Dirs(str(tmp_path / "store"), str(tmp_path / "state"))
    archive.load(where, str(tmp_path / "ten"))
    own = ("unshare", "--mount", "--propagation", "private", sys.executable, __file__, where.store)
    ours = pickle.loads(subprocess.run([*own, *made], stdout=subprocess.PIPE, check=True).stdout)
    assert len(made) == 10
    for tag in made:
        for words in (
            ("skopeo", "copy", "-q", "--insecure-policy", f"oci:{tmp_path}/plain:{tag}", f"oci:{tmp_path}/theirs:{tag}"),
            ("umoci", "unpack", "--image", f"{tmp_path}/theirs:{tag}", f"{tmp_path}/{tag}"),
        ):
            done = subprocess.run(words, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        theirs = listing(os.fsencode(tmp_path / tag / "rootfs"))
        assert ours[tag].keys() == theirs.keys()
        for path, entry in theirs.items():
            if entry["time"] >= began:  # type: ignore[operator]
                entry["time"] = ours[tag][path]["time"]
            assert ours[tag][path] == entry, (tag, path)


def test_an_image_of_127_layers_runs_as_dockers_largest_do(store: Dirs, tmp_path: Path) -> None:
    (lowest,) = find.stored(store, "busybox").diff_ids
    tars = (ten_images.tar(ten_images.entry(f"only{number}", b"%d" % number)) for number in range(126))
    ten_images.write(tmp_path / "tall", {"tall": [b"".join(export.layer_tar(store, lowest)), *tars]}, ("none",))
    archive.load(store, str(tmp_path / "tall"))
    assert said(pybox.run("tall:tall", ["cat", "/only0", "/only125"])) == "0125"
    assert said(pybox.run("tall:tall", ["cat", "/only0", "/only125"], userns=True)) == "0125"
    changes.remove(store, "tall:tall")


if __name__ == "__main__":
    show(Dirs(sys.argv[1], ""), sys.argv[2:])
