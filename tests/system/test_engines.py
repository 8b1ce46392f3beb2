"""What docs/engines.md says of other people's engines, done: their workers are started through `pybox run --hpc`."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest
from harness import PURE_V2, PYBOX, eventually

import pybox

submitit = pytest.importorskip("submitit", reason="submitit is not installed: pip install submitit", exc_type=ImportError)

pytestmark = pytest.mark.skipif(PURE_V2, reason="User Mode Linux takes ten seconds to start a worker")


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    """submitit's own, whose workers' python runs in containers of the image host: with the tests' packages, read-only."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(Path(__file__).parent), str(Path(pybox.__file__).parent.parent))))
    places = {sys.prefix, sys.base_prefix, str(Path(pybox.__file__).parent.parent)} - {"/usr"}
    binds = [word for place in sorted(places) for word in ("-v", f"{place}:{place}:ro")]
    return submitit.LocalExecutor(tmp_path / "jobs", python=shlex.join([*PYBOX, "run", "--hpc", *binds, "host", sys.executable]))


def where() -> tuple[str, str, str]:
    """Return the mount namespace, the host name and the working directory of who calls."""
    return os.readlink("/proc/self/ns/mnt"), os.uname().nodename, os.getcwd()


def refuse(word: str) -> None:
    """Raise."""
    raise ValueError(word)


def test_submitit_runs_its_jobs_in_containers(executor: object, tmp_path: Path) -> None:
    jobs = [executor.submit(where), executor.submit(refuse, "no")]  # type: ignore[attr-defined]
    mine, failure = jobs[0].result(), jobs[1].exception()
    assert mine[0] != where()[0] and mine[1:] == (os.uname().nodename, str(tmp_path))
    assert "ValueError: no" in str(failure)
    assert eventually(lambda: all(job.get_info()["jobState"] == "FINISHED" for job in jobs))
