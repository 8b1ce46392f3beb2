"""The interpreter of an installed pybox: as isolated as PYTHON -I -S, with all of its codecs, of which it loads one."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from pybox.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
BASE = os.path.realpath(sys.executable)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter as `make install` writes it."""
    library = tmp_path_factory.mktemp("library")
    (binding,) = Path(sysconfig.get_path("platlib")).glob("_cffi_backend.*")
    for path in (ROOT / "pybox", binding):
        (library / path.name).symlink_to(path)
    subprocess.run([BASE, "-IS", ROOT / ".ci/interpreter", library, library], check=True)
    return f"{library}/interpreter/python"


def said(python: str, code: str, **environment: str) -> str:
    """Return what some code prints."""
    done = subprocess.run([python, "-IS", "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_it_starts_without_the_table_of_all_codecs(python: str) -> None:
    show = "import sys; print('encodings.aliases' in sys.modules, sys.stdout.encoding, '\u00fc'.encode().decode())"
    assert said(python, show, LC_ALL="C.UTF-8") == "False utf-8 \u00fc"
    assert said(BASE, show, LC_ALL="C.UTF-8") == "True utf-8 \u00fc"


def test_its_path_is_its_own_directory_and_then_that_of_the_interpreter_alone(python: str) -> None:
    show = "import os, sys; print([path for path in sys.path if os.path.isdir(path)], sys.flags.isolated, sys.flags.no_site)"
    own = os.path.dirname(python)
    plain = said(BASE, show)
    assert said(python, show, PYTHONPATH="/tmp", PYTHONHOME="/tmp") == plain.replace("[", f"['{own}', ")


@pytest.mark.parametrize(
    "code",
    [
        "print('\\xe9'.encode('latin-1'), '\\xfc.de'.encode('idna'), b'a'.decode('cp1252'))",
        "import encodings; print(encodings.normalize_encoding('a b'), hasattr(encodings, 'nothing'))",
        "import encodings.aliases as a; print(a.aliases['latin1'])",
        "import codecs; print(codecs.lookup('UTF8').name, codecs.lookup('U8').name, codecs.lookup('utf-8-sig').name)",
        "import encodings.utf_8, encodings.idna; print(encodings.utf_8.getregentry().name)",
    ],
)
def test_every_codec_is_there_when_it_is_asked_for(python: str, code: str) -> None:
    assert said(python, code) == said(BASE, code)


def test_a_codec_that_nobody_knows_is_unknown(python: str) -> None:
    code = "try: ''.encode('nobody')\nexcept LookupError as error: print(error)"
    assert said(python, code) == said(BASE, code) == "unknown encoding: nobody"


@pytest.mark.parametrize("starter", ["the installed interpreter", "any other"])
def test_the_launcher_starts_pybox_by_it_and_by_another_without_it(python: str, tmp_path: Path, starter: str) -> None:
    library = python.removesuffix("/interpreter/python")
    launcher = tmp_path / "pybox"
    launcher.write_bytes(subprocess.run([ROOT / ".ci/launcher", BASE, library, library], capture_output=True, check=True).stdout)
    launcher.chmod(0o755)
    assert launcher.read_text().startswith(f"#!{python} -IScimport start\n")
    words = [launcher] if starter == "the installed interpreter" else [BASE, "-IS", launcher]
    done = subprocess.run([*words, "version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"pybox version {VERSION}\n"


def test_a_python_that_reads_no_path_file_is_started_without_it(tmp_path: Path) -> None:
    (tmp_path / "interpreter").mkdir()
    (tmp_path / "interpreter/python").symlink_to(BASE)
    done = subprocess.run([ROOT / ".ci/launcher", BASE, "/l", tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"#!{BASE} -IS\n")


@pytest.mark.parametrize("module", ["ssl", "json", "asyncio", "urllib.request", "tomllib", "sqlite3"])
def test_the_standard_library_is_found(python: str, module: str) -> None:
    assert said(python, f"import {module}; print('ok')") == "ok"
