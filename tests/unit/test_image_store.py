"""The store: finding, naming, removing, sweeping; and what `find` may cost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from image_tars import contents, dirs, entry, tar

from pybox.dirs import Dirs
from pybox.errors import ImageError, ImageNotFound, PyboxError, SpecError
from pybox.image import changes, importing, lock, store
from pybox.image.model import ImageConfig


@pytest.fixture
def here(tmp_path: Path) -> Dirs:
    return dirs(tmp_path)


def add(here: Dirs, name: str, content: bytes = b"x", **settings: object) -> str:
    path = Path(here.store).parent / "root.tar"
    path.write_bytes(tar(entry("f", data=content)))
    return importing.import_(here, name, str(path), **settings)  # type: ignore[arg-type]


def test_host_needs_no_store(here: Dirs) -> None:
    image = store.find(here, "host")
    assert (image.id, image.layers, image.architecture) == ("host", ("/",), store.architecture())
    assert not os.path.exists(here.store)


def test_an_image_is_found_by_every_spelling_of_its_name(here: Dirs) -> None:
    run = ImageConfig(("A=1",), ("/e",), ("c", "d"), "1:2", "/w", "SIGINT")
    image_id = add(here, "tool", run=run)
    for name in ("tool", "tool:latest", "docker.io/library/tool", image_id, image_id[7:], image_id[7:11], f"tool@{image_id}"):
        image = store.find(here, name)
        assert (image.name, image.id, image.config, image.architecture) == (name, image_id, run, store.architecture())
        assert [(Path(layer) / "f").read_bytes() for layer in image.layers] == [b"x"]


def test_layer_paths_are_short_and_plain(here: Dirs) -> None:
    add(here, "tool")
    (layer,) = store.find(here, "tool").layers
    below = layer.removeprefix(here.store + "/")
    assert len(below) <= 42
    assert not below.strip("abcdefghijklmnopqrstuvwxyz0123456789/")


@pytest.mark.parametrize(
    "name", ["", "abc", "../../etc/passwd", "a%b", "x\0y", "tool:old", "f" * 5000, "\udcff", "@", "x@y", "sha256:", "TOOL"]
)
def test_an_absent_image_is_named_with_a_hint(here: Dirs, name: str) -> None:
    add(here, "tool")
    with pytest.raises(ImageNotFound) as caught:
        store.find(here, name)
    assert caught.value.message.startswith("no image ") and caught.value.message.isprintable()
    assert caught.value.hint


def test_a_near_miss_is_told(here: Dirs) -> None:
    add(here, "busybox")
    with pytest.raises(ImageNotFound, match="no image busbox") as caught:
        store.find(here, "busbox")
    assert caught.value.hint == "did you mean busybox?"
    with pytest.raises(ImageNotFound) as caught:
        store.find(here, "nothing")
    assert "did you mean" not in str(caught.value.hint)


def test_the_recipes_are_hinted_in_an_empty_store(here: Dirs) -> None:
    with pytest.raises(ImageNotFound) as caught:
        store.find(here, "debian")
    assert "make images" in str(caught.value.hint)


def test_an_ambiguous_id_is_refused(here: Dirs) -> None:
    ids = [add(here, f"t{number}", str(number).encode())[7:] for number in range(3)]
    for image_id in ids:
        os.rename(f"{here.images}/{image_id}.json", f"{here.images}/abcd{image_id[4:]}.json")
    with pytest.raises(ImageError, match="image id abcd is ambiguous: 3 images"):
        store.find(here, "abcd")


def test_a_damaged_record_is_an_error_not_a_traceback(here: Dirs) -> None:
    image_id = add(here, "tool")
    for text in ("", "{", "[]", "{}", '{"layers": 3}', "\xff"):
        Path(f"{here.images}/{image_id[7:]}.json").write_text(text)
        with pytest.raises(ImageError, match="is damaged"):
            store.find(here, "tool")


def test_a_damaged_config_is_noticed(here: Dirs) -> None:
    image_id = add(here, "tool")
    Path(f"{here.images}/{image_id[7:]}.config").write_text("{}")
    with pytest.raises(ImageError, match="does not match its digest"):
        store.config_blob(here, image_id)


def test_listing_shows_names_sizes_and_layers(here: Dirs) -> None:
    assert store.images(here) == []
    add(here, "tool", b"12345")
    changes.tag(here, "tool", "quay.io/team/tool:1")
    (image,) = store.images(here)
    assert image.names == ("quay.io/team/tool:1", "tool:latest")
    assert (image.size, len(image.layers)) == (5, 1)


def test_a_name_can_move_and_the_old_image_stays(here: Dirs) -> None:
    old, new = add(here, "tool", b"old"), add(here, "tool", b"new")
    assert store.find(here, "tool").id == new
    assert {image.id: image.names for image in store.images(here)} == {old: (), new: ("tool:latest",)}


def test_importing_the_same_again_changes_nothing(here: Dirs) -> None:
    assert add(here, "tool") == add(here, "tool")
    assert add(here, "tool") != add(here, "tool", run=ImageConfig(cmd=("sh",)))


def test_removing_the_last_name_removes_image_and_layers(here: Dirs) -> None:
    image_id = add(here, "tool")
    changes.tag(here, "tool", "other")
    assert changes.remove(here, "tool").untagged == ("tool:latest",)
    assert store.find(here, "other").id == image_id
    removed = changes.remove(here, "other")
    assert removed.deleted[0] == image_id
    assert contents(here.store) == set()


def test_a_shared_layer_stays_with_the_other_image(here: Dirs) -> None:
    add(here, "one")
    add(here, "two", run=ImageConfig(cmd=("sh",)))
    changes.remove(here, "one")
    assert os.path.exists(store.find(here, "two").layers[0] + "/f")


def test_an_image_under_a_container_is_not_removed(here: Dirs) -> None:
    add(here, "tool")
    before = contents(here.store)
    with pytest.raises(ImageError, match="image tool is in use by a container"):
        changes.remove(here, "tool", frozenset(store.find(here, "tool").layers))
    assert contents(here.store) == before


def test_an_id_with_several_names_is_not_removed_at_once(here: Dirs) -> None:
    image_id = add(here, "tool")
    changes.tag(here, "tool", "other")
    with pytest.raises(ImageError, match="has 2 names: other:latest, tool:latest"):
        changes.remove(here, image_id)


@pytest.mark.parametrize("operation", ["remove", "stored"])
def test_host_is_no_image_of_the_store(here: Dirs, operation: str) -> None:
    with pytest.raises(ImageError, match="host is the machine's own root"):
        changes.remove(here, "host") if operation == "remove" else store.stored(here, "host")


@pytest.mark.parametrize("name", ["host", "UP", "a@sha256:" + "0" * 64, "../x"])
def test_a_bad_name_is_refused_before_anything_is_written(here: Dirs, name: str) -> None:
    with pytest.raises(ImageError):
        add(here, name)
    assert not os.path.exists(here.store)


def test_a_store_of_somebody_else_is_refused(tmp_path: Path) -> None:
    owned_by_root = "/proc" if os.geteuid() else "/proc/1/root"
    if os.geteuid() == 0:
        os.mkdir(tmp_path / "theirs")
        os.chown(tmp_path / "theirs", 12345, 12345)
        owned_by_root = str(tmp_path / "theirs")
    with pytest.raises(PyboxError, match="owned by uid"):
        changes.prepare(Dirs(owned_by_root, str(tmp_path)))


# Debris


def test_sweep_removes_what_the_dead_left_and_nothing_else(here: Dirs) -> None:
    add(here, "tool")
    before = contents(here.store)
    os.makedirs(f"{here.store}/tmp-0123456789ab/layer/fs/closed", 0o700)
    os.chmod(f"{here.store}/tmp-0123456789ab/layer/fs/closed", 0)
    os.makedirs(f"{here.layers}/{'a' * 32}/fs")
    Path(f"{here.images}/{'b' * 64}.config").touch()
    os.symlink(f"../{'b' * 64}.json", f"{here.images}/names/gone:latest")
    Path(f"{here.store}/locks/{'a' * 32}").touch()
    with lock.Workspace(here.store) as alive:
        changes.sweep(here)
        assert os.path.isdir(alive)
    assert contents(here.store) == before
    assert os.listdir(f"{here.store}/locks") == []
    assert changes.sweep(here) == []


def test_sweep_leaves_a_layer_that_a_loader_or_a_container_holds(here: Dirs) -> None:
    changes.prepare(here)
    held, used = "a" * 32, "b" * 32
    for key in (held, used):
        os.makedirs(f"{here.layers}/{key}/fs")
    with changes.Locks(here, [held]):
        assert changes.sweep(here, frozenset({store.layer_path(here, used)})) == []
    assert changes.sweep(here) == [f"{here.layers}/{held}", f"{here.layers}/{used}"]


def test_sweep_of_no_store_is_nothing(here: Dirs) -> None:
    assert changes.sweep(here) == []


def test_an_unlinked_lock_is_not_mistaken_for_a_held_one(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first = lock.take(path)
    assert first is not None and lock.take(path, wait=False) is None
    lock.drop(path, first)
    second = lock.take(path, wait=False)
    assert second is not None
    lock.drop(path, second)
    assert os.listdir(tmp_path) == []


# The price of `find`


def test_find_imports_nothing_heavy(here: Dirs) -> None:
    add(here, "tool")
    code = (
        "import sys; from pybox.dirs import Dirs; from pybox.image import store\n"
        f"store.find(Dirs({here.store!r}, '/x'), 'tool'); print(*sys.modules)"
    )
    root = str(Path(store.__file__).parents[2])
    out = subprocess.run(
        [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"], capture_output=True, text=True
    )
    assert out.stderr == ""
    heavy = {
        "re",
        "json",
        "typing",
        "pathlib",
        "tarfile",
        "subprocess",
        "shutil",
        "hashlib",
        "dataclasses",
        "enum",
        "contextlib",
        "argparse",
    }
    assert heavy & set(out.stdout.split()) == set()


def test_find_is_one_open_one_read_one_close(here: Dirs, tmp_path: Path) -> None:
    add(here, "tool")
    seen = []
    audited = [True]

    def hook(event: str, args: tuple[object, ...]) -> None:
        if audited[0] and event.startswith(("open", "os.")):
            seen.append(event)

    store.find(here, "tool")
    sys.addaudithook(hook)
    try:
        store.find(here, "tool")
    finally:
        audited[0] = False
    assert seen == ["open"]


def test_the_run_record_says_what_a_run_needs(here: Dirs) -> None:
    image_id = add(here, "tool")
    record = json.loads(Path(f"{here.images}/{image_id[7:]}.json").read_text())
    assert {"id", "layers", "env", "entrypoint", "cmd", "user", "workdir", "architecture"} <= set(record)
    assert os.readlink(f"{here.images}/names/tool:latest") == f"../{image_id[7:]}.json"


def test_a_lock_that_is_shared_keeps_others_out_until_the_last_lets_go(tmp_path: Path) -> None:
    path = str(tmp_path / "lock")
    first, second = lock.take(path, shared=True), lock.take(path, shared=True, wait=False)
    assert first is not None and second is not None
    lock.drop(path, first)
    assert lock.take(path, wait=False) is None
    third = lock.take(path, shared=True, wait=False)
    assert third is not None
    lock.drop(path, second)
    lock.drop(path, third)
    assert not (tmp_path / "lock").exists()
    alone = lock.take(path, wait=False)
    assert alone is not None and lock.take(path, shared=True, wait=False) is None
    lock.drop(path, alone)


@pytest.mark.parametrize(
    ("policy", "there", "fetched"),
    [
        ("missing", True, []),
        ("missing", False, ["no image x"]),
        ("always", True, ["None"]),
        ("always", False, ["None", "no image x"]),
        ("never", True, []),
    ],
)
def test_an_image_is_fetched_when_the_policy_says_so(policy: str, there: bool, fetched: list[str]) -> None:
    asked: list[str] = []

    def act() -> str:
        if not there and not (asked and asked[-1] != "None"):
            raise ImageNotFound("no image x")
        return "done"

    assert store.pulled(store.check_pull(policy), act, lambda absent: asked.append(str(absent))) == "done"
    assert asked == fetched


def test_a_policy_that_never_pulls_lets_the_error_through_and_another_word_is_refused() -> None:
    def absent() -> str:
        raise ImageNotFound("no image x")

    with pytest.raises(ImageNotFound):
        store.pulled("never", absent, lambda absent: pytest.fail("it was pulled"))
    with pytest.raises(SpecError, match="must be missing, always or never"):
        store.check_pull("true")
