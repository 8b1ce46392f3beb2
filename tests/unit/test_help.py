"""The help is printed from the tables, so that nothing is missing in it; and a typo in a command is told the right one."""

from __future__ import annotations

import importlib
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pybox.cli import main
from pybox.cli.commands import COMMANDS, EXAMPLES, Command
from pybox.cli.help import command_help, overview
from pybox.cli.options import RUN, Option, parse
from pybox.errors import PyboxError, SpecError

RUN_COMMAND = next(command for command in COMMANDS if command.name == "run")


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return what a command line prints."""
    assert main.dispatch(list(words)) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.group], ids=lambda command: command.name)
def test_the_overview_lists_each_command_once(command: Command) -> None:
    lines = [line for line in overview().splitlines() if line.startswith(f"  {command.name} ")]
    assert len(lines) == 1 and lines[0].endswith(command.help)


@pytest.mark.parametrize("option", RUN, ids=lambda option: option.key)
def test_the_help_of_run_lists_each_option_once(option: Option) -> None:
    lines = [line for line in command_help(RUN_COMMAND).splitlines() if line.startswith(f"  {', '.join(option.names)}")]
    starts = [line for line in lines if line.split()[len(option.names) - 1] == option.names[-1]]
    assert len(starts) == 1 and command_help(RUN_COMMAND).count(option.help) == 1


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_each_command_has_help_and_a_function(command: Command, capsys: pytest.CaptureFixture[str]) -> None:
    function = getattr(importlib.import_module(f"pybox.cli.{command.module}"), command.function)
    assert len(inspect.signature(function).parameters) == 2
    text = printed(capsys, command.name, "--help")
    assert text == printed(capsys, "help", command.name) == command_help(command) + "\n"
    assert text.startswith(f"pybox {command.usage}\n") and command.usage.split()[0] == command.name


def test_help_fits_a_terminal() -> None:
    assert max(len(line) for line in overview().splitlines()) <= 130
    assert max(len(line) for command in COMMANDS for line in command_help(command).splitlines()) <= 130


def test_the_examples_are_valid() -> None:
    for line, _ in EXAMPLES:
        words = line.split()
        assert words[0] == "pybox" and words[1] in {command.name for command in COMMANDS}
        parsed = parse(RUN, words[words.index("run") + 1 :])
        assert parsed.rest[0] in ("busybox", "host")


@pytest.mark.parametrize("words", [(), ("help",), ("--help",), ("-h",)])
def test_whoever_asks_for_help_gets_the_overview(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert printed(capsys, *words) == overview() + "\n"


@pytest.mark.parametrize("words", [("version",), ("--version",), ("-v",)])
def test_the_version_is_said(words: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    from pybox.version import VERSION

    assert printed(capsys, *words) == f"pybox version {VERSION}\n"


@pytest.mark.parametrize(
    ("word", "hint"),
    [("rnu", "did you mean `pybox run`?"), ("imges", "did you mean `pybox images`?"), ("zzz", "`pybox help` lists them")],
)
def test_a_typo_in_a_command_is_told_the_right_one(word: str, hint: str) -> None:
    with pytest.raises(PyboxError) as caught:
        main.dispatch([word])
    assert (caught.value.message, caught.value.hint, caught.value.exit_code) == (f"no such command: {word}", hint, 125)


def test_an_error_is_one_line_and_its_hint_another(capfd: pytest.CaptureFixture[str]) -> None:
    assert main.complain(SpecError("memory", "x\n\udcff", "bad", "do this")) == 125
    assert capfd.readouterr().err == "pybox: error: memory: 'x\\n\\udcff': bad\npybox: hint: do this\n"


@pytest.mark.parametrize(
    ("line", "helped"),
    [
        ("run --help", True), ("rm x --help", True), ("rm -h", True), ("explain run --help", True), ("explain --help run x", True),
        ("run x --help", False), ("exec x y --help", False), ("explain run x --help", False), ("why-denied -- run x ls --help", False),
        ("report -o f run x ls -h", False),
    ],
)  # fmt: skip
def test_help_is_ours_only_where_it_can_t_be_meant_for_the_command_inside(line: str, helped: bool) -> None:
    first, *words = line.split()
    command = next(command for command in COMMANDS if command.name == first)
    assert main._wants_help(command, words) is helped


def test_h_of_run_is_the_host_name_and_not_help() -> None:
    assert parse(RUN, ["-h", "box", "x"]).one("hostname") == "box"


def test_an_argument_that_is_no_utf8_is_explained_without_a_traceback(tmp_path: Path) -> None:
    env = {**os.environ, "PYTHONIOENCODING": "utf-8:strict", "PYBOX_STORE": f"{tmp_path}/a", "PYBOX_STATE": f"{tmp_path}/b"}
    words = [sys.executable, "-m", "pybox", "explain", "run", "host", b"caf\xe9"]
    done = subprocess.run(words, capture_output=True, env=env, check=False)
    assert (done.returncode, done.stderr) == (0, b"") and b"run caf\\udce9" in done.stdout
