"""Help texts, printed from the tables of commands and options."""

from __future__ import annotations

from pybox.cli.commands import COMMANDS, EXAMPLES, Command
from pybox.cli.options import RUN, Option


def overview() -> str:
    """Return the text of `pybox help`."""
    lines = ["pybox runs a command in a container: a process with its own view of the machine.", "", "Examples:"]
    lines += [f"  {line:<66} {what}" for line, what in EXAMPLES]
    for group in dict.fromkeys(command.group for command in COMMANDS if command.group):
        lines += ["", f"{group}:"]
        lines += [f"  {command.name:<10} {command.help}" for command in COMMANDS if command.group == group]
    lines += ["", "`pybox COMMAND --help` says more. New here? `pybox doctor`, then `make images`."]
    return "\n".join(lines)


def options_of(command: Command) -> tuple[Option, ...]:
    """Return the options of a command, if its module has a table of its name: PS, LOGS, WHY_DENIED."""
    if command.name in ("run", "create"):
        return RUN
    if command.module == "images":
        from pybox.cli.images import options

        return options(command.name)
    from importlib import import_module

    found = getattr(import_module(f"pybox.cli.{command.module}"), command.name.upper().replace("-", "_"), ())
    return found if isinstance(found, tuple) else ()


def flags_of_usage(command: Command) -> dict[str, str]:
    """Return the options that a usage line names, each with what follows it ("" for a switch): [-n NUMBER], [--format json|text]."""
    found = {}
    parts = (part.partition("]")[0] for part in command.usage.split("[")[1:])
    for part in (one for inner in parts for one in inner.replace("|-", "\n-").split("\n")):
        name, _, value = part.partition(" ")
        if name.startswith("--"):
            found[name] = value
        elif name.startswith("-") and len(name) > 1:  # -aLq is -a -L -q
            found.update((f"-{letter}", value) for letter in name[1:])
    return {name: value for name, value in found.items() if name != "--"}


def command_help(command: Command) -> str:
    """Return the text of `pybox COMMAND --help`."""
    lines = [f"pybox {command.usage}", "", f"{command.help[0].upper()}{command.help[1:]}."]
    if command.name in ("run", "create"):
        for group in dict.fromkeys(option.group for option in RUN):
            lines += ["", f"{group}:"]
            for option in RUN:
                if option.group == group:
                    names = ", ".join(option.names) + (f" {option.value}" if option.value else "")
                    lines.append(f"  {names:<46} {option.help}" if len(names) < 46 else f"  {names}\n{'':<49}{option.help}")
        lines += [
            "",
            "Exit status: the command's own; 125 pybox failed, 126 it can't be executed, 127 not found, 128+n signal n.",
        ]
    elif command.module == "images" and command.name != "image":
        from pybox.cli.images import help_of

        lines += ["", help_of(command.name)]
    elif table := options_of(command):
        lines.append("")
        for option in table:
            names = ", ".join(option.names) + (f" {option.value}" if option.value else "")
            lines.append(f"  {names:<30} {option.help}")
    return "\n".join(lines)
