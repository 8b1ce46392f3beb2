"""Archives in and out: every shape that image tools write."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from image_tars import contents, dirs, entry, folder, snapshot, symlink, tar

from pybox.dirs import Dirs
from pybox.errors import ImageError
from pybox.image import archive, changes, export, store
from pybox.image.stream import compressed

LOWER = tar(folder("d"), entry("d/low", data=b"low"), entry("gone", data=b"x"))
UPPER = tar(entry(".wh.gone"), entry("d/high", data=b"high"))
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


@pytest.fixture
def here(tmp_path: Path) -> Dirs:
    return dirs(tmp_path)


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def settings(*layers: bytes, **changed: object) -> bytes:
    document = {
        "architecture": store.architecture(),
        "os": "linux",
        "config": {"Env": ["A=1"], "Cmd": ["sh"], "Entrypoint": None},
        "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        **changed,
    }
    return json.dumps(document).encode()


def docker(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as made:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            made.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            made.addfile(symlink(name, target)[0])
    return out.getvalue()


def docker_files(*layers: bytes, tags: object = ("tool:1",), **changed: object) -> dict[str, bytes]:
    blob = settings(*layers, **changed)
    names = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": f"{digest(blob)[7:]}.json", "RepoTags": tags, "Layers": names}]
    files = dict(zip(names, layers, strict=True))
    return {**files, f"{digest(blob)[7:]}.json": blob, "manifest.json": json.dumps(manifest).encode()}


class Layout:
    """An OCI layout being written, with room for lies."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data: bytes, kind: str, **more: object) -> dict[str, object]:
        (self.path / "blobs/sha256" / digest(data)[7:]).write_bytes(data)
        return {"mediaType": kind, "digest": digest(data), "size": len(data), **more}

    def json(self, document: object, kind: str, **more: object) -> dict[str, object]:
        return self.blob(json.dumps(document).encode(), kind, **more)

    def image(self, *layers: bytes, pack: Callable[[bytes], bytes] = bytes, **more: object) -> dict[str, object]:
        kind = "application/vnd.oci.image.layer.v1.tar"
        manifest = {
            "schemaVersion": 2,
            "config": self.blob(settings(*layers), "application/vnd.oci.image.config.v1+json"),
            "layers": [self.blob(pack(layer), kind) for layer in layers],
        }
        return self.json(manifest, MANIFEST, **more)

    def index(self, *entries: dict[str, object]) -> Path:
        (self.path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries}))
        return self.path


def named(name: str) -> dict[str, object]:
    return {"annotations": {"org.opencontainers.image.ref.name": name}}


def write(tmp_path: Path, data: bytes) -> str:
    (tmp_path / "archive.tar").write_bytes(data)
    return str(tmp_path / "archive.tar")


def refused(here: Dirs, source: str, message: str) -> ImageError:
    before = contents(here.store) if os.path.exists(here.store) else set()
    with pytest.raises(ImageError) as caught:
        archive.load(here, source)
    assert message in caught.value.message and caught.value.message.isprintable()
    assert contents(here.store) == before
    return caught.value


# Loading


@pytest.mark.parametrize("kind", ["", "gzip", "zstd"])
@pytest.mark.parametrize("inner", ["", "gzip", "zstd"])
def test_docker_archives_load_in_any_compression(here: Dirs, tmp_path: Path, kind: str, inner: str) -> None:
    def pack(by: str, data: bytes) -> bytes:
        return b"".join(compressed(by, iter((data,)))) if by else data

    files = {name: pack(inner, data) if name.endswith("layer.tar") else data for name, data in docker_files(LOWER, UPPER).items()}
    (loaded,) = archive.load(here, write(tmp_path, pack(kind, docker(files))))
    assert loaded.names == ("tool:1",)
    image = store.find(here, "tool:1")
    assert image.config.env == ("A=1",) and image.config.cmd == ("sh",)
    assert os.listdir(image.layers[1] + "/d") == ["low"]
    assert sorted(os.listdir(image.layers[0])) == ["d", "gone"]


def test_docker_archives_link_shared_layers(here: Dirs, tmp_path: Path) -> None:
    files = docker_files(LOWER)
    files["shared/layer.tar"] = files.pop("0/layer.tar")
    archive.load(here, write(tmp_path, docker(files, {"0/layer.tar": "../shared/layer.tar"})))
    assert (Path(store.find(here, "tool:1").layers[0]) / "d/low").read_bytes() == b"low"


def test_standard_input_can_be_an_archive(here: Dirs, tmp_path: Path) -> None:
    reading, writing = os.pipe()
    kept = os.dup(0)
    try:
        os.write(writing, docker(docker_files(LOWER)))
        os.close(writing)
        os.dup2(reading, 0)
        assert archive.load(here, "-", "mine")[0].names == ("mine:latest",)
    finally:
        os.dup2(kept, 0)
        os.close(kept)
        os.close(reading)


def test_the_same_layer_twice_is_stacked_once(here: Dirs, tmp_path: Path) -> None:
    archive.load(here, write(tmp_path, docker(docker_files(LOWER, UPPER, LOWER))))
    image = store.find(here, "tool:1")
    assert image.layers == tuple(store.layer_path(here, store.layer_key(digest(layer))) for layer in (LOWER, UPPER))


@pytest.mark.parametrize("as_tar", [False, True])
def test_oci_layouts_load_as_directory_and_as_tar(here: Dirs, tmp_path: Path, as_tar: bool) -> None:
    layout = Layout(tmp_path / "tools")
    path = layout.index(
        layout.image(LOWER, pack=gzip.compress, **named("one")),
        layout.image(LOWER, UPPER, **named("quay.io/team/two:2")),
    )
    source = str(path)
    if as_tar:
        with tarfile.open(tmp_path / "tools.tar", "w") as made:
            made.add(path, "./")
        source = str(tmp_path / "tools.tar")
    assert [loaded.names for loaded in archive.load(here, source)] == [("tools:one",), ("quay.io/team/two:2",)]
    manifest = json.loads((path / "index.json").read_text())["manifests"][1]["digest"]
    assert store.find(here, f"two@{manifest}").id == store.find(here, "quay.io/team/two:2").id


def test_an_index_within_the_index_gives_the_image_for_this_machine(here: Dirs, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "multi")
    other = layout.image(UPPER, platform={"architecture": "vax", "os": "linux"})
    windows = layout.image(UPPER, platform={"architecture": store.architecture(), "os": "windows"})
    attestation = layout.image(UPPER, platform={"architecture": "unknown", "os": "unknown"})
    mine = layout.image(LOWER, platform={"architecture": store.architecture(), "os": "linux"})
    nested = layout.json({"schemaVersion": 2, "manifests": [other, windows, attestation, mine]}, INDEX, **named("multi"))
    (loaded,) = archive.load(here, str(layout.index(nested)))
    assert loaded.names == ("multi:multi",)
    assert (Path(store.find(here, "multi:multi").layers[0]) / "d/low").exists()


def test_an_image_for_another_machine_is_refused_by_name(here: Dirs, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "multi")
    other = layout.image(UPPER, platform={"architecture": "vax", "os": "linux"})
    path = layout.index(layout.json({"schemaVersion": 2, "manifests": [other]}, INDEX))
    refused(here, str(path), f"an image for linux/vax, not for linux/{store.architecture()}")


def test_one_name_is_not_given_to_two_images(here: Dirs, tmp_path: Path) -> None:
    layout = Layout(tmp_path / "two")
    path = layout.index(layout.image(LOWER), layout.image(UPPER))
    with pytest.raises(ImageError, match="holds 2 images"):
        archive.load(here, str(path), "mine")
    assert contents(here.store) == set()


# Saving


def undated_whiteouts(layer: str) -> dict[str, object]:
    """Return a layer's entries; a whiteout is ours, not the archive's, so its time is that of unpacking."""
    return {name: entry[:3] if entry[0] == 0o020000 else entry for name, entry in snapshot(layer).items()}


@pytest.mark.parametrize(
    ("format", "compression"), [("docker-archive", "none"), ("oci", "none"), ("oci", "gzip"), ("oci-dir", "zstd")]
)
def test_what_is_saved_loads_as_the_same_image_elsewhere(here: Dirs, tmp_path: Path, format: str, compression: str) -> None:
    (loaded,) = archive.load(here, write(tmp_path, docker(docker_files(LOWER, UPPER, tags=["tool:1", "quay.io/t/x:2"]))))
    out = str(tmp_path / "out")
    export.save(here, ["tool:1", "quay.io/t/x:2"], out, format=format, compression=compression)
    elsewhere = Dirs(str(tmp_path / "elsewhere"), here.state)
    assert archive.load(elsewhere, out) == [loaded]
    for mine, theirs in zip(store.find(here, "tool:1").layers, store.find(elsewhere, "tool:1").layers, strict=True):
        assert undated_whiteouts(mine) == undated_whiteouts(theirs)
    export.save(elsewhere, ["tool:1", "quay.io/t/x:2"], out + "2", format=format, compression=compression)
    assert {k: v[5] for k, v in snapshot(out).items()} == {k: v[5] for k, v in snapshot(out + "2").items()}


def test_saving_a_changed_layer_fails_and_leaves_no_output(here: Dirs, tmp_path: Path) -> None:
    archive.load(here, write(tmp_path, docker(docker_files(LOWER))))
    (Path(store.find(here, "tool:1").layers[0]) / "d/low").write_bytes(b"LOW")
    before = set(os.listdir(tmp_path))
    for format in ("docker-archive", "oci", "oci-dir"):
        with pytest.raises(ImageError, match="was changed in the store"):
            export.save(here, ["tool:1"], str(tmp_path / "out"), format=format)
    assert set(os.listdir(tmp_path)) == before


def test_saving_over_something_is_refused_or_replaces_a_file_at_once(here: Dirs, tmp_path: Path) -> None:
    archive.load(here, write(tmp_path, docker(docker_files(LOWER))))
    (tmp_path / "full").mkdir()
    (tmp_path / "full/x").touch()
    with pytest.raises(ImageError, match="not empty"):
        export.save(here, ["tool:1"], f"{tmp_path}/full/", format="oci")
    with pytest.raises(ImageError, match="unknown format zip"):
        export.save(here, ["tool:1"], f"{tmp_path}/out", format="zip")
    with pytest.raises(ImageError, match=r"saving to .*: No such file or directory"):
        export.save(here, ["tool:1"], f"{tmp_path}/absent/out")
    assert os.listdir(tmp_path / "full") == ["x"]


def test_a_removed_image_can_come_back(here: Dirs, tmp_path: Path) -> None:
    source = write(tmp_path, docker(docker_files(LOWER, UPPER)))
    first = archive.load(here, source)
    before = contents(here.store)
    changes.remove(here, "tool:1")
    assert contents(here.store) == set()
    assert archive.load(here, source) == first
    assert contents(here.store) == before
    shutil.rmtree(here.store)
