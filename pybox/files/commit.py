"""commit: a new image, the container's own with one more layer on top: what diff lists, as an OCI layer with whiteouts."""

from __future__ import annotations

import json
import os
import shlex

from pybox.errors import ImageError, SpecError
from pybox.files import changes as differences
from pybox.files.freezing import frozen
from pybox.files.reach import Reach
from pybox.files.taking import Taker
from pybox.files.worker import Notes, Reader, Worker, write
from pybox.image import changes, config, layer, store
from pybox.image.changes import Locks, NewImage
from pybox.image.lock import Workspace
from pybox.image.pack import END, described, encoded
from pybox.image.tape import shown
from pybox.image.tree import DIRECTORY, Cursor
from pybox.record import Record
from pybox.times import dated, rfc3339, source_date_epoch

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.fastjson import Json
    from pybox.files.changes import Change


class Wish(Record):
    """What is to be said of the image. ``changes`` are lines of a Dockerfile."""

    name: str
    message: str = ""
    author: str = ""
    changes: tuple[str, ...] = ()
    pause: bool = True


def check(wish: Wish) -> None:
    """Refuse what can't be meant, before anything is frozen. Raises SpecError, ImageError."""
    changes.tag_name(wish.name)
    amended({}, wish.changes)


def amended(settings: dict[str, Json], instructions: tuple[str, ...]) -> dict[str, Json]:
    """Return the settings of an image ("config" of its configuration) after some instructions. Raises SpecError."""
    found = dict(settings)
    for line in instructions:
        word, _, rest = line.strip().partition(" ")
        rest = rest.strip()
        if word.upper() not in _INSTRUCTIONS or not rest or "\0" in line:
            raise SpecError("change", line, "must be one of " + " ".join(_INSTRUCTIONS) + " and its value", "-c 'CMD [\"sh\"]'")
        if word.upper() in ("CMD", "ENTRYPOINT"):
            found[word.capitalize()] = _command(line, rest)
            if word.upper() == "ENTRYPOINT":  # as docker: the old arguments were for the old program
                found.pop("Cmd", None)
        elif word.upper() == "USER":
            found["User"] = rest
        elif word.upper() == "WORKDIR":
            old = found.get("WorkingDir")
            found["WorkingDir"] = os.path.normpath(os.path.join(old if isinstance(old, str) and old else "/", rest))
        elif word.upper() == "EXPOSE":
            ports: dict[str, Json] = {port if "/" in port else f"{port}/tcp": {} for port in rest.split()}
            found["ExposedPorts"] = {**_object(found.get("ExposedPorts")), **ports}
        else:
            pairs = _pairs(line, rest)
            if word.upper() == "LABEL":
                found["Labels"] = {**_object(found.get("Labels")), **pairs}
            else:
                old_env = found.get("Env")
                env = [str(entry) for entry in old_env] if isinstance(old_env, (list, tuple)) else []
                merged = {entry.partition("=")[0]: entry.partition("=")[2] for entry in env} | pairs
                found["Env"] = [f"{name}={value}" for name, value in merged.items()]
    return found


_INSTRUCTIONS = ("CMD", "ENTRYPOINT", "ENV", "USER", "WORKDIR", "LABEL", "EXPOSE")


def _command(line: str, rest: str) -> list[Json]:
    """Return the words of CMD or ENTRYPOINT: a JSON array, or a line for a shell."""
    if not rest.startswith("["):
        return ["/bin/sh", "-c", rest]
    try:
        words = json.loads(rest)
    except ValueError as error:
        raise SpecError("change", line, f"not a JSON array: {error}") from None
    if not isinstance(words, list) or any(not isinstance(word, str) or "\0" in word for word in words):
        raise SpecError("change", line, "not an array of texts")
    return list(words)


def _pairs(line: str, rest: str) -> dict[str, str]:
    """Return the pairs of ENV or LABEL: NAME=VALUE..., or the older NAME VALUE."""
    try:
        words = shlex.split(rest)
    except ValueError as error:
        raise SpecError("change", line, f"can't be split into words: {error}") from None
    if "=" not in words[0]:
        name, _, value = rest.partition(" ")
        words = [f"{name}={value.strip()}"] if value.strip() else words
    pairs = dict(word.partition("=")[::2] for word in words)
    if not all("=" in word and word[0] != "=" for word in words):
        raise SpecError("change", line, "must be NAME=VALUE")
    return pairs


def _object(value: Json) -> dict[str, Json]:
    return dict(value) if isinstance(value, dict) else {}


def commit(reach: Reach, wish: Wish) -> tuple[str, list[str]]:
    """Make the image; returns its id and what is to be noted. Raises PyboxError; the store is then as it was."""
    if reach.image_id == "host":
        raise ImageError(
            "an image of the machine's own root would hold all its files", "`pybox diff` and `pybox cp` show and take them"
        )
    dirs, notes = reach.given.dirs, Notes()
    image = store.stored(dirs, reach.image_id)
    changes.prepare(dirs)
    try:
        with Workspace(dirs.store) as work:
            with frozen(reach.groups if reach.running and wish.pause else ()):
                rows = differences.changed(reach)

                def send(fd: int, inner: Notes) -> None:
                    write(fd, layer_tar(reach.root, rows, inner))

                with Worker(reach.userns, send, sends=True, notes=notes) as fd:
                    made = layer.unpack(Reader(fd), f"{work}/layer")
            settings = _settings(reach, store.config_blob(dirs, image.id), made.diff_id, wish)
            key = store.layer_key(made.diff_id)
            with Locks(dirs, (key,), shared=map(store.layer_key, image.diff_ids)):
                for diff_id in image.diff_ids:
                    if not changes.present(dirs, diff_id):
                        raise ImageError(f"image {reach.given.image.name} was just removed")
                changes.place(dirs, key, f"{work}/layer")
                changes.publish(dirs, work, (NewImage(settings, (changes.tag_name(wish.name),)),))
    except OSError as error:
        raise ImageError(f"committing container {reach.identity}: {error.strerror or error}") from None
    return settings.id, notes.all()


def layer_tar(root: int, rows: list[Change], notes: Notes) -> Iterator[bytes]:
    """Yield the changes of a tree as a layer: OCI image-spec layer.md. Raises ImageError for a name that means a whiteout."""
    taker = Taker(notes)
    top = os.open(".", DIRECTORY, dir_fd=root)
    cursor = Cursor(top)
    try:
        yield taker.folder(top, b".")
        for row in sorted(rows, key=lambda row: row.path.split(b"/")):
            *folders, name = row.path[1:].split(b"/")
            if name.startswith(b".wh."):
                raise ImageError(f"{shown(row.path)}: a name that starts with .wh. means a whiteout in a layer", "rename it")
            if row.kind == "D":
                yield encoded(described(b"/".join((*folders, b".wh." + name)).decode("utf-8", "surrogateescape"), b"0", 0o644, 0))
                continue
            try:
                yield from _entry(taker, cursor, folders, name)
            except (FileNotFoundError, NotADirectoryError):
                notes.add(f"{shown(row.path)}: it was gone before it could be read")
    finally:
        cursor.close()
        os.close(top)
    yield END


def _entry(taker: Taker, cursor: Cursor, folders: list[bytes], name: bytes) -> Iterator[bytes]:
    here, full = cursor.at(folders), b"/".join((*folders, name))
    while here is None or cursor.depth < len(folders):
        here = cursor.enter(folders[cursor.depth])
    try:
        yield taker.folder(cursor.enter(name), full)
    except OSError as error:
        if error.errno not in (20, 40):  # ENOTDIR, ELOOP: no directory
            raise
        yield from taker.named(here, name, full)


def _settings(reach: Reach, blob: bytes, diff_id: str, wish: Wish) -> config.Config:
    """Return the configuration of the new image: the old one's, amended. Fields that pybox does not know are kept."""
    document = config.obj(config.load(blob, "the image configuration"), "the image configuration")
    created = rfc3339(dated(source_date_epoch()))
    history = document.get("history")
    step: dict[str, Json] = {"created": created, "created_by": f"pybox commit {reach.command}".rstrip()}
    step |= {key: value for key, value in (("author", wish.author), ("comment", wish.message)) if value}
    rootfs = _object(document.get("rootfs"))
    document["config"] = amended(_object(document.get("config")), wish.changes)
    document["created"] = created
    document["history"] = [*(history if isinstance(history, list) else []), step]
    document["rootfs"] = {**rootfs, "diff_ids": [*config.strings(rootfs, "diff_ids"), diff_id]}
    if wish.author:
        document["author"] = wish.author
    return config.parse(json.dumps(document, sort_keys=True, separators=(",", ":")).encode())
