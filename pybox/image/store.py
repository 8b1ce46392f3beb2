"""The store, read side: which images there are and where their layers lie. Takes no lock: every change is one rename.

    <store>/images/<64 hex>.json         run record of an image: what a run needs, ready to use; the commit point
    <store>/images/<64 hex>.config       the config blob, verbatim; its sha256 is the image's id
    <store>/images/names/<name>          symbolic link to a run record; "/" of a name is "%"
    <store>/layers/<32 hex>/fs/          the unpacked layer, for overlay; 32 hex = first half of its diffID
    <store>/layers/<32 hex>/layer.json   the full diffID and sizes
    <store>/layers/<32 hex>/split.gz     what a tar has beyond file contents, so that `save` gives back the same bytes (split.py)
    <store>/layers/<32 hex>/old/         contents that a later entry of the same tar replaced
    <store>/layers/<32 hex>/blobs.json   under which digests registries know the layer (blobs.py)
    <store>/builds/<64 hex>              what a step of a build made, see containerfile/cache.py
    <store>/locks/                       flock(2) files, one per layer being written (lock.py)
    <store>/tmp-<12 hex>/                work in progress, locked by its owner; unlocked ones are debris (changes.sweep)

``find`` costs one open, one read, one close. changes.py is the only writer.
"""

from __future__ import annotations

import posix as os

from pybox import fastjson
from pybox.dirs import Dirs
from pybox.errors import ImageError, ImageNotFound, SpecError
from pybox.image.model import Image, ImageConfig
from pybox.image.reference import HOST, canonical, filename, unfilename
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from pybox.fastjson import Json

    T = TypeVar("T")

PULL = ("missing", "always", "never")  # when a registry is asked for an image

_GOARCH = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "armv6l": "arm",
    "i386": "386",
    "i686": "386",
    "loongarch64": "loong64",
}  # the others (riscv64, ppc64le, s390x) have one name


class StoredImage(Record):
    """One image of the store, for listings."""

    id: str  # "sha256:<64 hex>"
    names: tuple[str, ...]  # canonical, sorted; empty when another image took the name
    created: str  # RFC 3339, from the config; "" if unknown
    size: int  # bytes of the unpacked regular files of all layers
    layers: tuple[str, ...]  # as in Image
    diff_ids: tuple[str, ...]  # "sha256:<64 hex>", lowest first, as in the config
    digests: tuple[str, ...]  # manifest digests under which the image arrived
    config: ImageConfig
    architecture: str
    step: bool = False  # a step of a build, kept for the next one


def architecture() -> str:
    """Return this machine's architecture by its OCI (GOARCH) name."""
    machine = os.uname().machine
    return _GOARCH.get(machine, machine)


def layer_key(diff_id: str) -> str:
    """Return the directory name of a layer below ``dirs.layers`` (overlay's option page has 4096 bytes, so it is short)."""
    return diff_id.removeprefix("sha256:")[:32]


def layer_path(dirs: Dirs, key: str) -> str:
    """Return the absolute path of the tree of a layer."""
    return f"{dirs.layers}/{key}/fs"


def find(dirs: Dirs, name: str) -> Image:
    """Return the image of that name, id, or unambiguous id prefix (4 hex digits or more).

    Raises ImageNotFound (with what to type instead) and ImageError for a damaged record or an ambiguous id.
    """
    if name == HOST:
        return Image(HOST, HOST, ("/",), ImageConfig(), architecture())
    entry = filename(name)
    text = None
    if entry is not None and "@" not in entry:
        text = _read(f"{dirs.images}/names/{entry}")
    if text is None:
        return _image(dirs, name, *_search(dirs, name))
    return _image(dirs, name, entry or name, text)


def check_pull(policy: str) -> str:
    """Return one of PULL. Raises SpecError for any other word."""
    if policy not in PULL:
        raise SpecError("pull", policy, "must be missing, always or never", "docker's --pull is --pull always")
    return policy


def pulled(policy: str, act: Callable[[], T], fetch: Callable[[ImageNotFound | None], object]) -> T:
    """Do what needs an image, which is fetched before or when it turns out to be absent, as a policy of PULL says.

    ``fetch`` is given why it was called: what ``act`` raised, None when nobody has looked. An image that is there costs nothing.
    """
    if policy == "always":
        fetch(None)
    try:
        return act()
    except ImageNotFound as absent:
        if policy == "never":
            raise
        fetch(absent)
    return act()


def link(dirs: Dirs, name: str) -> str | None:
    """Return the symbolic link that is a plain tag, None for anything else; whether there is one is another question."""
    entry = filename(name)
    return f"{dirs.images}/names/{entry}" if entry is not None and "@" not in entry else None


def pointer(dirs: Dirs, name: str) -> str | None:
    """Return what a tag points to right now, None for anything but a plain tag: the cheap question whether it has moved."""
    path = link(dirs, name)
    try:
        return os.readlink(path) if path is not None else None
    except (OSError, ValueError):
        return None


def stored(dirs: Dirs, name: str) -> StoredImage:
    """Return one image with everything a listing shows; raises as ``find``."""
    image = find(dirs, name)
    if image.id == HOST:
        raise ImageError("host is the machine's own root, not an image of the store")
    text = _read(f"{dirs.images}/{image.id[7:]}.json")
    if text is None:
        raise ImageNotFound(f"no image {name}: it was just removed")
    return _stored(dirs, image.id[7:], text, names(dirs))


def images(dirs: Dirs) -> list[StoredImage]:
    """Return all images, newest first."""
    known = names(dirs)
    found = []
    for entry in _listdir(dirs.images):
        text = _read(f"{dirs.images}/{entry}") if entry.endswith(".json") else None
        if text is not None:
            found.append(_stored(dirs, entry[:-5], text, known))
    return sorted(found, key=lambda image: (image.created, image.id), reverse=True)


def names(dirs: Dirs) -> dict[str, str]:
    """Return {canonical name: 64 hex digits of the image it points to}."""
    known = {}
    for entry in sorted(_listdir(f"{dirs.images}/names")):
        try:
            target = os.readlink(f"{dirs.images}/names/{entry}")
        except OSError:  # just removed, or no link of ours
            continue
        known[unfilename(entry)] = target.removeprefix("../").removesuffix(".json")
    return known


def config_blob(dirs: Dirs, image_id: str) -> bytes:
    """Return the config blob of an image, checked against its id ("sha256:<hex>"). Raises ImageError when damaged."""
    import hashlib

    path = f"{dirs.images}/{image_id[7:]}.config"
    try:
        with open(path, "rb") as file:
            blob = file.read()
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}", "remove the image and load it again") from None
    if hashlib.sha256(blob).hexdigest() != image_id[7:]:
        raise ImageError(f"{path}: its content does not match its digest", "remove the image and load it again")
    return blob


def _read(path: str) -> str | None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a surrogate that the file system encoding can't spell
        raise ImageError(f"{path!a}: {getattr(error, 'strerror', error)}") from None
    try:
        text = os.read(fd, 1 << 16)
        if len(text) == 1 << 16:  # a record is 1 or 2 KB; one of hundreds of layers and variables is not
            while more := os.read(fd, 1 << 20):
                text += more
    finally:
        os.close(fd)
    return text.decode("ascii", "replace")


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ImageError(f"{path}: {error.strerror}") from None


def _search(dirs: Dirs, name: str) -> tuple[str, str]:
    """Find a record by digest, id or id prefix; returns (where, text)."""
    wanted = name.partition("@")[2] or name
    prefix = wanted.removeprefix("sha256:")
    hits = []
    if len(prefix) >= 4 and not prefix.strip("0123456789abcdef"):
        for entry in _listdir(dirs.images):
            if entry.endswith(".json") and (_is_digest(dirs, entry, wanted) if "@" in name else entry.startswith(prefix)):
                hits.append(entry)
    if len(hits) > 1:
        raise ImageError(f"image id {prefix} is ambiguous: {len(hits)} images start with it", "type more of its digits")
    text = _read(f"{dirs.images}/{hits[0]}") if hits else None
    if text is None:
        raise ImageNotFound(f"no image {name if name.isprintable() else ascii(name)}", _hint(dirs, name))
    return hits[0], text


def _is_digest(dirs: Dirs, entry: str, digest: str) -> bool:
    if entry == f"{digest.removeprefix('sha256:')}.json":
        return True
    text = _read(f"{dirs.images}/{entry}")
    return text is not None and digest in _strings(_parse(entry, text), "digests", entry)


def _hint(dirs: Dirs, name: str) -> str:
    import difflib

    known = [each.removesuffix(":latest") for each in names(dirs)]
    if near := difflib.get_close_matches(canonical(name).removesuffix(":latest"), known, 1, 0.7):
        return f"did you mean {near[0]}?"
    if name.partition(":")[0] in ("busybox", "debian", "python"):
        return "`make images` builds busybox, debian and python"
    return "`pybox images` lists what is here; `pybox import NAME TAR|DIR` or `pybox load` brings more; host needs no image"


def _parse(where: str, text: str) -> dict[str, Json]:
    try:
        record = fastjson.loads(text)
    except ValueError:
        record = None
    if not isinstance(record, dict):
        raise ImageError(f"image record {where} is damaged", "`pybox gc`, then load the image again")
    return record


def _strings(record: dict[str, Json], field: str, where: str) -> tuple[str, ...]:
    value = record.get(field)
    if not isinstance(value, list):
        raise ImageError(f"image record {where} is damaged: {field}", "`pybox gc`, then load the image again")
    return tuple(map(str, value))


def _config(record: dict[str, Json], where: str) -> ImageConfig:
    env, entrypoint, cmd = (_strings(record, field, where) for field in ("env", "entrypoint", "cmd"))
    user, workdir, stop = (str(record.get(field, "")) for field in ("user", "workdir", "stop_signal"))
    ports = _strings(record, "ports", where) if "ports" in record else ()  # absent in records of earlier versions
    return ImageConfig(env, entrypoint, cmd, user, workdir, stop, ports)


def _image(dirs: Dirs, name: str, where: str, text: str) -> Image:
    record = _parse(where, text)
    layers = tuple(layer_path(dirs, key) for key in _strings(record, "layers", where))
    return Image(name, str(record.get("id")), layers, _config(record, where), str(record.get("architecture", "")))


def _stored(dirs: Dirs, key: str, text: str, known: dict[str, str]) -> StoredImage:
    record = _parse(key, text)
    size = record.get("size")
    return StoredImage(
        id=f"sha256:{key}",
        names=tuple(sorted(name for name, target in known.items() if target == key)),
        created=str(record.get("created", "")),
        size=size if isinstance(size, int) else 0,
        layers=tuple(layer_path(dirs, layer) for layer in _strings(record, "layers", key)),
        diff_ids=_strings(record, "diff_ids", key),
        digests=_strings(record, "digests", key),
        config=_config(record, key),
        architecture=str(record.get("architecture", "")),
        step=record.get("step") is True,
    )
