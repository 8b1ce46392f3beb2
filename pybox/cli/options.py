"""The options of `pybox run`: one table. The parser, the help text and `explain` are loops over it."""

from __future__ import annotations

from pybox.errors import SpecError
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


class Option(Record):
    """One option. ``value`` names what follows it, "" for a switch; ``many`` may be given again and again."""

    names: tuple[str, ...]
    group: str
    help: str
    value: str = ""
    many: bool = False
    words: tuple[str, ...] = ()  # what a switch may be given after "=", beside true and false

    @property
    def key(self) -> str:
        """The long name without dashes."""
        return self.names[-1].lstrip("-")


RUN = (
    Option(("--rm",), "Container", "forget the container when it has ended; else it stays listed until `pybox rm`"),
    Option(("-d", "--detach"), "Container", "leave it running in the background, and print its id"),
    Option(("-t", "--tty"), "Container", "give it a terminal; -it for a shell to work in"),
    Option(("--pull",), "Container", "missing (the default), always or never: when to ask the image's registry", "WHEN"),
    Option(("--name",), "Container", "a name for it", "NAME"),
    Option(("-l", "--label"), "Container", "a note on it, to find it by: ps --filter label=KEY=VALUE", "KEY[=VALUE]", True),
    Option(("--cidfile",), "Container", "write its id to a new file", "FILE"),
    Option(("--timeout",), "Container", "kill the whole container after this time: 5, 0.5, 2m", "SECONDS"),
    Option(("--status-file",), "Container", "write how it ended and what it used, as JSON", "FILE"),
    Option(("--no-init",), "Container", "make the command process 1 itself, without pybox-init"),
    Option(("--system",), "Container", "boot the image's own init as process 1, see docs/system-containers.md"),
    Option(("--hpc",), "Container", "run in the caller's place: ids, environment, directories; see docs/engines.md"),
    Option(("--init",), "Container", "run pybox-init as process 1 (the default)"),
    Option(("--help",), "Container", "print this"),
    Option(("-i", "--interactive"), "Container", "keep stdin open (always so in the foreground without -t)"),
    Option(("--detach-keys",), "Container", "keys to leave a terminal by (ctrl-p,ctrl-q)", "KEYS"),
    Option(("--restart",), "Background", "no, on-failure[:N], always or unless-stopped", "POLICY"),
    Option(("--stop-signal",), "Background", "what `pybox stop` sends; else the image's, else TERM", "SIGNAL"),
    Option(("--log-opt",), "Background", "max-size=10M, max-file=3: when the log is rotated", "NAME=VALUE", True),
    Option(("--health-cmd",), "Background", "a shell command that is to end with 0 while all is well", "COMMAND"),
    Option(("--health-interval",), "Background", "time between two checks (30s)", "SECONDS"),
    Option(("--health-timeout",), "Background", "time for one check (30s)", "SECONDS"),
    Option(("--health-retries",), "Background", "failed checks in a row until it is unhealthy (3)", "NUMBER"),
    Option(("--health-start-period",), "Background", "time in which failed checks don't count (0)", "SECONDS"),
    Option(("--no-healthcheck",), "Background", "no checks, also if the image asks for them"),
    Option(("-e", "--env"), "Command", "set a variable; without =VALUE take the caller's", "NAME[=VALUE]", True),
    Option(("--env-file",), "Command", "read variables from a file", "FILE", True),
    Option(("-w", "--workdir"), "Command", "the working directory, made if missing", "DIR"),
    Option(("-u", "--user"), "Command", "run as this user of the image", "NAME|UID[:GROUP|GID]"),
    Option(("--entrypoint",), "Command", "replace the image's entrypoint", "COMMAND"),
    Option(("-m", "--memory"), "Limits", "memory, e.g. 64M", "BYTES"),
    Option(("--memory-swap",), "Limits", "memory and swap together; -1 unlimited", "BYTES"),
    Option(("--cpus",), "Limits", "CPUs' worth of time, e.g. 0.5", "NUMBER"),
    Option(("-c", "--cpu-shares"), "Limits", "weight against others, 1024 is normal", "NUMBER"),
    Option(("--cpuset-cpus",), "Limits", "CPUs it may run on, e.g. 0-1,3", "LIST"),
    Option(("--pids-limit",), "Limits", "most processes and threads at once", "NUMBER"),
    Option(("--oom-score-adj",), "Limits", "-1000 to 1000: whom the kernel kills first", "NUMBER"),
    Option(("--ulimit",), "Limits", "a resource limit per process", "NAME=SOFT[:HARD]", True),
    Option(("--storage-size",), "Limits", "what the writable layer may hold, e.g. 100M", "BYTES"),
    Option(("--best-effort",), "Limits", "run without a limit that this host can't enforce, and say so"),
    Option(("-v", "--volume"), "Files", "show a file or directory of the host inside, or a volume", "[SRC|NAME:]DST[:ro]", True),
    Option(("--mount",), "Files", "the same in words: type=bind|volume|tmpfs|image,source=SRC,target=DST", "WORDS", True),
    Option(("--tmpfs",), "Files", "a fresh file system in memory", "DST[:size=64m,mode=1777,exec,ro]", True),
    Option(("--read-only",), "Files", "make the root file system read-only"),
    Option(("--upper",), "Files", "where the writable layer is: memory (default with --rm) or disk", "PLACE"),
    Option(("-h", "--hostname"), "Isolation", "the host name inside", "NAME"),
    Option(
        ("--network",), "Network", "none (the default: loopback only), host, pybox, another network, container:ID", "NAME", True
    ),
    Option(("-p", "--publish"), "Network", "lead a port of the host to one of the container", "[IP:][HOST:]PORT[/udp]", True),
    Option(("-P", "--publish-all"), "Network", "the same for all ports that the image exposes, from free ones of the host"),
    Option(("--ip",), "Network", "the address on the first network", "IP", True),
    Option(("--mac-address",), "Network", "the Ethernet address there", "MAC"),
    Option(("--dns",), "Network", "name servers instead of the host's", "IP", True),
    Option(("--add-host",), "Network", "a line of /etc/hosts", "NAME:IP", True),
    Option(("--allow-net",), "Network", "reach these and nothing else; `none`: nothing at all", "HOST[:PORT],CIDR...", True),
    Option(("--net-rate",), "Network", "bits a second, each way: 10m", "RATE"),
    Option(("--pid",), "Isolation", "host shares the host's processes", "MODE"),
    Option(("--ipc",), "Isolation", "host shares the host's System V IPC and /dev/shm", "MODE"),
    Option(("--uts",), "Isolation", "host shares the host's name", "MODE"),
    Option(("--userns",), "Isolation", "an own user namespace: root inside is nobody outside", words=("host",)),
    Option(("--cap-add",), "Rights", "grant a capability, or ALL", "CAP", True),
    Option(("--cap-drop",), "Rights", "take a capability away, or ALL", "CAP", True),
    Option(("--security-opt",), "Rights", "seccomp=unconfined|PROFILE.json, no-new-privileges=BOOL", "OPTION", True),
    Option(
        ("--trace",),
        "Learning",
        "say when each step was done; =state: what it changed; =chrome: for Perfetto",
        words=("state", "chrome"),
    ),
    Option(("--trace-file",), "Learning", "write the trace there, not to stderr", "FILE"),
    Option(("--step",), "Learning", "stop before each step: predict, look at what the kernel shows, go on"),
    Option(("--until",), "Learning", "a shell in the container as it is after this step of `explain run`", "STEP"),
    Option(("--without",), "Learning", "leave out pid, net, uts, ipc, seccomp, caps, init: see what it was for", "PART", True),
)


class Parsed:
    """What a command line said: values by option key, and the words after the options."""

    def __init__(self) -> None:
        self.values: dict[str, list[str]] = {}
        self.rest: list[str] = []

    def one(self, key: str) -> str | None:
        """Return the last value of an option, None when it was not given."""
        found = self.values.get(key)
        return found[-1] if found else None

    def all(self, key: str) -> list[str]:
        """Return all values of an option."""
        return self.values.get(key, [])

    def has(self, key: str) -> bool:
        """Return whether a switch was given."""
        return self.values.get(key) == [""]


def parse(options: Sequence[Option], words: Sequence[str]) -> Parsed:
    """Read options up to the first word that is none: what follows belongs to the command inside. Raises SpecError."""
    known = {name: option for option in options for name in option.names}
    parsed = Parsed()
    position = 0
    while position < len(words):
        word = words[position]
        position += 1
        if word == "--":
            break
        if not word.startswith("-") or word == "-":
            position -= 1
            break
        if word.startswith("--"):
            name, equals, value = word.partition("=")
        else:  # -m64M, -m=64M
            name, equals, value = word[:2], "", word[2:].removeprefix("=")
        option = known.get(name)
        if option is None:
            raise unknown(name, known)
        if option.value:
            if not (equals or value):
                if position == len(words):
                    raise SpecError(name, "", f"needs a value: {option.value}")
                value = words[position]
                position += 1
            parsed.values.setdefault(option.key, []).append(value)
        elif equals:
            if value not in ("true", "false", *option.words):
                known_words = " or ".join(("true", "false", *option.words))
                raise SpecError(name, value, f"is a switch and takes {known_words} only")
            parsed.values.pop(option.key, None)  # the last word counts, also between --init and --no-init
            parsed.values[option.key] = ["" if value == "true" else value]
        else:
            parsed.values.pop(option.key, None)
            parsed.values[option.key] = [""]
            if value.startswith("-"):
                raise SpecError(word, "", "unknown option", "a `-` begins a word of its own")
            if value:  # -ab is -a -b
                words = [*words[:position], f"-{value}", *words[position:]]
    parsed.rest = list(words[position:])
    return parsed


def parse_anywhere(options: Sequence[Option], words: Sequence[str]) -> Parsed:
    """Read options before, between and behind the words that are none, as docker does where all words are its own; ``--`` ends
    them. Raises SpecError."""
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    found, rest = Parsed(), words[:end]
    plain: list[str] = []
    while rest:
        parsed = parse(options, rest)
        for key, values in parsed.values.items():
            found.values.setdefault(key, []).extend(value for value in values if value or not found.has(key))
        plain, rest = plain + parsed.rest[:1], parsed.rest[1:]
    found.rest = [*plain, *words[end + 1 :]]
    return found


def unknown(name: str, known: dict[str, Option]) -> SpecError:
    """Return the error for an option that does not exist, with the nearest one that does."""
    from difflib import get_close_matches

    near = get_close_matches(name, known, 1, 0.6)
    error = SpecError(name, "", "unknown option", f"did you mean {near[0]}?" if near else "`--help` lists them")
    error.code = "E-USAGE"
    return error
