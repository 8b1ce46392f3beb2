"""The commands: one table. Dispatch, help and the suggestions for typos are loops over it."""

from __future__ import annotations

from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Command(Record):
    """One command: where its function is, which group of the help it belongs to, and what it does."""

    name: str
    group: str
    usage: str
    help: str
    module: str
    function: str


RUN, LIVE, LOOK, KEEP = "Run things", "Containers that live", "Look inside", "Images and cleaning up"
HIDDEN = ""  # what pybox calls itself
INSIDE = ("run", "create", "exec")  # what follows their first word belongs to the command inside
AROUND = ("explain", "report", "why-denied")  # look at one of those: they take it with all its words

COMMANDS = (
    Command("run", RUN, "run [OPTIONS] IMAGE [COMMAND [ARG...]]", "run a command in a new container", "run", "run"),
    Command(
        "create", RUN, "create [OPTIONS] IMAGE [COMMAND [ARG...]]", "make a container without starting it", "background", "create"
    ),
    Command("exec", RUN, "exec [OPTIONS] CONTAINER COMMAND [ARG...]", "run one more command in a container", "exec", "exec_"),
    Command("batch", RUN, "batch [OPTIONS] FILE.toml|FILE.jsonl|FILE.csv|-", "run the jobs of a file", "batch", "batch"),
    Command("start", LIVE, "start [-a] [-i] CONTAINER...", "start containers", "lifecycle", "start"),
    Command("stop", LIVE, "stop [-t SECONDS] CONTAINER...", "end containers: ask, wait, kill", "lifecycle", "stop"),
    Command("kill", LIVE, "kill [-s SIGNAL] CONTAINER...", "send a signal to containers", "lifecycle", "kill"),
    Command("restart", LIVE, "restart [-t SECONDS] CONTAINER...", "stop containers and start them again", "lifecycle", "restart"),
    Command(
        "wait",
        LIVE,
        "wait [--condition stopped|healthy] CONTAINER...",
        "wait for the end and print the exit status",
        "lifecycle",
        "wait",
    ),
    Command(
        "attach", LIVE, "attach [--no-stdin] [--detach-keys KEYS] CONTAINER", "join a container's streams", "lifecycle", "attach"
    ),
    Command(
        "logs",
        LIVE,
        "logs [-f] [-n NUMBER] [--since TIME] [--until TIME] [-t] CONTAINER",
        "show what a container wrote",
        "logs",
        "logs",
    ),
    Command("rename", LIVE, "rename CONTAINER NAME", "give a container another name", "lifecycle", "rename"),
    Command("boot", LIVE, "boot [--stop]", "start what is to run whenever the machine does (--restart)", "lifecycle", "boot"),
    Command("finish", HIDDEN, "finish", "record the end of a container", "lifecycle", "finish"),
    Command("pause", LIVE, "pause CONTAINER...", "freeze containers: no process of theirs runs on", "steering", "pause"),
    Command("unpause", LIVE, "unpause CONTAINER...", "let frozen containers go on", "steering", "unpause"),
    Command(
        "update",
        LIVE,
        "update [-m BYTES] [--memory-swap BYTES] [--cpus N] [--cpu-shares N] [--cpuset-cpus LIST] [--pids-limit N] CONTAINER...",
        "change the limits of running containers",
        "steering",
        "update",
    ),
    Command("check", HIDDEN, "check", "make one health check of a container", "check", "check"),
    Command("ps", LOOK, "ps [-a] [-q] [-f KEY=VALUE] [-n NUMBER] [-s]", "list containers", "containers", "ps"),
    Command(
        "inspect",
        LOOK,
        "inspect [-f PATH] CONTAINER...",
        "show all that is known of a container, as JSON",
        "containers",
        "inspect",
    ),
    Command(
        "stats",
        LOOK,
        "stats [--no-stream] [--format json|table] [CONTAINER...]",
        "what running containers use",
        "watching",
        "stats",
    ),
    Command("top", LOOK, "top CONTAINER [-o COLUMNS] [--format json|table]", "the processes of a container", "watching", "top"),
    Command(
        "events",
        LOOK,
        "events [--since TIME] [--until TIME] [--filter container=NAME|event=NAME] [--format json|table]",
        "what happens to containers, while it happens",
        "events",
        "events",
    ),
    Command(
        "cp",
        LOOK,
        "cp [-aLq] CONTAINER:PATH FILE|-  or  FILE|- CONTAINER:PATH",
        "copy files out of a container or into it",
        "files",
        "cp",
    ),
    Command(
        "diff",
        LOOK,
        "diff [--host] [--format json|text] CONTAINER",
        "what a container changed; --host: it beside the host",
        "files",
        "diff",
    ),
    Command(
        "explain",
        LOOK,
        "explain [--step NUMBER] [--code] [--shell] [--analyze] [--format json|text] run|exec ...",
        "print the plan of a run or exec, without doing it",
        "explain",
        "explain",
    ),
    Command(
        "report",
        LOOK,
        "report -o FILE [--no-redact] run ...|CONTAINER",
        "write a page about a run: its steps and their times, what it has, may use and shares",
        "report",
        "report",
    ),
    Command(
        "doctor",
        LOOK,
        "doctor [ITEM] [--format json|text] [--for run|rootless]",
        "try what this host can do, and say how to mend the rest",
        "doctor",
        "doctor",
    ),
    Command(
        "why",
        LOOK,
        "why [--format json|text] [CODE]",
        "what an error code means, and which of its causes this host has",
        "why",
        "why",
    ),
    Command(
        "why-denied",
        LOOK,
        "why-denied [-o FILE] [--format json|text] [--] run ...",
        "run a container, and say which system calls its filter refused",
        "denied",
        "denied",
    ),
    Command(
        "learn",
        LOOK,
        "learn [--list] [--export DIR] | learn LESSON [--check FILE] [--hint] [--solution] | learn grade DIR|FILE...",
        "twelve lessons, checked against what the kernel shows",
        "learn",
        "learn",
    ),
    Command(
        "quiz",
        LOOK,
        "quiz [--seed N] [--count N] [--answers] [--format json|text]",
        "questions about real plans",
        "learn",
        "quiz",
    ),
    Command("version", LOOK, "version", "print the version", "main", "version"),
    Command(
        "layers",
        LOOK,
        "layers [-n NUMBER] IMAGE [PATH]",
        "which layer a file comes from, and what is hidden",
        "storage",
        "layers",
    ),
    Command(
        "system", KEEP, "system df", "what images and containers take of the disk, and what sharing saves", "storage", "system"
    ),
    Command(
        "volume", KEEP, "volume create|ls|rm|inspect|prune ...", "named directories that outlive containers", "volumes", "volume"
    ),
    Command("images", KEEP, "images [-a] [-q] [--format json|table]", "list images", "images", "images"),
    Command("image", KEEP, "image ls|inspect|history|diff|prune|rm|tag ...", "look at images", "images", "image"),
    Command(
        "pull", KEEP, "pull [--platform PLATFORM] NAME[:TAG|@DIGEST]...", "bring images from their registries", "registry", "pull"
    ),
    Command(
        "build",
        KEEP,
        "build [-f FILE] [-t NAME] [OPTIONS] CONTEXT",
        "make an image from a Containerfile (Dockerfile)",
        "build",
        "build",
    ),
    Command("push", KEEP, "push IMAGE [NAME[:TAG]]", "bring an image to a registry", "registry", "push"),
    Command(
        "login", KEEP, "login [-u NAME] [--password-stdin] [REGISTRY]", "keep a password for a registry", "registry", "login"
    ),
    Command("logout", KEEP, "logout [REGISTRY]", "forget it", "registry", "logout"),
    Command("tag", KEEP, "tag IMAGE NAME[:TAG]", "give an image one more name", "images", "tag"),
    Command("import", KEEP, "import NAME TAR|DIR", "make an image from a root file system", "images", "import_"),
    Command("commit", KEEP, "commit [OPTIONS] CONTAINER NAME[:TAG]", "make an image of a container", "files", "commit"),
    Command("export", KEEP, "export [-o FILE] CONTAINER", "write all files of a container as a tar", "files", "export"),
    Command("load", KEEP, "load [-i FILE|DIR]", "load images from a docker archive or OCI layout", "images", "load"),
    Command(
        "save", KEEP, "save [-o FILE] [--format docker-archive|oci] IMAGE...", "write images to an archive", "images", "save"
    ),
    Command("rmi", KEEP, "rmi IMAGE...", "remove images", "images", "rmi"),
    Command(
        "rm", KEEP, "rm [-f] [-v] CONTAINER...", "forget containers that have ended; -f kills those that run", "lifecycle", "rm"
    ),
    Command("prune", KEEP, "prune", "forget all containers that have ended", "lifecycle", "prune"),
    Command(
        "completion",
        KEEP,
        "completion bash|zsh|fish",
        "print what makes the TAB key of a shell know pybox",
        "completion",
        "completion",
    ),
    Command("__complete", HIDDEN, "__complete SHELL WORD...", "say what could be typed next", "completion", "complete"),
    Command("network", KEEP, "network create|ls|inspect|rm|prune ...", "networks for containers", "network", "network"),
    Command("gc", KEEP, "gc", "clean up after a pybox that was killed", "containers", "gc"),
)

EXAMPLES = (
    ("pybox run busybox echo hello", "a command in a container"),
    ("pybox run --rm -m 64M --cpus 0.5 --timeout 5 host python3 job.py", "a limited job on the machine's own files"),
    ("pybox explain run -m 64M busybox true", "what a run does, step by step"),
)


def own_words(words: Sequence[str]) -> list[str]:
    """Return the words of a command line that can't belong to a command inside: all, or those up to `run`, `create` or `exec`."""
    looked_at = INSIDE if words and words[0] in (*INSIDE, *AROUND) else ()
    return list(words[: next((at for at, word in enumerate(words, 1) if word in looked_at), len(words))])
