"""What TAB offers comes from the tables; and real shells were asked."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pybox.cli import main
from pybox.cli.commands import COMMANDS
from pybox.cli.completion import FILES, SCRIPTS, candidates, glued, usage_words
from pybox.cli.help import flags_of_usage, options_of
from pybox.cli.options import RUN
from pybox.dirs import Dirs

SECONDS = 60  # only ends what hangs


@pytest.fixture
def where(tmp_path: Path) -> Dirs:
    """A store with two images, a network and a volume; nothing of it is read but names."""
    (tmp_path / "store/images/names").mkdir(parents=True)
    for name in ("docker.io%library%tool:latest", "docker.io%library%tool:7"):
        (tmp_path / "store/images/names" / name).symlink_to(f"../{'0' * 64}.json")
    return Dirs(f"{tmp_path}/store", f"{tmp_path}/state")


def offered(where: Dirs, line: str) -> set[str]:
    """Return what is offered for the last word of a line."""
    words = line.split(" ")
    return {word for word, _ in candidates(where, words) if word == FILES or word.startswith(words[-1])}


def test_every_command_is_offered_and_none_that_is_hidden(where: Dirs) -> None:
    assert offered(where, "") == {command.name for command in COMMANDS if command.group} | {"help"}
    assert offered(where, "wh") == {"why", "why-denied"} and offered(where, "help ver") == {"version"}


@pytest.mark.parametrize("command", ["run", "create"])
def test_every_option_of_run_is_offered(where: Dirs, command: str) -> None:
    assert offered(where, f"{command} -") == {name for option in RUN for name in option.names}
    assert offered(where, f"{command} --net-") == {"--net-rate"}


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.group], ids=lambda command: command.name)
def test_the_options_that_a_usage_line_names_are_those_of_the_table(command: object) -> None:
    from pybox.cli.commands import Command

    assert isinstance(command, Command)
    named = set(flags_of_usage(command))
    if known := {name for option in options_of(command) for name in option.names}:
        assert named <= known
    assert all(name.startswith("-") for name in named)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("images --format ", {"json", "table"}),
        ("images --format=j", {"--format=json"}),
        ("wait --condition h", {"healthy"}),
        ("explain run --trace=", {"--trace=state", "--trace=chrome"}),
        ("run --network n", {"none"}),
        ("run --network=h", {"--network=host"}),
        ("run --cap-drop SYS_ADM", {"SYS_ADMIN"}),
        ("run --env-file ", {FILES}),
        ("run --env-file=", {FILES}),
        ("run --name ", set()),
        ("run --rm -m 64M ho", {"host"}),
        ("run -- ho", {"host"}),
        ("run host ", {FILES}),
        ("run host --r", {FILES}),
        ("explain --step 3 run --read", {"--read-only"}),
        ("why-denied -- run --read", {"--read-only"}),
        ("why-denied --f", {"--format"}),
        ("report -o x run --read", {"--read-only"}),
        ("why E-EXEC-CR", {"E-EXEC-CRLF"}),
        ("doctor over", {"overlay"}),
        ("volume ", {"create", "ls", "rm", "inspect", "prune"}),
        ("volume create ", set()),
        ("system ", {"df"}),
        ("completion ", {"bash", "zsh", "fish"}),
        ("load -i ", {FILES}),
        ("import x ", {FILES}),
        ("batch ", {FILES}),
        ("layers ho", {"host"}),
        ("stop ", set()),
        ("nothing ", set()),
        ("version ", set()),
    ],
)
def test_what_is_offered_fits_the_place(where: Dirs, line: str, words: set[str]) -> None:
    assert offered(where, line) == words


@pytest.mark.parametrize("line", ["run ", "rmi ", "push ", "tag ", "image rm ", "save -o x ", "explain run "])
def test_images_are_offered_by_their_names(where: Dirs, line: str) -> None:
    assert {"host", "docker.io/library/tool", "docker.io/library/tool:7"} <= offered(where, line)


def test_bash_is_told_the_rest_of_what_it_took_apart() -> None:
    assert glued(["run", "--network", "=", "h"]) == (["run", "--network=h"], 10)
    assert glued(["run", "--network", "="]) == (["run", "--network="], 10)
    assert glued(["run", "tool", ":", "7"]) == (["run", "tool:7"], 5)
    assert glued(["run", "to"]) == (["run", "to"], 0)
    assert glued(["run", "a", ":", "b", ""]) == (["run", "a:b", ""], 0)
    assert glued(["="]) == (["="], 0)


@pytest.mark.parametrize(("usage", "words"), [
    ("logs [-f] [-n NUMBER] [--since TIME] CONTAINER", ["CONTAINER"]),
    ("run [OPTIONS] IMAGE [COMMAND [ARG...]]", ["IMAGE"]),
    ("doctor [ITEM] [--format json|text]", ["ITEM"]),
    ("stats [--no-stream] [CONTAINER...]", ["CONTAINER..."]),
])  # fmt: skip
def test_the_places_of_a_command_are_read_from_its_usage(usage: str, words: list[str]) -> None:
    assert usage_words(usage) == words


def test_nothing_is_said_but_candidates_whatever_is_typed(capfd: pytest.CaptureFixture[str]) -> None:
    for words in ([], ["bash"], ["zsh", "run", "--nope", ""], ["fish", "\udcff"], ["bash", "exec", "", ""], ["bash", "run", "-"]):
        assert main.dispatch(["__complete", *words]) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("shell", SCRIPTS)
def test_a_script_is_printed_for_each_shell(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(["completion", shell]) == 0
    assert capsys.readouterr().out == SCRIPTS[shell]


# --- real shells, at a terminal ---------------------------------------------------------------------------------------------

START = {"bash": ["bash", "--noprofile", "--norc", "-i"], "zsh": ["zsh", "-f", "-i"]}
SETUP = {
    "bash": "source <(pybox completion bash)",
    "zsh": "autoload -Uz compinit && compinit -u -D && source <(pybox completion zsh)",
}


class Terminal:
    """A shell on a terminal of its own."""

    def __init__(self, shell: str, env: dict[str, str]) -> None:
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(START[shell], stdin=slave, stdout=slave, stderr=slave, env=env, start_new_session=True)
        os.close(slave)
        self.screen = ""

    def type(self, text: str, until: str) -> str:
        """Type, and read until a text comes; returns what came."""
        os.write(self.master, text.encode())
        self.screen, limit = "", time.monotonic() + SECONDS
        while until not in self.screen:
            assert time.monotonic() < limit, self.screen
            if select.select([self.master], [], [], 1)[0]:
                self.screen += os.read(self.master, 65536).decode(errors="replace")
        return self.screen

    def close(self) -> None:
        """End it."""
        self.process.kill()
        self.process.wait()
        os.close(self.master)


@pytest.fixture
def env(where: Dirs, tmp_path: Path) -> dict[str, str]:
    """What a shell is started with, that is to find pybox."""
    program = tmp_path / "bin/pybox"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m pybox "$@"\n')
    program.chmod(0o755)
    return {
        "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "TERM": "xterm", "PS1": "$ ", "LANG": "C.UTF-8",
        "PYBOX_STORE": where.store, "PYBOX_STATE": where.state,
    }  # fmt: skip


@pytest.mark.parametrize("shell", START)
def test_a_real_shell_completes(shell: str, env: dict[str, str]) -> None:
    if not shutil.which(shell):
        pytest.skip(f"no {shell} (Debian package {shell})")
    terminal = Terminal(shell, env)
    try:
        terminal.type(f"{SETUP[shell]}; echo rea''dy\n", "ready")
        terminal.type("pybox run --rm --read-o\t", "--read-only")
        terminal.type("\x15echo x; pybox run docker.io/library/tool:\t", "tool:7")
        terminal.type("\x15echo x; pybox run --network=ho\t", "--network=host")
        terminal.type("\x15pybox why E-EXEC-ARCHI\t", "E-EXEC-ARCHITECTURE")
    finally:
        terminal.close()


@pytest.mark.skipif(not shutil.which("zsh"), reason="no zsh (Debian package zsh)")
def test_zsh_finds_what_is_installed(env: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "_pybox").write_text(SCRIPTS["zsh"])
    terminal = Terminal("zsh", env)
    try:
        terminal.type(f"fpath=({tmp_path} $fpath); autoload -Uz compinit && compinit -u -D; echo rea''dy\n", "ready")
        terminal.type("pybox run --rm --read-o\t", "--read-only")
    finally:
        terminal.close()


@pytest.mark.skipif(not shutil.which("fish"), reason="no fish (Debian package fish)")
def test_fish_completes(env: dict[str, str]) -> None:
    asked = ("run --rm --read-o", "run docker.io/library/tool:", "run --network=ho", "why E-EXEC-ARCHI", "completion ")
    script = "pybox completion fish | source; " + "; ".join(f"complete -C 'pybox {words}'" for words in asked)
    done = subprocess.run(
        ["fish", "--no-config", "-c", script], env=env, capture_output=True, text=True, timeout=SECONDS, check=True
    )
    found = [line.partition("\t")[0] for line in done.stdout.splitlines()]
    assert sorted(found) == sorted(
        ["--read-only", "docker.io/library/tool:7", "--network=host", "E-EXEC-ARCHITECTURE", "bash", "fish", "zsh"]
    )
