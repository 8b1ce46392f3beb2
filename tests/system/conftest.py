"""The host is part of every assertion: a fixture around each test compares it before and after."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import BUSYBOX, LIBC, Images, differences, make_tree, reap_orphans, snapshot

import pybox
from pybox import dirs, native
from pybox.image.importing import import_
from pybox.image.model import ImageConfig

PR_SET_CHILD_SUBREAPER = 36


def pytest_configure() -> None:
    """Ignore no signal, whoever starts the tests (nohup, a shell's background job): pybox does not pass on what it is told to ignore."""
    for number, handler in (
        (signal.SIGHUP, signal.SIG_DFL),
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, and say why, where a container can't be made at all."""
    reason = (
        "" if os.geteuid() == 0 else "the system tests need root" if BUSYBOX else "no busybox (Debian package busybox-static)"
    )
    if reason:
        for item in items:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for the whole session, on a file system that overlayfs takes."""
    return tmp_path_factory.mktemp("system")


@pytest.fixture(scope="session")
def tree(work: Path) -> Path:
    """The root file system of the test image. Don't change it; see image."""
    return make_tree(work / "tree", work)


@pytest.fixture(scope="session")
def store(work: Path, tree: Path) -> Iterator[dirs.Dirs]:
    """A store of its own with the test image, busybox, in it; PYBOX_STORE and PYBOX_STATE point there, and stay so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYBOX_STORE", str(work / "store"))
        patch.setenv("PYBOX_STATE", str(work / "state"))
        where = dirs.current()
        import_(where, "busybox", str(tree), run=ImageConfig(cmd=("sh",)))
        # so that what a process keeps for its next run is there already; and orphans of a killed pybox come to us
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        assert pybox.run("busybox", ["true"]).ok
        yield where
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


@pytest.fixture(scope="session")
def image(store: dirs.Dirs, tree: Path, work: Path) -> Images:
    """``image(change)`` imports a variant of the test image and returns its name."""
    return Images(tree, work)


@pytest.fixture(autouse=True)
def host_unchanged(store: dirs.Dirs) -> Iterator[None]:
    """Mounts, control groups, links, children, fds, state and writable layers are after a test what they were before."""
    native.forget_networks()  # what this process keeps for its next run
    reap_orphans()  # of a container that several tests shared, the last of which was before this one
    before = snapshot()
    yield
    native.forget_networks()
    # what was killed needs a moment to be gone
    limit = time.monotonic() + 20
    while (found := differences(before)) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not found, found
