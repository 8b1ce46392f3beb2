"""The image commands: images, image inspect|ls|rm|tag, rmi, import, load, save. Each takes the directories and its own
arguments, prints to standard output, returns the exit status, and lets a PyboxError go up to the edge that prints it.

None of them is on the way of `pybox run`, so argparse may take its 8 ms. ``help_of`` gives the option list of each.
"""

from __future__ import annotations

import argparse
import json
import shlex
import time
from typing import NoReturn

from pybox.cli.options import Option
from pybox.dirs import Dirs
from pybox.errors import PyboxError, SpecError
from pybox.image import changes, store
from pybox.image.model import ImageConfig
from pybox.image.store import StoredImage

_UNITS = ("B", "kB", "MB", "GB", "TB")
_AGES = ((60, "minute"), (60, "hour"), (24, "day"), (7, "week"), (4.35, "month"), (12, "year"))


class _Parser(argparse.ArgumentParser):
    """Wrong arguments are a PyboxError like any other, shown at the edge."""

    def error(self, message: str) -> NoReturn:
        raise PyboxError(f"{self.prog.removeprefix('pybox ')}: {message}", " ".join(self.format_usage().split()))


def _parser(command: str, description: str) -> _Parser:
    return _Parser(prog=f"pybox {command}", description=description, allow_abbrev=False)


def help_of(command: str) -> str:
    """Return the text of `pybox COMMAND --help` for one of the commands here. Raises KeyError for any other."""
    return _PARSERS[command]().format_help()


def options(command: str) -> tuple[Option, ...]:
    """Return the options of one of the commands here, as the tables of other modules have them; () for any other."""
    made = _PARSERS[command]()._actions if command in _PARSERS else []
    return tuple(
        Option(
            tuple(action.option_strings),
            "",
            action.help or "",
            "" if action.nargs == 0 else str(action.metavar or "|".join(action.choices or ()) or action.dest.upper()),
        )
        for action in made
        if action.option_strings and action.dest != "help"
    )


def image(dirs: Dirs, args: list[str]) -> int:
    """`pybox image VERB`: docker's second spelling of the image commands."""
    from pybox.cli import storage

    verbs = {"inspect": image_inspect, "ls": images, "rm": rmi, "tag": tag, "import": import_, "load": load, "save": save}
    verbs |= {"history": storage.history, "prune": storage.prune, "diff": storage.image_diff}
    if not args or args[0] not in verbs:
        given = f"no such command: image {args[0]}" if args else "image: which of its commands?"
        raise PyboxError(given, f"pybox image {'|'.join(verbs)}")
    return verbs[args[0]](dirs, args[1:])


def _images_parser() -> _Parser:
    parser = _parser("images", "List images, newest first.")
    parser.add_argument("--format", choices=("table", "json"), default="table")
    parser.add_argument("-a", "--all", action="store_true", help="the steps of builds as well, which have no names")
    parser.add_argument("-q", "--quiet", action="store_true", help="print ids only")
    parser.add_argument("--no-trunc", action="store_true", help="print whole ids")
    return parser


def images(dirs: Dirs, args: list[str]) -> int:
    """List the images of the store."""
    options = _images_parser().parse_args(args)
    found = [image for image in store.images(dirs) if options.all or image.names or not image.step]
    if options.format == "json":
        print(json.dumps([_listed(image) for image in found], indent=2))
        return 0
    cut = slice(None) if options.no_trunc else slice(7, 19)
    if options.quiet:
        for image in found:
            print(image.id[cut])
        return 0
    rows = [("REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE")]
    for image in found:
        for name in image.names or ("<none>:<none>",):
            repository, _, tag = name.rpartition(":")
            rows.append((repository, tag, image.id[cut], age(image.created), size(image.size)))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    return 0


def _inspect_parser() -> _Parser:
    parser = _parser("image inspect", "Print all about images as JSON.")
    parser.add_argument("image", nargs="+")
    return parser


def image_inspect(dirs: Dirs, args: list[str]) -> int:
    """Print everything about images, as one JSON array (docker's words)."""
    options = _inspect_parser().parse_args(args)
    print(json.dumps([_inspected(dirs, store.stored(dirs, name)) for name in options.image], indent=2))
    return 0


def _rmi_parser() -> _Parser:
    parser = _parser("rmi", "Remove images: a name, and with its last name the image and its layers.")
    parser.add_argument("image", nargs="+")
    return parser


def rmi(dirs: Dirs, args: list[str]) -> int:
    """Remove images, but none from under a container."""
    from pybox import listing

    for name in _rmi_parser().parse_args(args).image:
        removed = changes.remove(dirs, name, listing.layers_in_use(dirs))
        for untagged in removed.untagged:
            print(f"Untagged: {untagged}")
        for deleted in removed.deleted:
            print(f"Deleted: {deleted}")
    return 0


def _tag_parser() -> _Parser:
    parser = _parser("tag", "Give an image one more name.")
    parser.add_argument("image")
    parser.add_argument("name")
    return parser


def tag(dirs: Dirs, args: list[str]) -> int:
    """Give an image one more name."""
    options = _tag_parser().parse_args(args)
    changes.tag(dirs, options.image, options.name)
    return 0


def _import_parser() -> _Parser:
    parser = _parser("import", "Make an image of a root file system: a directory or a tar (plain, gzip, zstd).")
    parser.add_argument("name")
    parser.add_argument("source", help="directory, tar file, or - for a tar on standard input")
    parser.add_argument("--cmd", default="", help="default command, e.g. 'sh -l' or '[\"sh\", \"-l\"]'")
    parser.add_argument("--entrypoint", default="", help="program that is always run, written like --cmd")
    parser.add_argument("-e", "--env", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("-u", "--user", default="", help="name or id[:group]")
    parser.add_argument("-w", "--workdir", default="")
    parser.add_argument("--stop-signal", default="")
    parser.add_argument("--platform", default="", help="linux/ARCHITECTURE, if not this machine's")
    return parser


def import_(dirs: Dirs, args: list[str]) -> int:
    """Make an image of a root file system; prints its id."""
    from pybox.image import importing

    options = _import_parser().parse_args(args)
    system, _, architecture = options.platform.partition("/")
    if options.platform and (system != "linux" or not architecture or "/" in architecture):
        raise SpecError("platform", options.platform, "not linux/ARCHITECTURE", "e.g. --platform linux/arm64")
    for variable in options.env:
        if "=" not in variable[1:] or "\0" in variable:
            raise SpecError("env", variable, "not NAME=VALUE")
    if options.workdir and not options.workdir.startswith("/"):
        raise SpecError("workdir", options.workdir, "not an absolute path")
    run = ImageConfig(
        env=tuple(options.env),
        entrypoint=_words("entrypoint", options.entrypoint),
        cmd=_words("cmd", options.cmd),
        user=options.user,
        workdir=options.workdir,
        stop_signal=options.stop_signal,
    )
    print(importing.import_(dirs, options.name, options.source, run=run, architecture=architecture))
    return 0


def _load_parser() -> _Parser:
    parser = _parser("load", "Load images: docker-archive or OCI layout, a directory or a tar (plain, gzip, zstd).")
    parser.add_argument("source", nargs="?", default="-", help="directory, file, or - for standard input (the default)")
    parser.add_argument("-i", "--input", default="", help="the same, as docker spells it")
    parser.add_argument("--name", help="name for the image, instead of those in the archive")
    return parser


def load(dirs: Dirs, args: list[str]) -> int:
    """Load images from an archive; prints their names."""
    from pybox.image import archive

    options = _load_parser().parse_args(args)
    if options.input and options.source != "-":
        _load_parser().error("two sources given")
    for loaded in archive.load(dirs, options.input or options.source, options.name):
        print(f"Loaded image: {', '.join(loaded.names) or loaded.id}")
    return 0


def _save_parser() -> _Parser:
    from pybox.image import export

    parser = _parser("save", "Write images to an archive, by default to standard output.")
    parser.add_argument("image", nargs="+")
    parser.add_argument("-o", "--output", default="-", help="file, or directory for an OCI layout")
    parser.add_argument("--format", choices=export.FORMATS, default="docker-archive")
    parser.add_argument("--compress", choices=export.COMPRESSIONS, default="none", help="how to compress layers (OCI only)")
    return parser


def save(dirs: Dirs, args: list[str]) -> int:
    """Write images to an archive."""
    from pybox.image import export

    options = _save_parser().parse_args(args)
    export.save(dirs, options.image, options.output, format=options.format, compression=options.compress)
    return 0


def size(count: int) -> str:
    """Return bytes as docker prints them: three digits, units of 1000."""
    value = float(count)
    for unit in _UNITS[:-1]:
        if value < 999.5:
            return f"{value:.3g}{unit}"
        value /= 1000
    return f"{value:.3g}{_UNITS[-1]}"


def age(created: str) -> str:
    """Return how long ago an RFC 3339 time was, in words; "" when there is none, "N/A" when it can't be read."""
    from calendar import timegm

    if not created:
        return ""
    try:
        value = time.time() - timegm(time.strptime(created[:19], "%Y-%m-%dT%H:%M:%S"))
    except ValueError:
        return "N/A"
    unit = "second"
    for step, larger in _AGES:
        if value < step:
            break
        value, unit = value / step, larger
    number = max(0, int(value))
    return f"{number} {unit}{'' if number == 1 else 's'} ago"


def _words(field: str, text: str) -> tuple[str, ...]:
    """Split a command: a JSON array, or words as a shell splits them."""
    try:
        words = json.loads(text) if text.lstrip().startswith("[") else shlex.split(text)
    except ValueError as error:
        raise SpecError(field, text, f"not a command: {error}") from None
    if not isinstance(words, list) or any(not isinstance(word, str) or "\0" in word for word in words):
        raise SpecError(field, text, "not an array of texts")
    return tuple(words)


def _listed(image: StoredImage) -> dict[str, object]:
    return {
        "id": image.id,
        "names": list(image.names),
        "created": image.created,
        "size": image.size,
        "architecture": image.architecture,
        "layers": list(image.layers),
        "digests": list(image.digests),
    }


def _inspected(dirs: Dirs, image: StoredImage) -> dict[str, object]:
    config = json.loads(store.config_blob(dirs, image.id))
    return {
        "Id": image.id,
        "RepoTags": list(image.names),
        "Digests": list(image.digests),
        "Created": image.created,
        "Architecture": image.architecture,
        "Os": config.get("os", "linux"),
        "Config": config.get("config") or {},
        "History": config.get("history") or [],
        "Size": image.size,
        "RootFS": {"Type": "layers", "Layers": list(image.diff_ids)},
        "Layers": list(image.layers),
    }


_PARSERS = {
    "images": _images_parser,
    "image inspect": _inspect_parser,
    "rmi": _rmi_parser,
    "tag": _tag_parser,
    "import": _import_parser,
    "load": _load_parser,
    "save": _save_parser,
}
