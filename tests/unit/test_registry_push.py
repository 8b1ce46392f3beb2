"""Pushing what can be pulled again; and mirrors and proxies, which are asked first but never believed alone."""

# ruff: noqa: F811

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from fake_registry import Server, serving
from image_tars import dirs
from test_registry_pull import FAST, ONE, TWO, corrupt, guarded, has_one, here, nobody, password, there  # noqa: F401

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import store
from pybox.registry.pull import pull
from pybox.registry.push import Shape, push

# Pushing


def test_what_is_pushed_is_pulled_the_same(here: Dirs, there: Server, tmp_path: Path) -> None:
    there.image(ONE, TWO)
    first = pull(here, f"{there.host}/tool", FAST)
    with serving() as other:
        digest = push(here, f"{there.host}/tool", f"{other.host}/tool:2", FAST)
        again = dirs(tmp_path / "again")
        assert pull(again, f"{other.host}/tool:2", FAST) == first.replace(digest=digest)
        other.seen.clear()
        assert push(here, f"{there.host}/tool", f"{other.host}/tool:2", FAST) == digest
        assert [line.partition(" ")[0] for line in other.asked("/v2/tool/")] == ["HEAD", "HEAD", "HEAD", "PUT"]


@pytest.mark.parametrize("shape", [Shape("docker"), Shape("oci", "zstd"), Shape("oci", "none"), Shape("docker", "none")])
def test_each_shape_can_be_pulled(here: Dirs, there: Server, tmp_path: Path, shape: Shape) -> None:
    there.image(ONE)
    first = pull(here, f"{there.host}/tool", FAST)
    push(here, f"{there.host}/tool", f"{there.host}/shaped", FAST, shape=shape)
    assert pull(dirs(tmp_path / "again"), f"{there.host}/shaped", FAST).id == first.id


def test_a_push_asks_for_the_right_to_push(here: Dirs, there: Server, nobody: Path) -> None:
    there.image(ONE)
    pull(here, f"{there.host}/tool", FAST)
    guarded(there)
    password(nobody, there.host)
    push(here, f"{there.host}/tool", f"{there.host}/new:1", FAST)
    assert there.asked("/token") == ["GET /token?service=here&scope=repository%3Anew%3Apull%2Cpush"]


def test_a_push_that_is_refused_is_named(here: Dirs, there: Server) -> None:
    there.image(ONE)
    pull(here, f"{there.host}/tool", FAST)
    there.instead = lambda request: request.command == "POST" and (request.reply(403), True)[1]
    with pytest.raises(ImageError, match=f"{there.host}/new: "):
        push(here, f"{there.host}/tool", f"{there.host}/new", FAST, shape=Shape("oci", "zstd"))


def test_a_tag_needs_no_network_and_a_digest_cannot_be_pushed_to(here: Dirs, there: Server) -> None:
    digest = there.image(ONE)
    pull(here, f"{there.host}/tool", FAST)
    with pytest.raises(ImageError, match="a digest is computed"):
        push(here, f"{there.host}/tool", f"{there.host}/tool@{digest}", FAST)


# Other servers


def test_a_mirror_is_asked_first_and_the_registry_where_it_fails(
    here: Dirs, there: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "registries.conf"
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    with serving() as mirror:
        conf.write_text(
            f'[[registry]]\nprefix = "docker.io/library"\nlocation = "{there.host}/hub"\n'
            f'[[registry.mirror]]\nlocation = "{mirror.host}/copy"\n'
        )
        mirror.image(ONE)
        pull(here, "tool", FAST)
        assert has_one(here, "tool") and mirror.asked("/v2/copy/tool/") and not there.seen
        there.image(TWO, tag="2")
        pull(here, "docker.io/library/tool:2", FAST)
        assert there.asked("/v2/hub/tool/manifests/2") and store.find(here, "tool:2").id
        with pytest.raises(ImageError, match=f"{mirror.host}/copy/tool: no such tag: 3; {there.host}/hub/tool: no such tag: 3"):
            pull(here, "tool:3", FAST)
    conf.write_text('[[registry]]\nlocation = "docker.io"\nblocked = true\n')
    with pytest.raises(ImageError, match="blocks docker\\.io"):
        pull(here, "tool", FAST)


def test_a_mirror_whose_layer_is_broken_does_not_keep_the_registry_from_answering(
    here: Dirs, there: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "registries.conf"
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    with serving() as mirror:
        conf.write_text(f'[[registry]]\nlocation = "{there.host}"\n[[registry.mirror]]\nlocation = "{mirror.host}"\n')
        mirror.image(ONE, TWO)
        there.image(ONE, TWO)
        corrupt(mirror)
        pull(here, f"{there.host}/tool", FAST)
    assert has_one(here, f"{there.host}/tool")


def test_a_proxy_is_used_but_not_for_this_machine(
    here: Dirs, there: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conf = tmp_path / "registries.conf"
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf))
    conf.write_text('[[registry]]\nlocation = "far.example"\ninsecure = true\n')
    there.image(ONE)
    monkeypatch.setenv("http_proxy", f"http://user:pw@{there.host}")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    there.instead = lambda request: setattr(request, "path", request.path.removeprefix("http://far.example")) or False
    pull(here, "far.example/tool", FAST)
    assert has_one(here, "far.example/tool")
    assert {headers.get("Proxy-Authorization") for _, _, headers in there.seen} == {
        "Basic " + base64.b64encode(b"user:pw").decode()
    }
    there.seen.clear()
    pull(here, f"{there.host}/tool", FAST)
    assert {headers.get("Proxy-Authorization") for _, _, headers in there.seen} == {None}
