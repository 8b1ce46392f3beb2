"""Errors have a code, and blame the cause that this kernel has: each is provoked here as it happens to people."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from harness import PYBOX, TIMEOUT, Images, cli

import pybox

UNSHARE = shutil.which("unshare") or ""


def in_own(namespaces: str, script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script in namespaces of its own, where it may mount and set limits; $PYBOX is the command."""
    return subprocess.run(
        [UNSHARE, *namespaces.split(), "sh", "-ec", script],
        capture_output=True, text=True, timeout=TIMEOUT, stdin=subprocess.DEVNULL, check=False,
        env={**os.environ, "PYBOX": " ".join(PYBOX), **env},
    )  # fmt: skip


def test_the_line_has_the_code_that_why_takes(image: Images) -> None:
    name = image(lambda root: (root / "bin/tool").write_bytes(b"#!/bin/sh\r\n"))
    done = cli("run", "--rm", name, "/bin/tool")
    assert done.returncode == 126 and done.stderr.splitlines()[0].endswith("has no x permission [E-EXEC-NOT-EXECUTABLE]")
    with pytest.raises(pybox.PyboxError) as caught:
        pybox.run(name, ["/bin/tool"])
    error = caught.value
    assert (error.code, error.causes, error.fix) == (
        "E-EXEC-NOT-EXECUTABLE", ("the file has no x permission",), "chmod +x /bin/tool in the image",
    )  # fmt: skip


@pytest.mark.skipif(not UNSHARE, reason="no unshare (Debian package util-linux)")
def test_a_kernel_that_allows_no_more_network_namespaces_is_blamed() -> None:
    script = "echo 0 >/proc/sys/user/max_net_namespaces; exec $PYBOX run --rm busybox true"
    done = in_own("-U --map-root-user", script, PYBOX_STATE=os.environ["PYBOX_STATE"] + "-limited")
    shutil.rmtree(os.environ["PYBOX_STATE"] + "-limited", ignore_errors=True)
    assert done.returncode == 125 and done.stderr.splitlines()[0].endswith("(user.max_*_namespaces is 0) [E-CLONE3-ENOSPC]"), done


@pytest.mark.skipif(not UNSHARE, reason="no unshare (Debian package util-linux)")
def test_why_sees_the_setting_that_forbids_user_namespaces() -> None:
    done = in_own(
        "-U --map-root-user", "echo 0 >/proc/sys/user/max_user_namespaces; exec $PYBOX why --format json E-CLONE3-ENOSPC"
    )
    probed = {cause["cause"]: cause["probed"] for cause in json.loads(done.stdout)["causes"]}
    assert probed == {"no-userns": True, "none-of-a-kind": False}
    done = cli("why", "--format", "json", "E-CLONE3-ENOSPC")
    assert not any(cause["probed"] for cause in json.loads(done.stdout)["causes"])


def test_a_full_disk_is_found_by_why(tmp_path: Path) -> None:
    script = f"mount -t tmpfs -o size=4k,nr_inodes=2 tmpfs {tmp_path}; touch {tmp_path}/x; exec $PYBOX why E-HOST"
    done = in_own("-m", script, PYBOX_STORE=f"{tmp_path}/store")
    assert "probed true: the file system of the store" in done.stdout, done


def test_a_failure_is_json_where_json_was_asked_for() -> None:
    done = cli("explain", "--format", "json", "run", "absent", "true")
    assert done.returncode == 125 and json.loads(done.stderr)["code"] == "E-IMAGE-ABSENT"
