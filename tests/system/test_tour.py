"""docs/tour.ipynb runs top to bottom, as it would for who opens it."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
from pathlib import Path

import pytest
from harness import CONTROLLERS

NOTEBOOK = Path(__file__).resolve().parents[2] / "docs/tour.ipynb"


@pytest.mark.skipif(not {"memory", "pids"} <= CONTROLLERS, reason="no memory or pids controller")
def test_every_cell_of_the_notebook_runs(capsys: pytest.CaptureFixture[str]) -> None:
    document = json.loads(NOTEBOOK.read_text())
    assert (document["nbformat"], document["metadata"]["language_info"]["name"]) == (4, "python")
    cells = ["".join(cell["source"]) for cell in document["cells"] if cell["cell_type"] == "code"]
    names: dict[str, object] = {"__name__": "__main__"}
    for number, cell in enumerate(cells):
        code = compile(cell, f"cell {number}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)
        found = eval(code, names)
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(found)
        assert capsys.readouterr().out.strip(), f"cell {number} has nothing to show"


def test_the_notebook_is_kept_without_what_it_showed_somewhere() -> None:
    cells = json.loads(NOTEBOOK.read_text())["cells"]
    assert [cell["id"] for cell in cells if cell.get("outputs") or cell.get("execution_count")] == []
    assert len({cell["id"] for cell in cells}) == len(cells)
