"""The commands on the concept pages, typed into a shell: what the page says they print is what they print."""

from __future__ import annotations

import doctest
import os
import shlex
import subprocess
from pathlib import Path

import pytest
from harness import PURE_V2, PYBOX, TIMEOUT

from pybox import dirs

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "concepts"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md"))
pytestmark = pytest.mark.skipif(PURE_V2, reason="slow there, and the same commands as on the host")


def commands(page: str) -> list[tuple[str, str]]:
    """Return (command, what it prints) of the indented blocks of a page: a command begins with a dollar sign, as in a doctest."""
    found: list[tuple[str, str]] = []
    for line in (FOLDER / f"{page}.md").read_text().splitlines():
        if line.startswith("    $ "):
            found.append((line[6:], ""))
        elif line.startswith("    ") and found and found[-1][0]:
            found[-1] = (found[-1][0], f"{found[-1][1]}{line[4:]}\n")
        elif line.strip():
            found.append(("", ""))  # a block ends where text begins
    return [pair for pair in found if pair[0]]


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_concept_page_print_what_it_says(store: dirs.Dirs, page: str, tmp_path: Path) -> None:
    shim = tmp_path / "pybox"
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(PYBOX)} "$@"\n')
    shim.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    typed = commands(page)
    assert typed
    for command, expected in typed:
        done = subprocess.run(
            ["sh", "-c", command], env=environment, stdin=subprocess.DEVNULL, timeout=TIMEOUT, check=False,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if "cannot enforce" in done.stdout:
            pytest.skip(done.stdout)
        assert doctest.OutputChecker().check_output(expected, done.stdout, doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE), (
            f"$ {command}\n{done.stdout}"
        )
