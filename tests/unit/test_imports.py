"""The shape of the code: imports point one way, and the way of `run` stays light."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2] / "pybox"

# From the bottom up: a module may import from its own row and from those above it, never from below.
LAYERS = (
    "version _native",
    "record",
    "errors fastjson",
    "units dirs times",
    "spec host",
    "specjson",
    "text seen native result kept logs",
    "image",
    "kernel.inputs users system",
    "steps",
    "kernel",
    "plan",
    "planner",
    "failures state supervise undo burial",
    "health listing",
    "live watch contrast",
    "views",
    "inspection",
    "files",
    "runtime",
    "api console joining entering monitor",
    "process",
    "aio",
    "jobs",
    "lifecycle",
    "checking",
    "doctor",
    "cli",
    "",  # pybox/__init__.py, which imports what is asked of it
)

# All that a foreground `pybox run` loads beside what the interpreter brings. A new name here is paid by every start.
RUN_IMPORTS = """
    _cffi_backend _json _operator _posixsubprocess _signal _struct _thread errno fcntl posix select time
    pybox pybox._native pybox._native.lib pybox.cli pybox.cli.commands pybox.cli.main pybox.cli.options pybox.cli.run pybox.dirs pybox.errors
    pybox.failures pybox.fastjson pybox.host pybox.image pybox.image.model pybox.image.reference pybox.image.store pybox.kernel
    pybox.kernel.cgroup pybox.kernel.command pybox.kernel.credentials pybox.kernel.inputs pybox.kernel.namespaces
    pybox.kernel.rootfs pybox.kernel.seccomp pybox.native pybox.plan pybox.planner pybox.record pybox.result pybox.runtime pybox.spec
    pybox.specjson pybox.state pybox.steps pybox.steps.base pybox.steps.hostside pybox.steps.mounts pybox.steps.network pybox.steps.places pybox.steps.process pybox.steps.rights
    pybox.supervise pybox.text pybox.undo pybox.units pybox.users pybox.version
    """.split()


def module_name(path: Path) -> str:
    """Return the dotted name below pybox."""
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] in ("__init__", "__main__") else parts)


def layer(module: str) -> int:
    """Return the row of a module: its own, or its package's."""
    rows = [row.split() or [""] for row in LAYERS]
    for name in (module, module.partition(".")[0]):
        for number, row in enumerate(rows):
            if name in row:
                return number
    raise AssertionError(f"pybox.{module} is in no layer: put it into LAYERS")


def imports_of(path: Path) -> set[str]:
    """Return the pybox modules that a file imports at run time, anywhere in it."""
    tree = ast.parse(path.read_text())
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for statement in block.body
        for node in ast.walk(statement)
    }
    found = set()
    for node in ast.walk(tree):
        if node in typing_only:
            continue
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "pybox":
            base = node.module.removeprefix("pybox").removeprefix(".")
            for alias in node.names:
                name = f"{base}.{alias.name}" if base else alias.name
                file = ROOT / Path(*name.split("."))
                is_module = file.is_dir() or any(file.with_suffix(end).exists() for end in (".py", ".pyi"))
                found.add(name if is_module else base)
        elif isinstance(node, ast.Import):
            found.update(alias.name.removeprefix("pybox.") for alias in node.names if alias.name.startswith("pybox."))
    return found


def test_imports_point_one_way() -> None:
    wrong = []
    for path in sorted(ROOT.rglob("*.py")):
        module = module_name(path)
        if path.name == "__main__.py":
            continue
        wrong += [f"pybox.{module} imports pybox.{other}" for other in imports_of(path) if layer(other) > layer(module)]
    assert wrong == []


def test_only_native_imports_the_extension() -> None:
    importers = [module_name(path) for path in sorted(ROOT.rglob("*.py")) if "_native" in imports_of(path)]
    assert importers == ["native"]


def test_only_the_command_line_prints_or_exits() -> None:
    guilty = []
    for path in sorted(ROOT.rglob("*.py")):
        if path.is_relative_to(ROOT / "cli"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called in ("print", "sys.exit", "exit"):
                    guilty.append(f"{path.relative_to(ROOT)}:{node.lineno} {called}")
    assert guilty == []


def loaded_by(code: str) -> set[str]:
    """Return the modules that a bare interpreter has loaded after some code, beside those it starts with."""
    listing = "import sys; print(*sorted(set(sys.modules) - before))"
    program = f"import sys; before = set(sys.modules); sys.path.insert(0, {str(ROOT.parent)!r})\n{code}\n{listing}"
    path = os.pathsep.join(entry for entry in sys.path if entry.endswith("site-packages"))
    program = f"import sys; sys.path += {path.split(os.pathsep)!r}\n" + program
    done = subprocess.run([sys.executable, "-I", "-S", "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_pybox_imports_nothing_else() -> None:
    assert loaded_by("import pybox") <= {"pybox", "pybox.version", "__future__"}


def test_run_imports_what_the_list_says_and_nothing_more() -> None:
    loaded = loaded_by("import pybox.cli.main, pybox.cli.commands, pybox.cli.run")
    allowed = set(RUN_IMPORTS) | {
        "__future__",
        "os",
        "stat",
        "_stat",
        "posixpath",
        "genericpath",
        "os.path",
        "_collections_abc",
        "abc",
    }
    assert loaded - allowed == set()


def test_no_file_has_outgrown_one_sitting() -> None:
    long = {str(path): lines for path in ROOT.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    long |= {str(path): n for path in (ROOT.parent / "csrc").glob("*.[ch]") if (n := len(path.read_text().splitlines())) > 300}
    # tables of names and numbers are for looking things up in, not for reading
    assert {path: lines for path, lines in long.items() if not path.endswith("kernel/syscalls.py")} == {}
