"""Archives in and out: every shape that image tools write, and every lie an archive can tell."""

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
from pybox.image import archive, changes, export, importing, store
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
