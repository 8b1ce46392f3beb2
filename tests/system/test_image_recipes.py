"""The recipes below images/ make images that a run can use. debian and python need apt's mirrors: `make images` builds them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pybox.dirs import Dirs
from pybox.image import store

ROOT = Path(store.__file__).parents[2]
COMMAND = """#!/bin/sh
shift
exec {python} -B -c '
import sys
sys.path.insert(0, "{root}")
from pybox import dirs
from pybox.cli import images
sys.exit(images.import_(dirs.current(), sys.argv[1:]))' "$@"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory that every user can reach, with a command that imports."""
    with tempfile.TemporaryDirectory() as path:
        os.chmod(path, 0o755)
        (Path(path) / "pybox").write_text(COMMAND.format(python=sys.executable, root=ROOT))
        (Path(path) / "pybox").chmod(0o755)
        yield Path(path)


@pytest.mark.skipif(not shutil.which("busybox"), reason="busybox-static is not installed")
@pytest.mark.parametrize("uid", [0, 65534])
def test_the_busybox_recipe_makes_the_same_runnable_image_every_time(place: Path, uid: int) -> None:
    if os.geteuid() not in (0, uid):
        pytest.skip("another user's run needs root")
    os.chown(place, uid, os.getegid() if os.geteuid() else uid)
    env = {
        "PATH": os.environ["PATH"],
        "PYBOX": f"{place}/pybox",
        "PYBOX_STORE": f"{place}/store",
        "PYBOX_STATE": f"{place}/state",
        "TMPDIR": str(place),
    }
    who = {"user": uid, "group": uid, "extra_groups": []} if os.geteuid() == 0 else {}
    ids = set()
    for _ in range(2):
        done = subprocess.run([f"{ROOT}/images/busybox/build"], env=env, capture_output=True, text=True, **who)  # type: ignore[call-overload]
        assert (done.returncode, done.stderr) == (0, "")
        ids.add(done.stdout)
    assert len(ids) == 1
    image = store.find(Dirs(f"{place}/store", f"{place}/state"), "busybox")
    root = Path(image.layers[0])
    assert image.config.cmd == ("sh",)
    assert all((root / name).is_dir() for name in ("proc", "sys", "dev", "tmp", "root", "run"))
    assert all((root / "etc" / name).is_file() for name in ("hosts", "hostname", "resolv.conf", "passwd", "group"))
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    if os.geteuid() == 0:
        out = subprocess.run(
            ["chroot", str(root), "/bin/sh", "-c", "id -u; echo ok | sed s/ok/fine/"], capture_output=True, text=True
        )
        assert out.stdout.split() == ["0", "fine"]


@pytest.mark.parametrize("recipe", ["busybox", "debian", "python"])
def test_recipes_are_executable_and_say_what_they_make(recipe: str) -> None:
    path = ROOT / "images" / recipe / "build"
    assert os.access(path, os.X_OK)
    assert path.read_text().splitlines()[1].startswith(f"# {recipe}: ")
    assert subprocess.run(["sh", "-n", str(path)], capture_output=True).stderr == b""


def test_a_missing_busybox_is_one_clear_error(place: Path) -> None:
    env = {"PATH": os.environ["PATH"], "BUSYBOX": "/nonexistent", "PYBOX": f"{place}/pybox", "PYBOX_STORE": f"{place}/store"}
    done = subprocess.run([f"{ROOT}/images/busybox/build"], env=env, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "error: /nonexistent does not run\nhint: apt-get install busybox-static\n"
    assert not (place / "store").exists()
