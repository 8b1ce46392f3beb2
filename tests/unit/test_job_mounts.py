"""A Job keeps its mounts, whatever kind they are, and survives JSON with them."""

from __future__ import annotations

import json

import pytest

from pybox.errors import SpecError
from pybox.jobs.job import Job
from pybox.spec import Mount, Rlimit

MOUNTS = [
    "/srv:/srv:ro",
    Mount("/bound", source="/tmp", read_only=True),
    Mount("/fresh", size=1 << 20, mode=0o700),
    Mount("/other", image="tool:2", read_only=True),
]


def test_a_job_keeps_mounts_of_each_kind() -> None:
    job = Job("tool", ["true"], mounts=MOUNTS, ulimits=[Rlimit("nofile", 10, 20)])
    assert job.spec().mounts == (Mount("/srv", source="/srv", read_only=True), *MOUNTS[1:])
    again = Job.from_json(json.loads(json.dumps(job.to_json())))
    assert (again.spec(), again.key()) == (job.spec(), job.key())


def test_a_job_that_runs_again_gets_another_volume_without_a_name() -> None:
    job = Job("tool", mounts=["/data"])
    first, second = (job.spec().mounts[0] for _ in range(2))
    assert first.anonymous and second.anonymous and first.source != second.source and first.target == second.target == "/data"


def test_a_mount_that_is_none_is_named() -> None:
    with pytest.raises(SpecError, match="a field is of the wrong type"):
        Job.from_json({"image": "tool", "mounts": [{"target": "/x", "colour": "red"}]})
