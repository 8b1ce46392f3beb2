"""What images are made of: which layer a file comes from, what is hidden and still shipped, in what two images differ."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_registry import packed, sha
from image_tars import contents, dirs, entry, folder, symlink, tar

from pybox.cli import images as commands
from pybox.cli import storage
from pybox.dirs import Dirs
from pybox.errors import ImageError, PyboxError, SpecError
from pybox.image import archive, store

LOWEST = tar(
    folder("etc"), entry("etc/passwd", data=b"p" * 100), entry("etc/group", data=b"g" * 50), folder("opt"), folder("opt/d"),
    entry("opt/d/big", data=b"b" * 5000), folder("cache"), entry("cache/one", data=b"1" * 300), symlink("link", "etc"),
)  # fmt: skip
MIDDLE = tar(
    entry(".wh.cache"), folder("etc"), entry("etc/passwd", data=b"p" * 100, mode=0o600), entry("etc/group", data=b"G" * 50),
    folder("opt"), folder("opt/d"), entry("opt/d/.wh..wh..opq"), entry("opt/d/new", data=b"n"),
)  # fmt: skip
UPPER = tar(folder("cache"), entry("cache/two", data=b"2" * 7), entry("etc", tarfile.SYMTYPE, link="opt"))


def bring(here: Dirs, name: str, *tars: bytes, history: object = ()) -> None:
    """Load an image of these layers."""
    layout = Path(here.store).parent / "layout"
    (layout / "blobs/sha256").mkdir(parents=True, exist_ok=True)
    config = {"os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha(each) for each in tars]}, "history": list(history)}  # type: ignore[call-overload]

    def put(data: bytes, kind: str) -> dict[str, object]:
        (layout / "blobs/sha256" / sha(data)[7:]).write_bytes(data)
        return {"mediaType": "application/vnd.oci.image." + kind, "digest": sha(data), "size": len(data)}

    manifest = {
        "config": put(json.dumps(config).encode(), "config.v1+json"),
        "layers": [put(packed(each), "layer.v1.tar+gzip") for each in tars],
    }
    entry_ = put(json.dumps(manifest).encode(), "manifest.v1+json")
    (layout / "index.json").write_text(json.dumps({"manifests": [entry_]}))
    archive.load(here, str(layout), name)


@pytest.fixture
def here(tmp_path: Path) -> Dirs:
    found = dirs(tmp_path)
    bring(found, "base", LOWEST)
    bring(
        found,
        "tool",
        LOWEST,
        MIDDLE,
        UPPER,
        history=[{"created_by": "FROM\tx"}, {"created_by": "ENV a", "empty_layer": True}, {"created_by": "\x1b]0;RUN"}],
    )
    return found


@pytest.fixture
def said(here: Dirs, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def say(command: Callable[[Dirs, list[str]], int], *words: str) -> str:
        capsys.readouterr()
        assert command(here, list(words)) == 0
        return capsys.readouterr().out

    return say


def test_each_path_says_what_every_layer_did_to_it(said: Callable[..., str]) -> None:
    events = json.loads(said(storage.layers, "--format", "json", "tool", "/"))
    found = {(event["path"], event["layer"]): (event["what"], event["lost"]) for event in events}
    assert found[("/etc/passwd", 1)] == ("changed (mode, owner or time only)", 100)
    assert found[("/etc/group", 1)] == ("changed", 50)
    assert found[("/cache", 1)] == ("deleted", 300) and found[("/cache", 2)] == ("added", 0)
    assert found[("/opt/d", 1)] == ("hidden", 5000) and found[("/opt/d/new", 1)] == ("added", 0)
    assert found[("/etc", 2)] == ("changed", 150)  # a link took the place of a directory
    assert ("/opt", 1) not in found  # a directory that is merely there again is no event


def test_a_path_shows_its_own_history_only(said: Callable[..., str]) -> None:
    rows = [line.split() for line in said(storage.layers, "tool", "etc/passwd").splitlines()]
    assert [row[:2] for row in rows[1:]] == [["/etc/passwd", "L0"], ["/etc/passwd", "L1"]]
    with pytest.raises(PyboxError, match="/etc/nothing: no layer has it"):
        said(storage.layers, "tool", "/etc/nothing")


def test_the_layers_say_what_is_shared_and_what_is_shipped_in_vain(said: Callable[..., str]) -> None:
    found = json.loads(said(storage.layers, "--format", "json", "tool"))
    assert [len(layer["shared_with"]) for layer in found["layers"]] == [1, 0, 0]
    assert found["hidden"][0] == {"layer": 1, "path": "/opt/d", "what": "hidden", "lost": 5000}
    text = said(storage.layers, "-n", "1", "tool")
    assert "shipped, but not seen any more: 5.6kB" in text and text.count("hidden") == 1 and "\x1b" not in text


def test_the_history_pairs_steps_with_layers_from_the_top(said: Callable[..., str]) -> None:
    steps = json.loads(said(storage.history, "--format", "json", "tool"))
    assert [step["layer"] for step in steps] == [sha(UPPER), "", sha(MIDDLE), sha(LOWEST)]
    assert "\\x1b]0;RUN" in said(commands.image, "history", "tool")


def test_two_images_differ_in_what_is_seen_of_them(said: Callable[..., str]) -> None:
    rows = said(commands.image, "diff", "base", "tool").splitlines()
    assert rows == ["D /cache/one", "A /cache/two", "C /etc", "D /opt/d/big", "A /opt/d/new"]
    assert said(commands.image, "diff", "tool", "tool") == ""
    assert said(commands.image, "diff", "tool").splitlines() == ["A /cache", "C /etc"]  # its last layer alone
    with pytest.raises(ImageError, match="one layer only"):
        said(commands.image, "diff", "base")


def test_system_df_counts_a_shared_layer_once(said: Callable[..., str]) -> None:
    found = json.loads(said(storage.system, "df", "--format", "json"))
    images = found["rows"][0]
    assert (images["total"], images["active"], found["layers"]) == (2, 0, 3)
    assert found["size_if_not_shared"] - images["size"] == 5450 and images["reclaimable"] == images["size"]
    assert "3 layers on disk, used 4 times" in said(storage.system, "df")
    with pytest.raises(SpecError, match="must be df"):
        said(storage.system, "prune")


def test_prune_takes_what_has_no_name_and_all_takes_the_rest(here: Dirs, said: Callable[..., str]) -> None:
    bring(here, "base", UPPER)  # the name moves on
    before = {image.id for image in store.images(here)}
    assert len(before) == 3
    text = said(commands.image, "prune")
    assert text.count("Deleted:") == 1 and "Total reclaimed space: 0B" in text  # its layer is the tool's too
    assert set(store.names(here)) == {"base:latest", "tool:latest"}
    text = said(commands.image, "prune", "-a")
    assert text.count("Deleted:") == 2 and "Total reclaimed space: 5.61kB" in text and contents(here.store) == set()
