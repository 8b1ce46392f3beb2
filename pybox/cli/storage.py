"""`pybox layers`, `system df`, `image history|prune|diff`: what images are made of, and what they take of the disk."""

from __future__ import annotations

import json
import os

from pybox.cli.images import age, size
from pybox.cli.options import Option, Parsed, parse_anywhere
from pybox.cli.table import form, table, visible
from pybox.dirs import Dirs
from pybox.errors import ImageError, ImageNotFound, PyboxError, SpecError
from pybox.image import changes, config, store

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pybox.image.stack import Event
    from pybox.image.store import StoredImage

_FORMAT = Option(("--format",), "", "table or json", "FORMAT")
LAYERS = (Option(("-n", "--number"), "", "of the files that are shipped but hidden, show so many (10)", "NUMBER"), _FORMAT)
SYSTEM = (_FORMAT,)
HISTORY = (_FORMAT, Option(("--no-trunc",), "", "whole lines"))
PRUNE = (Option(("-a", "--all"), "", "also images that have a name, if no container stands on them"),)
IMAGE_DIFF = (Option(("--format",), "", "text or json", "FORMAT"),)


def _one(parsed: Parsed, command: str, usage: str, most: int = 1) -> list[str]:
    if not 1 <= len(parsed.rest) <= most:
        raise SpecError(command, " ".join(parsed.rest), f"must be {usage}")
    return parsed.rest


def _steps(dirs: Dirs, image: StoredImage) -> list[tuple[str, str, str]]:
    """Return (created, created by, layer's diffID or "") for each step of an image's history, the newest first.

    A history may be absent or shorter than the layers: those that are left over are at the bottom.
    """
    document = config.obj(config.load(store.config_blob(dirs, image.id), "the image configuration"), "the image configuration")
    left = list(image.diff_ids)
    steps = []
    for item in reversed(config.objects(document, "history")):
        diff_id = "" if item.get("empty_layer") is True or not left else left.pop()
        steps.append((config.text(item, "created"), config.text(item, "created_by") or config.text(item, "comment"), diff_id))
    return [*steps, *(("", "", diff_id) for diff_id in reversed(left))]


def _size_of(dirs: Dirs, diff_id: str) -> int:
    from pybox.image import layerfile

    return layerfile.read(f"{dirs.layers}/{store.layer_key(diff_id)}").size if diff_id else 0


def history(dirs: Dirs, args: list[str]) -> int:
    """Print the steps that made an image, the newest first."""
    parsed = parse_anywhere(HISTORY, args)
    (name,) = _one(parsed, "image history", "IMAGE")
    kind, whole = form(parsed, "table", "json"), parsed.has("no-trunc")
    steps = _steps(dirs, store.stored(dirs, name))
    if kind == "json":
        print(
            json.dumps([{"created": c, "created_by": by, "layer": d, "size": _size_of(dirs, d)} for c, by, d in steps], indent=2)
        )
        return 0
    rows = [("CREATED", "SIZE", "LAYER", "CREATED BY")]
    for created, by, diff_id in steps:
        line = " ".join(visible(by.replace("\n", " ").replace("\t", " ")).split())
        short = line if whole or len(line) <= 70 else line[:67] + "..."
        rows.append((age(created), size(_size_of(dirs, diff_id)), diff_id[7:19] or "-", short))
    print(table(rows))
    return 0


def prune(dirs: Dirs, args: list[str]) -> int:
    """Remove images without a name, but none from under a container."""
    from pybox import listing

    parsed = parse_anywhere(PRUNE, args)
    if parsed.rest:
        raise SpecError("image prune", " ".join(parsed.rest), "takes no names", "pybox rmi IMAGE removes one")
    in_use = listing.layers_in_use(dirs)
    freed = 0
    for image in store.images(dirs):
        if (image.names and not parsed.has("all")) or in_use.intersection(image.layers):
            continue
        sizes = _sizes(dirs, image)
        try:
            for name in image.names[1:]:
                changes.remove(dirs, name, in_use)
            removed = changes.remove(dirs, image.names[0] if image.names else image.id, in_use)
        except ImageNotFound:  # somebody else was quicker
            continue
        except ImageError:  # its layers have just got a container
            continue
        kept = {key for each in store.images(dirs) for key in each.layers}
        freed += sum(size for path, size in sizes if path not in kept) if image.id in removed.deleted else 0
        print(f"Deleted: {', '.join(image.names) or image.id}")
    print(f"Total reclaimed space: {size(freed)}")
    return 0


def _sizes(dirs: Dirs, image: StoredImage) -> list[tuple[str, int]]:
    """Return (path, bytes) of its layers, each once; 0 for one that is gone."""
    found = []
    for path in dict.fromkeys(image.layers):
        from pybox.image import layerfile

        try:
            found.append((path, layerfile.read(path.removesuffix("/fs")).size))
        except ImageError:
            found.append((path, 0))
    return found


def image_diff(dirs: Dirs, args: list[str]) -> int:
    """List in what two images differ; of one image, what its last layer did."""
    from pybox.image.stack import Stack, differences

    parsed = parse_anywhere(IMAGE_DIFF, args)
    names = _one(parsed, "image diff", "[IMAGE] IMAGE", 2)
    kind = form(parsed, "text", "json")
    new = store.stored(dirs, names[-1])
    old = store.stored(dirs, names[0]).diff_ids if len(names) == 2 else new.diff_ids[:-1]
    if not old:
        raise ImageError(
            f"image {names[0]} has one layer only, so there is nothing to compare it with", "pybox image diff OTHER IMAGE"
        )
    before, after = Stack(dirs, old), Stack(dirs, new.diff_ids)
    try:
        rows = differences(before, after)
    finally:
        before.close()
        after.close()
    if kind == "json":
        print(json.dumps([{"kind": row.kind, "path": os.fsdecode(row.path)} for row in rows], indent=2))
        return 0
    for row in rows:
        print(f"{row.kind} {visible(os.fsdecode(row.path))}")
    return 0


def layers(dirs: Dirs, args: list[str]) -> int:
    """Show what each layer of an image does; for a path, where it comes from."""
    from pybox.image.stack import Stack

    parsed = parse_anywhere(LAYERS, args)
    name, *path = _one(parsed, "layers", "IMAGE [PATH]", 2)
    kind = form(parsed, "table", "json")
    number = parsed.one("number") or "10"
    if not (number.isascii() and number.isdigit() and len(number) < 7):
        raise SpecError("number", number, "not a number")
    image = store.stored(dirs, name)
    stack = Stack(dirs, image.diff_ids)
    stack.close()
    if path:
        return _at_path(stack.at_path(os.fsencode(path[0])), path[0], kind)
    lost = stack.lost()
    used = _users(dirs)
    listed = []
    by = {diff_id: by for _, by, diff_id in _steps(dirs, image) if diff_id}
    for level, diff_id in enumerate(image.diff_ids):
        events = [event for event in stack.events if event.layer == level]
        listed.append({
            "layer": level,
            "id": diff_id,
            "size": _size_of(dirs, diff_id),
            **{verb: sum(event.what.startswith(verb) for event in events) for verb in ("added", "changed", "deleted", "hidden")},
            "shared_with": sorted(used[store.layer_key(diff_id)] - {image.id}),
            "created_by": by.get(diff_id, ""),
        })  # fmt: skip
    if kind == "json":
        hidden = [{"layer": e.layer, "path": os.fsdecode(e.path), "what": e.what, "lost": e.lost} for e in lost]
        print(json.dumps({"layers": listed, "hidden": hidden}, indent=2))
        return 0
    rows: list[tuple[str, ...]] = [("LAYER", "ID", "SIZE", "ADDED", "CHANGED", "DELETED", "SHARED", "CREATED BY")]
    for item in listed:
        shared = item["shared_with"]
        assert isinstance(shared, list)
        line = " ".join(visible(str(item["created_by"]).replace("\n", " ").replace("\t", " ")).split())
        counts = (str(item[verb]) for verb in ("added", "changed", "deleted"))
        total = item["size"]
        assert isinstance(total, int)
        rows.append(
            (
                f"L{item['layer']}",
                str(item["id"])[7:19],
                size(total),
                *counts,
                f"{len(shared)} more" if shared else "-",
                line[:60],
            )
        )
    print(table(rows))
    if lost:
        print(f"\nshipped, but not seen any more: {size(sum(event.lost for event in lost))}")
        print(
            table(
                [
                    (f"L{event.layer}", event.what, size(event.lost), visible(os.fsdecode(event.path)))
                    for event in lost[: int(number)]
                ]
            )
        )
    return 0


def _at_path(events: list[Event], path: str, kind: str) -> int:
    if not events:
        raise PyboxError(f"{visible(path)}: no layer has it")
    if kind == "json":
        print(json.dumps([{**dict(event.items()), "path": os.fsdecode(event.path)} for event in events], indent=2))
        return 0
    rows = [("PATH", "LAYER", "SIZE", "WHAT")]
    for event in events:
        note = f"; {size(event.lost)} below are still shipped" if event.lost else ""
        rows.append((visible(os.fsdecode(event.path)), f"L{event.layer}", size(event.size), event.what + note))
    print(table(rows))
    return 0


def _users(dirs: Dirs) -> dict[str, set[str]]:
    """Return {layer key: ids of the images that stand on it}."""
    used: dict[str, set[str]] = {}
    for image in store.images(dirs):
        for diff_id in image.diff_ids:
            used.setdefault(store.layer_key(diff_id), set()).add(image.id)
    return used


def system(dirs: Dirs, args: list[str]) -> int:
    """`pybox system df`: what images and containers take of the disk, and what sharing saves."""
    from pybox import listing

    parsed = parse_anywhere(SYSTEM, args)
    if parsed.rest != ["df"]:
        raise SpecError("system", " ".join(parsed.rest), "must be df")
    kind = form(parsed, "table", "json")
    images, in_use = store.images(dirs), listing.layers_in_use(dirs)
    active = [image for image in images if in_use.intersection(image.layers)]
    sizes = {path: count for image in images for path, count in _sizes(dirs, image)}
    needed = {path for image in images if image in active for path in image.layers}
    entries = list(listing.entries(dirs))
    uppers = {entry.identity: _tree_size(f"{dirs.uppers}/{entry.identity}") for entry in entries}
    idle = sum(uppers[entry.identity] for entry in entries if not entry.alive)
    total, apart = sum(sizes.values()), sum(count for image in images for _, count in _sizes(dirs, image))
    rows = [
        ("Images", len(images), len(active), total, sum(count for path, count in sizes.items() if path not in needed)),
        ("Containers", len(entries), sum(entry.alive for entry in entries), sum(uppers.values()), idle),
    ]
    if kind == "json":
        names = ("type", "total", "active", "size", "reclaimable")
        found: dict[str, object] = {"rows": [dict(zip(names, row, strict=True)) for row in rows]}
        print(json.dumps({**found, "layers": len(sizes), "size_if_not_shared": apart}, indent=2))
        return 0
    print(
        table(
            [
                ("TYPE", "TOTAL", "ACTIVE", "SIZE", "RECLAIMABLE"),
                *((n, str(t), str(a), size(s), size(r)) for n, t, a, s, r in rows),
            ]
        )
    )
    uses = sum(len(dict.fromkeys(image.layers)) for image in images)
    print(f"\n{len(sizes)} layers on disk, used {uses} times: {size(total)} instead of {size(apart)}")
    return 0


def _tree_size(path: str) -> int:
    total = 0
    for _, _, files, fd in os.fwalk(path):
        for name in files:
            try:
                total += os.stat(name, dir_fd=fd, follow_symlinks=False).st_blocks * 512
            except OSError:  # it lives: files come and go
                pass
    return total
