"""The command reference, from the tables of commands and options: man pages, and docs/commands.md.

pybox help --man [COMMAND]      one page of man(7), which `make install` puts where man(1) looks
pybox help --markdown           docs/commands.md; `make reference` writes it, a test holds it to the tables
"""

from __future__ import annotations

import os

from pybox.cli.commands import COMMANDS, EXAMPLES, Command
from pybox.cli.completion import INSTALLED, SCRIPTS
from pybox.cli.help import options_of
from pybox.codes import CODES
from pybox.errors import PyboxError
from pybox.version import VERSION

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pybox.cli.options import Option

_SHOWN = tuple(command for command in COMMANDS if command.group)
_STATUS = (
    ("0", "all went well; of run, create -a, start -a, exec, attach and wait: the command's own status"),
    ("125", "pybox itself could not do it; the error line says why, and pybox why what its code means"),
    ("126", "the command is there, but can't be executed"),
    ("127", "the command does not exist"),
    ("128+n", "the command was ended by signal n"),
)
_ENVIRONMENT = (
    (
        "PYBOX_STORE",
        "the directory of images and of what outlives a container; /var/lib/pybox, or ~/.local/share/pybox for plain users",
    ),
    ("PYBOX_STATE", "the directory of what runs; /run/pybox, or below XDG_RUNTIME_DIR for plain users"),
)
_BESIDE = {  # pages of other people's that explain what a command does
    "run": "namespaces(7), cgroups(7), capabilities(7), seccomp(2)",
    "exec": "setns(2)",
    "pause": "cgroups(7)",
    "unpause": "cgroups(7)",
    "update": "cgroups(7)",
    "explain": "unshare(1), strace(1)",
    "why-denied": "seccomp(2), capabilities(7)",
    "network": "network_namespaces(7), veth(4), nft(8)",
}


def page(name: str = "") -> str:
    """Return a man page: of one command, or of pybox. Raises PyboxError for a command that does not exist."""
    if not name:
        return "\n".join(_overview()) + "\n"
    command = next((command for command in _SHOWN if command.name == name), None)
    if command is None:
        raise PyboxError(f"no such command: {name}", "`pybox help` lists them")
    return "\n".join(_of_command(command)) + "\n"


def pages() -> dict[str, str]:
    """Return all man pages, by the names of their files."""
    return {"pybox.1": page()} | {f"pybox-{command.name}.1": page(command.name) for command in _SHOWN}


def install(share: str) -> None:
    """Write the man pages and the shells' completions where they are looked for below a directory share/, as `make install` does."""
    files = {f"man/man1/{name}": text for name, text in pages().items()}
    files |= {INSTALLED[shell]: text for shell, text in SCRIPTS.items()}
    for name, text in files.items():
        os.makedirs(os.path.dirname(f"{share}/{name}"), exist_ok=True)
        with open(f"{share}/{name}", "w") as file:
            file.write(text)


def _overview() -> Iterator[str]:
    yield from _head("pybox", "containers that start in milliseconds")
    yield from (".B pybox", ".I COMMAND", "[...]", ".SH DESCRIPTION")
    yield roff("Runs a command in a container: a process with its own view of the machine. There is no daemon.")
    for group in _groups():
        yield f".SS {roff(group)}"
        for command in _SHOWN:
            if command.group == group:
                yield from (".TP", f".BR pybox\\-{roff(command.name)} (1)", roff(f"{command.help}"))
    yield from _definitions("EXIT STATUS", _STATUS)
    yield from _definitions("ENVIRONMENT", _ENVIRONMENT)
    yield ".SH EXAMPLES"
    for line, what in EXAMPLES:
        yield from (".TP", f".B {roff(line)}", roff(what))
    yield from (".SH SEE ALSO", roff("namespaces(7), cgroups(7), capabilities(7), overlayfs in the kernel's documentation"))


def _of_command(command: Command) -> Iterator[str]:
    yield from _head(f"pybox-{command.name}", command.help)
    yield roff(f"pybox {command.usage}")
    yield from (".SH DESCRIPTION", roff(f"{command.help[0].upper()}{command.help[1:]}."))
    options = options_of(command)
    if options:
        yield ".SH OPTIONS"
    for group in dict.fromkeys(option.group for option in options):
        if group:
            yield f".SS {roff(group)}"
        for option in options:
            if option.group == group:
                names = ", ".join(f"\\fB{roff(name)}\\fR" for name in option.names)
                yield from (".TP", names + (f" \\fI{roff(option.value)}\\fR" if option.value else ""), roff(option.help))
    if command.name == "why":
        yield from _definitions("CODES", tuple((code.name, code.means) for code in CODES.values()))
    yield from _definitions("EXIT STATUS", _STATUS)
    beside = _BESIDE.get(command.name, "")
    yield from (".SH SEE ALSO", roff(", ".join(word for word in ("pybox(1)", beside) if word)))


def _head(name: str, what: str) -> Iterator[str]:
    yield f'.TH {roff(name.upper())} 1 "" "pybox {VERSION}" "pybox"'
    yield from (".SH NAME", f"{roff(name)} \\- {roff(what)}", ".SH SYNOPSIS")


def _definitions(title: str, rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f".SH {title}"
    for word, what in rows:
        yield from (".TP", f".B {roff(word)}", roff(what))


def _groups() -> tuple[str, ...]:
    return tuple(dict.fromkeys(command.group for command in _SHOWN))


def roff(text: str) -> str:
    """Return a text as groff_man(7) wants it: every minus one that can be copied, nothing taken for a request."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-").replace("`", "\\(ga").replace("~", "\\(ti").replace("^", "\\(ha")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped


def markdown() -> str:
    """Return docs/commands.md."""
    return "\n".join(_markdown())


def _markdown() -> Iterator[str]:
    yield "# Commands"
    yield ""
    yield "Generated from the tables of commands and options by `make reference`: don't edit. `pybox COMMAND --help` says the same, and an"
    yield "installed pybox has a man page for each: `man pybox-run`."
    for group in _groups():
        yield from ("", f"## {group}")
        for command in _SHOWN:
            if command.group == group:
                yield from ("", f"### {command.name}", "", f"    pybox {command.usage}", "")
                yield f"{command.help[0].upper()}{command.help[1:]}."
                yield from _table(options_of(command))
    yield from ("", "## Exit status", "", "| status | means |", "| --- | --- |")
    yield from (f"| {status} | {_cell(means)} |" for status, means in _STATUS)
    yield ""


def _table(options: tuple[Option, ...]) -> Iterator[str]:
    grouped = any(option.group for option in options)
    for number, option in enumerate(options):
        if not number:
            yield from ("", f"| option |{' of |' if grouped else ''} |", f"| --- |{' --- |' if grouped else ''} --- |")
        names = ", ".join(f"`{name}`" for name in option.names) + (f" `{_cell(option.value)}`" if option.value else "")
        yield f"| {names} |{f' {option.group} |' if grouped else ''} {_cell(option.help)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")
