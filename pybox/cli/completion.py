"""`pybox completion bash|zsh|fish`: what the TAB key offers, from the tables of commands and options.

The script for a shell only asks: `pybox __complete SHELL WORD...`, with the words behind pybox up to the one that is being typed.
The answer has a candidate a line (fish and zsh: a TAB and what it is), and as last lines ":files" when a path may come there, and
":nospace" when a candidate is not the end of its word. So no shell has a list that could be out of date.
"""

from __future__ import annotations

from pybox.cli.commands import AROUND, COMMANDS, INSIDE, Command
from pybox.cli.help import flags_of_usage, options_of
from pybox.errors import PyboxError, SpecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from pybox.cli.options import Option
    from pybox.dirs import Dirs

    Candidates = Iterator[tuple[str, str]]

SCRIPTS = {
    "bash": r"""# bash completion of pybox:  source <(pybox completion bash)
_pybox() {
    local line
    COMPREPLY=()
    while IFS= read -r line; do
        case $line in
            :files) compopt -o default ;;
            :nospace) compopt -o nospace ;;
            *) COMPREPLY+=("$line") ;;
        esac
    done < <("${COMP_WORDS[0]}" __complete bash "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null)
}
complete -F _pybox pybox
""",
    "zsh": r"""#compdef pybox
# zsh completion of pybox:  source <(pybox completion zsh), or as a file _pybox in $fpath
_pybox() {
    local line files
    local -a values shown space
    while IFS= read -r line; do
        case $line in
            :files) files=1 ;;
            :nospace) space=(-S '') ;;
            *) values+=("${line%%$'\t'*}"); shown+=("${line/$'\t'/  -- }") ;;
        esac
    done < <("${words[1]}" __complete zsh "${(@)words[2,CURRENT]}" 2>/dev/null)
    (( $#values )) && compadd $space -l -d shown -a values
    [[ -n $files ]] && _files
    return 0
}
if [[ $funcstack[1] == _pybox ]]; then _pybox "$@"; elif (( $+functions[compdef] )); then compdef _pybox pybox; fi
""",
    "fish": r"""# fish completion of pybox:  pybox completion fish | source
function __pybox_complete
    set -l words (commandline -opc)
    set -l program $words[1]
    set -l token (commandline -ct)
    set -e words[1]
    for line in ($program __complete fish $words "$token" 2>/dev/null)
        switch $line
            case :files
                __fish_complete_path (commandline -ct)
            case :nospace
            case '*'
                echo $line
        end
    end
end
complete -c pybox -f -a '(__pybox_complete)'
""",
}
# Where each shell looks for it, below share/.
INSTALLED = {
    "bash": "bash-completion/completions/pybox",
    "zsh": "zsh/site-functions/_pybox",
    "fish": "fish/vendor_completions.d/pybox.fish",
}

_OF_VERBS = {"volume": "VOLUME", "network": "NETWORK", "image": "IMAGE"}
_NEW = ("create", "import")  # verbs whose words are no names that there are


def completion(where: Dirs, words: list[str]) -> int:
    """Print the script for a shell. Raises SpecError."""
    if len(words) != 1 or words[0] not in SCRIPTS:
        raise SpecError("completion", " ".join(words), f"must be one of {', '.join(SCRIPTS)}", "source <(pybox completion bash)")
    print(SCRIPTS[words[0]], end="")
    return 0


def complete(where: Dirs, words: list[str]) -> int:
    """Print what could stand in the place of the last word. What can't be looked up is not offered: TAB is no place for errors."""
    shell, *typed = words or ["bash"]
    typed, cut = glued(typed or [""]) if shell == "bash" else (typed or [""], 0)
    files, found = False, []
    for candidate, what in candidates(where, typed):
        if candidate == FILES:
            files = True
        elif candidate.startswith(typed[-1]) and candidate.isprintable():
            found.append(candidate[cut:] + (f"\t{what}" if what and shell != "bash" else ""))
    lines = list(dict.fromkeys(found))
    lines += [":files"] if files else []
    lines += [":nospace"] if lines and any(line.partition("\t")[0].endswith(("=", ":")) for line in found) else []
    if lines:
        print("\n".join(lines))
    return 0


def glued(typed: Sequence[str]) -> tuple[list[str], int]:
    """Put together what bash takes apart at = and : (COMP_WORDBREAKS). Also returns how much of the last word bash has in front of
    the part that it replaces."""
    words: list[str] = []
    cut = 0
    joins = False
    for word in typed:
        breaks = word in ("=", ":") and bool(words)
        if joins or breaks:
            cut = len(words[-1]) + (len(word) if breaks else 0)
            words[-1] += word
        else:
            words.append(word)
            cut = 0
        joins = breaks
    return words, cut


FILES = ":files"


def candidates(where: Dirs, words: Sequence[str]) -> Candidates:
    """Yield (word, what it is) of all that could be the last word, whatever it begins with; FILES for a path."""
    *before, current = words
    if not before or before == ["help"]:
        yield from ((command.name, command.help) for command in COMMANDS if command.group)
        if not before:
            yield "help", "what there is"
        return
    command = next((command for command in COMMANDS if command.name == before[0]), None)
    if command is None:
        return
    options, choices = options_of(command), flags_of_usage(command)
    named = {name: option for option in options for name in option.names}
    takes = {name: option.value for name, option in named.items()} | {name: value for name, value in choices.items() if value}
    rest: list[str] = []
    ours, waits = True, ""
    for at, word in enumerate(before[1:], 1):
        if waits:
            waits = ""
        elif ours and word == "--":
            ours = False
        elif ours and word.startswith("-") and len(word) > 1:
            waits = word if takes.get(word) else ""
        else:
            rest.append(word)
            if command.name in AROUND and word in INSIDE:
                yield from candidates(where, [*before[at:], current])
                return
            ours = ours and command.name not in INSIDE
    if waits:
        yield from _values(where, waits, named.get(waits), choices.get(waits, ""))
        return
    name, equals, _ = current.partition("=")
    if ours and equals and current.startswith("--"):
        for value, what in _values(where, name, named.get(name), choices.get(name, "")):
            yield (value if value == FILES else f"{name}={value}"), what
        return
    if ours and current.startswith("-"):
        yield from ((name, option.help) for option in options for name in option.names if len(name) > 2 or len(current) < 2)
        yield from ((name, "") for name in choices if name not in named)
        yield "--help", "what it does"
        return
    for kind in _kind(command, rest):
        yield from _names(where, kind)


def _values(where: Dirs, name: str, option: Option | None, choice: str) -> Candidates:
    value = option.value if option else ""
    if "|" in choice and choice.islower():
        yield from ((word, "") for word in choice.split("|"))
    elif option is not None and option.words:
        yield from ((word, "") for word in option.words)
    elif name == "--network":
        yield from ((word, "") for word in ("none", "host"))
        yield from _names(where, "NETWORK")
    elif name in ("-v", "--volume"):
        yield from ((f"{volume}:", what) for volume, what in _names(where, "VOLUME"))
        yield FILES, ""
    elif name in ("--cap-add", "--cap-drop"):
        from pybox.host import probe
        from pybox.kernel.credentials import names

        yield from ((cap.removeprefix("CAP_"), "") for cap in ("ALL", *names(probe().last_cap)))
    elif any(word in f"{value} {choice}" for word in ("FILE", "DIR", "SRC")):
        yield FILES, ""


def _kind(command: Command, rest: Sequence[str]) -> tuple[str, ...]:
    """Return what the next word of a command names, from its usage: IMAGE, CONTAINER, FILE, verbs in lower case."""
    places = [word for word in usage_words(command.usage) if word != "or"]
    if not places:
        return ()
    verbs = places[0].split("|")
    if places[0].islower():
        if not rest:
            return tuple(verbs)
        return (_OF_VERBS[command.name],) if command.name in _OF_VERBS and rest[0] not in _NEW else ()
    place = places[len(rest)] if len(rest) < len(places) else places[-1] if places[-1].endswith("...") else ""
    if command.name in INSIDE and rest:
        return ("FILE",)
    return tuple(place.removesuffix("...").split("|"))


def usage_words(usage: str) -> list[str]:
    """Return the words of a usage line that are no options: those in brackets without their brackets."""
    found, depth = [], 0
    for word in usage.replace("[OPTIONS] ", "").replace("[COMMAND [ARG...]]", "").split()[1:]:
        if depth or word.startswith("[-"):
            depth += word.count("[") - word.count("]")
        elif word != "...":
            found.append(word.strip("[]") if word.startswith("[") else word)
    return found


def _names(where: Dirs, kind: str) -> Candidates:
    """Yield the names of what there is of a kind; a word in lower case is itself."""
    try:
        if kind.startswith(("IMAGE", "NAME[")):
            yield from _images(where)
        elif kind.startswith("CONTAINER"):
            from pybox.listing import entries

            end = ":" if kind == "CONTAINER:PATH" else ""
            yield from ((f"{entry.name or entry.identity}{end}", entry.status) for entry in entries(where))
        elif kind == "NETWORK":
            from pybox.network.networks import names

            yield from ((name, "network") for name in names(where))
        elif kind == "VOLUME":
            from pybox.volumes import volumes

            yield from ((volume.name, "volume") for volume in volumes(where))
        elif kind == "CODE":
            from pybox.codes import CODES

            yield from ((code.name, code.means) for code in CODES.values())
        elif kind == "ITEM":
            from pybox.doctor.table import PROBES

            yield from ((probe.id, "") for probe in PROBES)
        elif kind.startswith(("FILE", "TAR", "DIR")):
            yield FILES, ""
        elif kind.islower() and kind.isalpha():
            yield kind, ""
    except (OSError, PyboxError):
        return


def _images(where: Dirs) -> Candidates:
    from pybox.image.store import names

    yield "host", "the machine's own files"
    yield from ((name.removesuffix(":latest"), "image") for name in names(where))
