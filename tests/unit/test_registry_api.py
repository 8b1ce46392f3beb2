"""pybox.pull and pybox.push: what a Python program is told, and what is not done twice."""

# ruff: noqa: F811

from __future__ import annotations

import os
import time

import pytest
from fake_registry import Handler, Server, packed, sha
from test_registry_pull import FAST, ONE, TWO, here, nobody, there  # noqa: F401

import pybox
from pybox.dirs import Dirs
from pybox.image import store
from pybox.registry.wire import Manner


@pytest.fixture
def mine(here: Dirs, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store of the test is that of pybox.pull and pybox.push, which don't wait long."""
    monkeypatch.setenv("PYBOX_STORE", here.store)
    monkeypatch.setenv("PYBOX_STATE", here.state)
    monkeypatch.setitem(Manner._fields, "pauses", FAST.pauses)


def test_pybox_pulls_and_pushes_from_python(here: Dirs, there: Server, mine: None) -> None:
    digest = there.image(ONE)
    pulled = pybox.pull(f"{there.host}/tool")
    assert (pulled.digest, pulled.fresh, pybox.pull(f"{there.host}/tool").fresh) == (digest, True, False)
    pushed = pybox.push(f"{there.host}/tool", f"{there.host}/other:1", compression="none", format="docker")
    assert pushed in there.manifests and pybox.pull(f"{there.host}/other:1").id == pulled.id
    with pytest.raises(pybox.SpecError, match="not linux/ARCHITECTURE"):
        pybox.pull("x", platform="windows/amd64")
    with pytest.raises(pybox.ImageNotFound):
        pybox.push("nosuch")


def test_what_a_registry_says_is_a_type_with_its_status(there: Server, mine: None) -> None:
    with pytest.raises(pybox.Refused) as refused:
        pybox.pull(f"{there.host}/tool:absent")
    assert refused.value.status == 404
    there.image(ONE)
    del there.blobs[sha(packed(ONE))]
    with pytest.raises(pybox.Refused, match=r"layer .* no such blob") as refused:
        pybox.pull(f"{there.host}/tool")
    assert refused.value.status == 404
    with pytest.raises(pybox.Unreachable):
        pybox.pull("localhost:1/tool")


def test_layers_that_came_before_the_network_broke_are_not_fetched_again(here: Dirs, there: Server, mine: None) -> None:
    there.image(TWO, ONE)

    def cut(request: Handler) -> bool:
        if not request.path.endswith(sha(packed(ONE))):
            return False
        while not os.listdir(here.layers):  # the other one comes in
            time.sleep(0.001)
        request.cut(packed(ONE), 100)
        return True

    there.instead = cut
    with pytest.raises(pybox.Unreachable, match="after 100 of"):
        pybox.pull(f"{there.host}/tool")
    assert store.images(here) == [] and len(os.listdir(here.layers)) == 1
    there.instead = None
    assert pybox.pull(f"{there.host}/tool").fresh
    assert len(there.asked(f"/blobs/{sha(packed(TWO))}")) == 1


def test_a_push_that_is_slow_keeps_nobody_from_pulling_what_shares_its_layers(here: Dirs, there: Server, mine: None) -> None:
    there.image(ONE)
    pybox.pull(f"{there.host}/tool")
    pulled = []

    def pull_meanwhile(request: Handler) -> bool:
        if request.command == "PUT" and "/uploads/" in request.path and not pulled:
            there.image(ONE, TWO, tag="more")
            pulled.append(pybox.pull(f"{there.host}/tool:more").fresh)
        return False

    there.instead = pull_meanwhile
    pybox.push(f"{there.host}/tool", f"{there.host}/other", compression="none")
    assert pulled == [True]
