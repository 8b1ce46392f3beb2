"""What the kernel shows of mounts is read field by field, whatever a container has called them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from pybox import host
from pybox.seen import Seen, mounts

LINE = r"36 35 98:0 /mnt1\040x /mnt\134040\011\0122 rw,noatime master:1 shared:7 - ext3 /dev/root rw,errors=continue" "\n"


def test_a_line_has_its_fields_and_its_paths_as_they_are() -> None:
    (mount,) = mounts(LINE)
    assert (mount.number, mount.device, mount.root, mount.target) == ("36", "98:0", "/mnt1 x", "/mnt\\040\t\n2")
    assert (mount.fstype, mount.source, mount.peers, mount.shared) == ("ext3", "/dev/root", ("master:1", "shared:7"), True)
    assert (mount.options, mount.super_options) == ({"rw", "noatime"}, {"rw", "errors=continue"})


def test_a_mount_without_peers_or_source_is_read_too() -> None:
    (mount,) = mounts("1 1 0:1 / / rw - tmpfs  rw\n")
    assert (mount.peers, mount.shared, mount.source) == ((), False, "")
    assert mounts("") == []


def test_a_name_with_other_ends_of_lines_in_it_is_one_name() -> None:
    """The kernel escapes the newline alone; Python's splitlines() knows nine more."""
    name = "/a\x0b\x0c\x1c\x85\u2028\udcffb"
    assert [mount.target for mount in mounts(f"1 1 0:1 / {name} rw - tmpfs none rw\n" * 2)] == [name] * 2


def test_our_own_are_all_read() -> None:
    assert len(Seen(os.getpid()).mounts()) == Path("/proc/self/mountinfo").read_bytes().count(b"\n")


@pytest.mark.parametrize("odd", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r"])
def test_a_mount_of_any_name_does_not_keep_pybox_from_the_control_groups(monkeypatch: pytest.MonkeyPatch, odd: str) -> None:
    files = {
        "/proc/self/cgroup": f"0::/a{odd}b\n",
        "/proc/self/mountinfo": f"9 1 0:9 / /srv/x{odd} rw - tmpfs none rw\n10 1 0:10 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n",
        "/sys/fs/cgroup/cgroup.controllers": "cpu memory\n",
    }
    monkeypatch.setattr(host, "read", lambda path, default="": files.get(path, default))
    assert host.probe_cgroups(root_user=True).unified == "/sys/fs/cgroup"
    assert host.top_entries()
