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
    "version bundle _native",
    "record",
    "errors fastjson paths",
    "units dirs times shown whole page",
    "netspec spec host",
    "specjson",
    "text seen native result kept logs bill loop",
    "lowering",
    "image",
    "registry",
    "network",
    "kernel.inputs users system hpc",
    "steps",
    "ready",
    "kernel",
    "plan",
    "planner",
    "probes causes codes failures state supervise undo burial",
    "health listing",
    "live watch contrast",
    "views",
    "inspection",
    "files",
    "volumes",
    "runtime plans",
    "api console joining entering monitor",
    "containerfile",
    "process",
    "aio testing",
    "jobs",
    "executor",
    "batch",
    "lifecycle",
    "boot",
    "checking",
    "doctor",
    "explain",
    "learn",
    "cli",
    "",  # pybox/__init__.py, which imports what is asked of it
)

# All that a foreground `pybox run` loads beside what the interpreter brings, when its command line was typed before ...
AGAIN_IMPORTS = """
    _cffi_backend _imp _signal _thread fcntl marshal posix select time
    pybox pybox._native pybox._native.lib pybox.bill pybox.bundle pybox.cli pybox.cli.foreground pybox.cli.forwarding pybox.cli.main pybox.dirs pybox.errors pybox.fastjson pybox.host
    pybox.native pybox.paths pybox.plans pybox.ready pybox.record pybox.result pybox.runtime pybox.state pybox.steps pybox.steps.base
    pybox.steps.claim pybox.steps.network pybox.supervise pybox.version
    """.split()

# ... and what beside that when it has to be planned. A new name in either is paid by every start.
RUN_IMPORTS = """
    _json _operator _posixsubprocess _struct pybox.cli.commands pybox.cli.options pybox.cli.run pybox.image pybox.image.model
    pybox.image.reference pybox.image.store pybox.kernel pybox.kernel.cgroup pybox.kernel.command pybox.kernel.credentials
    pybox.kernel.inputs pybox.kernel.namespaces pybox.kernel.rootfs pybox.kernel.seccomp pybox.lowering pybox.plan pybox.planner pybox.spec
    pybox.specjson pybox.steps.hostside pybox.steps.mounts pybox.steps.places pybox.steps.process pybox.steps.rights pybox.text pybox.units pybox.users
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


def test_progress_of_a_pull_and_of_a_batch_are_the_only_users_of_rich() -> None:
    users = [module_name(path) for path in sorted(ROOT.rglob("*.py")) if "from rich" in path.read_text()]
    assert users == ["batch.progress", "cli.progress"]


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


def test_the_pytest_plugin_costs_nothing_until_a_test_asks_for_a_box() -> None:
    loaded = {name for name in loaded_by("import pytest, pybox.testing") if name.partition(".")[0] == "pybox"}
    assert loaded == {"pybox", "pybox.version", "pybox.testing"}


OF_THE_LIBRARY = {"__future__"}
OF_OS = {"os", "stat", "_stat", "posixpath", "genericpath", "os.path", "_collections_abc", "abc"}  # see paths.py


def test_run_imports_what_the_list_says_and_nothing_more() -> None:
    loaded = loaded_by(
        "import pybox.cli.main, pybox.cli.foreground, pybox.cli.commands, pybox.cli.run, pybox.planner, pybox.kernel.rootfs"
    )
    assert loaded - OF_THE_LIBRARY - OF_OS - set(RUN_IMPORTS) - set(AGAIN_IMPORTS) == set()


def test_a_run_that_was_typed_before_imports_what_its_list_says_and_nothing_more() -> None:
    loaded = loaded_by("import pybox.cli.main, pybox.cli.foreground, pybox.steps.claim, pybox.steps.network")
    assert loaded - OF_THE_LIBRARY - set(AGAIN_IMPORTS) == set()


def test_exec_does_without_os() -> None:
    assert not loaded_by("import pybox.cli.main, pybox.cli.exec") & OF_OS - {"abc"}


def test_ps_loads_neither_a_parser_nor_json() -> None:
    assert not loaded_by("import pybox.cli.main, pybox.cli.containers") & {"argparse", "json", "re", "typing"}


def test_explain_does_not_load_what_it_needs_for_code_and_json_only() -> None:
    assert not loaded_by("import pybox.cli.main, pybox.cli.explain") & {
        "inspect",
        "json",
        "pybox.explain.analysis",
        "pybox.explain.byhand",
    }


def test_no_file_has_outgrown_one_sitting() -> None:
    long = {str(path): lines for path in ROOT.rglob("*.py") if (lines := len(path.read_text().splitlines())) > 400}
    long |= {str(path): n for path in (ROOT.parent / "csrc").glob("*.[ch]") if (n := len(path.read_text().splitlines())) > 300}
    # tables of names and numbers are for looking things up in, not for reading
    assert {path: lines for path, lines in long.items() if not path.endswith("kernel/syscalls.py")} == {}
