"""The commands: one table. Dispatch, help and the suggestions for typos are loops over it."""

from __future__ import annotations

from pybox.record import Record


class Command(Record):
    """One command: where its function is, which group of the help it belongs to, and what it does."""

    name: str
    group: str
    usage: str
    help: str
    module: str
    function: str


RUN, LOOK, KEEP = "Run things", "Look inside", "Images and cleaning up"

COMMANDS = (
    Command("run", RUN, "run [OPTIONS] IMAGE [COMMAND [ARG...]]", "run a command in a new container", "run", "run"),
    Command("ps", LOOK, "ps [-a] [-q] [--format json|table]", "list containers", "containers", "ps"),
    Command("inspect", LOOK, "inspect CONTAINER...", "show all that is known of a container, as JSON", "containers", "inspect"),
    Command(
        "cp",
        LOOK,
        "cp [-aLq] CONTAINER:PATH FILE|-  or  FILE|- CONTAINER:PATH",
        "copy files out of a container or into it",
        "files",
        "cp",
    ),
    Command("diff", LOOK, "diff [--format json|text] CONTAINER", "list the files that a container changed", "files", "diff"),
    Command(
        "explain",
        LOOK,
        "explain [--format json|text] run ...",
        "print the plan of a run, without running it",
        "explain",
        "explain",
    ),
    Command(
        "doctor",
        LOOK,
        "doctor [ITEM] [--format json|text] [--for run|rootless]",
        "try what this host can do, and say how to mend the rest",
        "doctor",
        "doctor",
    ),
    Command("version", LOOK, "version", "print the version", "main", "version"),
    Command("images", KEEP, "images [-q] [--format json|table]", "list images", "images", "images"),
    Command("image", KEEP, "image inspect|ls|rm|tag ...", "look at images", "images", "image"),
    Command("import", KEEP, "import NAME TAR|DIR", "make an image from a root file system", "images", "import_"),
    Command("commit", KEEP, "commit [OPTIONS] CONTAINER NAME[:TAG]", "make an image of a container", "files", "commit"),
    Command("export", KEEP, "export [-o FILE] CONTAINER", "write all files of a container as a tar", "files", "export"),
    Command("load", KEEP, "load [-i FILE|DIR]", "load images from a docker archive or OCI layout", "images", "load"),
    Command(
        "save", KEEP, "save [-o FILE] [--format docker-archive|oci] IMAGE...", "write images to an archive", "images", "save"
    ),
    Command("rmi", KEEP, "rmi IMAGE...", "remove images", "images", "rmi"),
    Command("rm", KEEP, "rm CONTAINER...", "forget containers that have ended", "containers", "rm"),
    Command("gc", KEEP, "gc", "clean up after a pybox that was killed", "containers", "gc"),
)

EXAMPLES = (
    ("pybox run busybox echo hello", "a command in a container"),
    ("pybox run --rm -m 64M --cpus 0.5 --timeout 5 host python3 job.py", "a limited job on the machine's own files"),
    ("pybox explain run -m 64M busybox true", "what a run does, step by step"),
)
