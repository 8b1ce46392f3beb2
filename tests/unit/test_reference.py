"""The command reference is the tables: each command and option is in it, and man(1) can show every page."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pybox.cli import main
from pybox.cli.commands import COMMANDS, Command
from pybox.cli.completion import INSTALLED
from pybox.cli.help import options_of
from pybox.cli.reference import install, markdown, page, pages, roff
from pybox.errors import PyboxError

ROOT = Path(__file__).resolve().parents[2]
SHOWN = [command for command in COMMANDS if command.group]


def test_the_command_reference_is_up_to_date() -> None:
    assert (ROOT / "docs/commands.md").read_text() == markdown(), "make reference"


@pytest.mark.parametrize("command", SHOWN, ids=lambda command: command.name)
def test_each_option_of_a_command_is_in_its_page(command: Command) -> None:
    text = page(command.name)
    assert text.startswith(f'.TH PYBOX\\-{roff(command.name.upper())} 1 "" "pybox ')
    for option in options_of(command):
        assert all(f"\\fB{roff(name)}\\fR" in text for name in option.names) and roff(option.help) in text
    assert f"pybox\\-{roff(command.name)} (1)" in page()


def test_the_options_of_commands_that_argparse_reads_are_in_the_reference() -> None:
    assert {name for command in SHOWN if command.name == "save" for option in options_of(command) for name in option.names} >= {
        "-o", "--output", "--format",
    }  # fmt: skip
    assert r"| `--format` `docker-archive\|oci\|" in markdown()


@pytest.mark.parametrize(
    ("text", "wanted"), [("-a --b", r"\-a \-\-b"), (".x", r"\&.x"), ("'x", r"\&'x"), ("a\\b", r"a\eb"), ("`x`", r"\(gax\(ga")]
)
def test_nothing_in_a_text_is_taken_for_a_request(text: str, wanted: str) -> None:
    assert roff(text) == wanted


@pytest.mark.skipif(not shutil.which("groff"), reason="no groff (Debian package groff-base, which man-db brings)")
def test_every_page_is_shown_without_a_warning(tmp_path: Path) -> None:
    install(str(tmp_path))
    files = sorted(str(path) for path in (tmp_path / "man/man1").iterdir())
    assert len(files) == len(SHOWN) + 1
    done = subprocess.run(["groff", "-man", "-ww", "-Kutf8", "-Tutf8", *files], capture_output=True, text=True, check=True)
    shown = re.sub(".\b", "", done.stdout)  # bold is a letter, back, and the letter again
    assert done.stderr == "" and "E-EXEC-CRLF" in shown and "--cap-add CAP" in shown


def test_help_prints_a_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.dispatch(["help", "--man", "run"]) == 0
    assert capsys.readouterr().out == page("run")
    assert main.dispatch(["help", "--man"]) == 0
    assert capsys.readouterr().out == page() == pages()["pybox.1"]
    with pytest.raises(PyboxError, match="no such command: nope"):
        main.dispatch(["help", "--man", "nope"])


def test_uninstall_removes_what_install_brings(tmp_path: Path) -> None:
    share = tmp_path / "usr/local/share"
    install(str(share))
    assert {name for name in INSTALLED.values() if (share / name).is_file()} == set(INSTALLED.values())
    subprocess.run(["make", "-s", "-C", ROOT, "uninstall", f"DESTDIR={tmp_path}"], check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert "reference import install; install(" in (ROOT / "Makefile").read_text()
