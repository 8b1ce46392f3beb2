"""Every lie an image archive can tell is refused, and leaves nothing."""

# ruff: noqa: F811

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from image_tars import contents, entry, symlink, tar
from test_image_archive import LOWER, MANIFEST, UPPER, Layout, digest, docker, docker_files, here, named, refused, settings, write  # noqa: F401

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import archive, importing

# Lies


def test_a_forged_layer_of_the_second_image_leaves_no_trace_of_the_first(here: Dirs, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "two")
    path = layout.index(layout.image(LOWER, **named("good")), layout.image(UPPER, **named("bad")))
    (path / "blobs/sha256" / digest(UPPER)[7:]).write_bytes(UPPER[:-512] + b"x" * 512)
    refused(here, str(path), f"layer {digest(UPPER)[7:19]}: ")


def test_a_hostile_layer_names_its_layer_and_its_entry(here: Dirs, tmp_path: Path) -> None:
    bad = tar(symlink("out", "/"), entry("out/canary", data=b"x"))
    refused(
        here, write(tmp_path, docker(docker_files(LOWER, bad))), f"layer {digest(bad)[7:19]}: out/canary: its path goes through"
    )


def test_a_file_that_is_no_archive_is_named(here: Dirs) -> None:
    refused(here, __file__, f"{__file__}: not a tar: ")


LIES: dict[str, tuple[Callable[[dict[str, bytes]], object], str]] = {
    "layer content": (lambda files: files.update({"0/layer.tar": UPPER}), "its content is sha256:"),
    "layer absent": (lambda files: files.pop("0/layer.tar"), "the archive has no 0/layer.tar"),
    "manifest absent": (lambda files: files.pop("manifest.json"), "neither manifest.json nor index.json"),
    "manifest no JSON": (lambda files: files.update({"manifest.json": b"{"}), "manifest.json is not JSON"),
    "manifest no list": (lambda files: files.update({"manifest.json": b"{}"}), "manifest.json is not a list"),
    "manifest no objects": (lambda files: files.update({"manifest.json": b"[3]"}), "is not a JSON object"),
    "manifest empty": (lambda files: files.update({"manifest.json": b"[]"}), "the archive holds no image"),
    "manifest too deep": (lambda files: files.update({"manifest.json": b"[" * 100000}), "manifest.json is not JSON"),
    "config outside": (
        lambda files: files.update({"manifest.json": b'[{"Config": "../../etc/passwd", "Layers": []}]'}),
        "not a name within the archive",
    ),
    "tag that is a path": (
        lambda files: files.update({"manifest.json": files["manifest.json"].replace(b"tool:1", b"../../x:1")}),
        "image name '../../x:1': the registry",
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_docker_archive_is_refused(here: Dirs, tmp_path: Path, lie: str) -> None:
    files = docker_files(LOWER)
    LIES[lie][0](files)
    refused(here, write(tmp_path, docker(files)), LIES[lie][1])


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"os": "windows"}, "an image for windows"),
        ({"rootfs": {}}, "without layers"),
        ({"rootfs": None}, "rootfs of the image configuration is not a JSON object"),
        ({"rootfs": {"diff_ids": ["sha256:../../x"]}}, "is not a sha256 digest"),
        ({"rootfs": {"diff_ids": [digest(LOWER)] * 2}}, "the manifest has 1 layers, the configuration 2"),
        ({"config": {"Env": "A=1"}}, "Env is not a list of texts"),
        ({"config": {"Env": ["A=1\0B=2"]}}, "Env is not a list of texts"),
        ({"config": {"User": 3}}, "User is not a text"),
        ({"config": {"Env": ["A=\ud800"]}}, "the image configuration has half a surrogate pair in a text"),
        ({"config": {"Env": ["A=\udcff"]}}, None),
        ({"config": []}, None),
        ({"config": [1]}, "config of the image configuration is not a JSON object"),
        ({"architecture": ["amd64"]}, "architecture is not a text"),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused(here: Dirs, tmp_path: Path, changed: dict, message: str | None) -> None:  # type: ignore[type-arg]
    source = write(tmp_path, docker(docker_files(LOWER, **changed)))
    if message is None:
        assert archive.load(here, source)
    else:
        refused(here, source, message)


def test_a_config_that_is_not_what_its_name_says_is_refused(here: Dirs, tmp_path: Path) -> None:
    files = docker_files(LOWER)
    (name,) = (name for name in files if len(name) == 69)
    files[name] = files[name].replace(b"A=1", b"A=2")
    refused(here, write(tmp_path, docker(files)), "as its name says")


@pytest.mark.parametrize("part", ["manifest", "config", "layer"])
@pytest.mark.parametrize("lie", ["content", "size", "absent", "digest"])
def test_a_lying_oci_layout_is_refused(here: Dirs, tmp_path: Path, part: str, lie: str) -> None:
    layout = Layout(tmp_path / "tool")
    config = layout.blob(settings(LOWER), "application/vnd.oci.image.config.v1+json")
    layer = layout.blob(LOWER, "application/vnd.oci.image.layer.v1.tar")
    manifest = layout.json({"config": config, "layers": [layer]}, MANIFEST)
    wrong = {"manifest": manifest, "config": config, "layer": layer}[part]
    blob = tmp_path / "tool/blobs/sha256" / str(wrong["digest"])[7:]
    message = "match its digest" if part != "layer" else "as its manifest says"
    if lie == "content":
        blob.write_bytes(blob.read_bytes()[:-1] + b"?")
        message = message if part != "layer" else "its content is sha256:"
    elif lie == "absent":
        blob.unlink()
        message = "No such file"
    else:
        wrong[lie] = {"size": 12, "digest": "sha256:../../../etc/passwd"}[lie]
        message = "is not a sha256 digest" if lie == "digest" else message
        manifest = wrong if part == "manifest" else layout.json({"config": config, "layers": [layer]}, MANIFEST)
    refused(here, str(layout.index(manifest)), message)


def test_a_compressed_blob_is_checked_against_its_own_digest(here: Dirs, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "tool")
    path = layout.index(layout.image(LOWER, pack=lambda data: gzip.compress(data, 1)))
    blob = path / "blobs/sha256" / digest(gzip.compress(LOWER, 1))[7:]
    again = gzip.compress(LOWER, 9)
    if len(again) != blob.stat().st_size:
        again = again + bytes(blob.stat().st_size - len(again)) if len(again) < blob.stat().st_size else blob.read_bytes()
    header = bytearray(blob.read_bytes())
    header[4] ^= 1  # the time in the gzip header: the same content, other bytes
    blob.write_bytes(bytes(header))
    refused(here, str(path), "its blob is sha256:")


@pytest.mark.parametrize("kind", ["application/vnd.oci.image.layer.v1.tar+gzip+encrypted", "application/octet-stream", ""])
def test_a_layer_that_is_no_tar_is_refused(here: Dirs, tmp_path: Path, kind: str) -> None:
    layout = Layout(tmp_path / "tool")
    config = layout.blob(settings(LOWER), "application/vnd.oci.image.config.v1+json")
    path = layout.index(layout.json({"config": config, "layers": [layout.blob(LOWER, kind)]}, MANIFEST))
    refused(here, str(path), "which is no tar")


def test_a_fifo_in_a_layout_does_not_hang(here: Dirs, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "tool")
    path = layout.index(layout.image(LOWER))
    (path / "blobs/sha256" / digest(LOWER)[7:]).unlink()
    os.mkfifo(path / "blobs/sha256" / digest(LOWER)[7:])
    refused(here, str(path), "not a regular file")


def test_a_root_file_system_is_not_an_image_archive_and_the_other_way_round(here: Dirs, tmp_path: Path) -> None:
    assert "pybox import" in str(refused(here, write(tmp_path, LOWER), "not an image archive").hint)
    with pytest.raises(ImageError, match="an image archive, not a root file system") as caught:
        importing.import_(here, "tool", write(tmp_path, docker(docker_files(LOWER))))
    assert "pybox load" in str(caught.value.hint)
    assert contents(here.store) == set()


@pytest.mark.parametrize("source", ["/nonexistent", "/proc/self/mem", "a\0b"])
def test_a_source_that_cannot_be_read_is_named(here: Dirs, source: str) -> None:
    for bring in (lambda: archive.load(here, source), lambda: importing.import_(here, "x", source)):
        with pytest.raises(ImageError) as caught:
            bring()
        assert caught.value.message.isprintable()
        assert contents(here.store) == set()
