"""A container sees itself and nothing else; what is shared is shared because it was asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from harness import Images, running, said, shell

import pybox
from pybox.spec import Mount, Spec

KINDS = ("mnt", "pid", "uts", "ipc", "net", "cgroup")


def spec(*args: str, **fields: object) -> Spec:
    return Spec("busybox", args, **fields)  # type: ignore[arg-type]


# --- namespaces --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", [True, False])
def test_namespaces_are_its_own(init: bool) -> None:
    with running(spec("sleep", "1000", init=init)) as (seen, _, _):
        assert {kind for kind in (*KINDS, "user") if seen.private(kind)} == set(KINDS)


def test_a_namespace_given_by_userns_is_its_own_too() -> None:
    with running(spec("sleep", "1000", userns=True)) as (seen, _, _):
        assert all(seen.private(kind) for kind in (*KINDS, "user"))


@pytest.mark.parametrize(("field", "kind"), [("network", "net"), ("pid", "pid"), ("ipc", "ipc"), ("uts", "uts")])
def test_host_really_shares_that_namespace_and_no_other(field: str, kind: str) -> None:
    with running(spec("sleep", "1000", **{field: "host"})) as (seen, _, _):
        assert {each for each in KINDS if not seen.private(each)} == {kind}


def test_it_sees_only_its_own_processes() -> None:
    assert said(shell("echo /proc/[0-9]*")).split() == ["/proc/1", "/proc/2"]  # pybox-init and the shell
    assert said(shell("echo /proc/[0-9]*", init=False)).split() == ["/proc/1"]


def test_pid_host_shows_the_hosts_processes() -> None:
    assert said(shell(f"ls -d /proc/{os.getpid()}; cat /proc/{os.getpid()}/comm", pid="host")).splitlines() == [
        f"/proc/{os.getpid()}",
        Path("/proc/self/comm").read_text().strip(),
    ]


def test_with_pid_host_no_process_of_it_survives_its_command() -> None:
    left = said(shell("sleep 1000 >/dev/null 2>&1 & echo $!", pid="host"))
    assert not os.path.exists(f"/proc/{left}/exe")  # gone, or a zombie


def test_the_host_keeps_its_name() -> None:
    name = os.uname().nodename
    assert said(shell("hostname; cat /etc/hostname; echo $HOSTNAME", hostname="box.example")).split() == ["box.example"] * 3
    assert os.uname().nodename == name


def test_the_hostname_is_the_containers_id_by_default() -> None:
    result = shell("hostname; echo $HOSTNAME; cat /etc/hostname")
    assert said(result).split() == [result.id] * 3


def test_a_shared_uts_namespace_has_the_hosts_name() -> None:
    assert said(shell("hostname", uts="host")) == os.uname().nodename


def test_ipc_objects_are_not_shared() -> None:
    assert "0x" not in said(shell("ipcs -q | grep 0x; ipcs -m | grep 0x; ls -A /dev/shm /dev/mqueue")).replace("/dev", "")


def test_a_shared_ipc_namespace_has_the_hosts_shm() -> None:
    path = Path("/dev/shm/pybox-test-ipc")
    path.write_text("shared")
    try:
        assert said(shell(f"cat {path}", ipc="host")) == "shared"
        assert shell(f"cat {path}").exit_code == 1
    finally:
        path.unlink()


# --- network -----------------------------------------------------------------------------------------------------------------


def test_the_network_is_a_loopback_that_is_up_and_nothing_else() -> None:
    assert said(shell("ls /sys/class/net; cat /proc/net/route | wc -l; ping -c 1 127.0.0.1 >/dev/null || nc -z 127.0.0.1 1; "
                      "ifconfig lo | grep -c 'UP LOOPBACK RUNNING'")).split() == ["lo", "1", "1"]  # fmt: skip


def test_loopback_carries_data() -> None:
    script = "nc -l -p 99 -e echo hello & while ! nc 127.0.0.1 99 </dev/null 2>/dev/null; do sleep 0.1; done"
    assert said(shell(script)) == "hello"


def test_network_host_shows_the_hosts_interfaces() -> None:
    theirs = said(shell("tail -n +3 /proc/net/dev | cut -d: -f1", network="host")).split()
    ours = [line.partition(":")[0].strip() for line in Path("/proc/net/dev").read_text().splitlines()[2:]]
    assert sorted(theirs) == sorted(ours)


def test_network_host_has_the_hosts_resolv_conf_and_cannot_be_confused_with_none() -> None:
    assert said(shell("cat /etc/resolv.conf", network="host")) == Path("/etc/resolv.conf").read_text().rstrip("\n")
    assert said(shell("cat /etc/resolv.conf")).startswith("#")


def test_hosts_has_localhost_and_the_container() -> None:
    rows = [line.split() for line in said(shell("cat /etc/hosts", hostname="mybox")).splitlines()]
    assert rows == [["127.0.0.1", "localhost", "mybox"], ["::1", "localhost", "ip6-localhost", "ip6-loopback", "mybox"]]


# --- files -------------------------------------------------------------------------------------------------------------------


def test_the_mount_list_is_the_containers_only() -> None:
    targets = [line.split()[4] for line in said(shell("cat /proc/self/mountinfo")).splitlines()]
    expected = {"/", "/dev", "/dev/mqueue", "/dev/pts", "/dev/shm", "/proc", "/sys"}
    assert expected <= set(targets)
    expected |= {"/etc/hostname", "/etc/hosts", "/etc/resolv.conf", "/sys/fs/cgroup"}
    assert all(target.startswith(("/proc/", "/sys/")) for target in set(targets) - expected)
    assert len(set(targets)) == len(targets), "something is mounted twice on one place"


def test_the_mount_list_tells_nothing_of_the_hosts_paths(work: Path) -> None:
    assert str(work) not in said(shell("cat /proc/self/mountinfo /proc/mounts"))


def test_no_mount_propagates_in_or_out() -> None:
    assert "shared:" not in said(shell("cat /proc/self/mountinfo"))


def test_dev_has_the_usual_nodes_and_no_other() -> None:
    listing = said(shell("cd /dev; for f in *; do stat -c '%n %F %t:%T %a' $f; done"))
    found = {line.split()[0]: line for line in listing.splitlines()}
    nodes = {"null": "1:3", "zero": "1:5", "full": "1:7", "random": "1:8", "urandom": "1:9", "tty": "5:0"}
    for name, numbers in nodes.items():
        assert found.pop(name) == f"{name} character special file {numbers} 666"
    assert sorted(found) == ["fd", "mqueue", "ptmx", "pts", "shm", "stderr", "stdin", "stdout"]
    assert said(shell("cd /dev; for f in fd ptmx stdin stdout stderr; do readlink $f; done")).split() == [
        "/proc/self/fd", "pts/ptmx", "fd/0", "fd/1", "fd/2",
    ]  # fmt: skip


def test_dev_works() -> None:
    assert said(shell("echo x >/dev/null && head -c 3 /dev/zero | od -An -tx1 && head -c 9 /dev/urandom | wc -c")).split() == [
        "00", "00", "00", "9",
    ]  # fmt: skip
    assert "No space left" in (shell("echo x >/dev/full").stderr or b"").decode()


def test_shm_is_a_world_writable_tmpfs_of_64_mib() -> None:
    assert said(shell("stat -c %a /dev/shm; df -k /dev/shm | tail -1 | awk '{print $2}'")).split() == ["1777", "65536"]


def test_device_nodes_cannot_be_made() -> None:
    assert "Operation not permitted" in (shell("mknod /tmp/sda b 8 0").stderr or b"").decode()


def test_devices_of_the_image_do_not_work(image: Images) -> None:
    name = image(lambda root: os.mknod(root / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3)))
    result = pybox.run(name, ["sh", "-c", "echo x >/null"])
    assert result.exit_code != 0 and b"Permission denied" in (result.stderr or b"")


def test_masked_files_are_empty_and_masked_directories_too() -> None:
    from pybox.host import probe

    masked = probe().masked
    assert masked
    for path, directory in masked:
        assert said(shell(f"ls -A {path}" if directory else f"cat {path}")) == "", path


def test_kernel_settings_are_not_writable() -> None:
    for path in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness", "/proc/sysrq-trigger"):
        if os.path.exists(path):
            before = Path(path).read_text() if "sysrq" not in path else ""
            assert b"Read-only file system" in (shell(f"echo x >{path}").stderr or b""), path
            assert before == (Path(path).read_text() if "sysrq" not in path else "")


def test_sys_is_read_only_and_cannot_be_remounted() -> None:
    mounts = said(shell("grep ' /sys ' /proc/mounts"))
    assert mounts.split()[3].startswith("ro,")
    assert b"Read-only file system" in (shell("mkdir /sys/fs/cgroup/x || echo 1 >/sys/kernel/profiling").stderr or b"")
    assert shell("mount -o remount,rw /sys").exit_code != 0


def test_the_image_is_not_changed_by_what_a_container_writes() -> None:
    assert said(shell("echo changed >/etc/passwd; rm /bin/ls; echo new >/new; cat /new")) == "new"
    assert said(shell("ls /new 2>&1; head -1 /etc/passwd")).endswith("root:x:0:0:root:/root:/bin/sh")


def test_the_hosts_root_is_a_read_only_layer_under_the_host_image() -> None:
    canary = Path("/etc/pybox-test-canary")
    result = pybox.run("host", ["sh", "-c", f"echo x >{canary} && cat {canary} && test -e /etc/passwd"])
    assert said(result) == "x"
    assert not canary.exists()


def test_read_only_makes_the_root_read_only_and_leaves_dev_and_tmpfs() -> None:
    result = shell("touch /x; touch /etc/x; touch /tmp/ok /dev/shm/ok && echo x >/dev/null && echo fine",
                   read_only=True, mounts=[Mount("/tmp")])  # fmt: skip
    assert said(result) == "fine"
    assert (result.stderr or b"").count(b"Read-only file system") == 2


def test_the_root_cannot_be_made_writable_again() -> None:
    assert b"denied" in (shell("mount -o remount,rw /", read_only=True).stderr or b"")
