"""A container sees itself and nothing else; what is shared is shared because it was asked for."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pybox
import pytest
from harness import DEFAULT_CAPS, Images, cli, inside, running, said, shell

from pybox.spec import Spec

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
                   read_only=True, mounts=[pybox_tmpfs("/tmp")])  # fmt: skip
    assert said(result) == "fine"
    assert (result.stderr or b"").count(b"Read-only file system") == 2


def pybox_tmpfs(target: str, **fields: object) -> object:
    from pybox.spec import Mount

    return Mount(target, **fields)  # type: ignore[arg-type]


def test_the_root_cannot_be_made_writable_again() -> None:
    assert b"denied" in (shell("mount -o remount,rw /", read_only=True).stderr or b"")


# --- volumes -----------------------------------------------------------------------------------------------------------------


def test_a_volume_shows_the_hosts_directory_and_keeps_what_is_written(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("from the host")
    assert said(shell("cat /data/in; echo back >/data/out", mounts={str(tmp_path): "/data"})) == "from the host"
    assert (tmp_path / "out").read_text() == "back\n"


def test_a_read_only_volume_is_read_only_all_the_way_down(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    result = shell("touch /data/x; touch /data/sub/x; mount -o remount,rw /data", mounts=[f"{tmp_path}:/data:ro"])
    assert (result.stderr or b"").count(b"Read-only file system") == 2 and result.exit_code != 0
    assert sorted(os.listdir(tmp_path)) == ["sub"]


def test_a_single_file_can_be_a_volume(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("text")
    assert said(shell("cat /etc/app.conf; echo more >>/etc/app.conf", mounts={str(tmp_path / "f"): "/etc/app.conf"})) == "text"
    assert (tmp_path / "f").read_text() == "textmore\n"


def test_volumes_nest_in_any_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "name").write_text(name)
    for mounts in ([f"{tmp_path}/a:/v", f"{tmp_path}/b:/v/in"], [f"{tmp_path}/b:/v/in", f"{tmp_path}/a:/v"]):
        assert said(shell("cat /v/name /v/in/name", mounts=mounts)) == "ab"
    assert (tmp_path / "a/in").is_dir()  # as in docker: the mount point is made in the outer volume


def test_a_volume_over_a_symlink_of_the_image_stays_inside(image: Images, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "vol").mkdir()
    (tmp_path / "vol/f").write_text("volume")
    for target in (str(outside), f"../../../../../../..{outside}", "/var"):
        name = image(lambda root, to=target: (root / "data").symlink_to(to))  # type: ignore[misc]
        result = pybox.run(name, ["sh", "-c", "cat /data/f; touch /data/x"], mounts={str(tmp_path / "vol"): "/data"})
        assert said(result) == "volume"
        assert not os.listdir(outside)


def test_a_dangling_symlink_of_the_image_is_no_hindrance(image: Images) -> None:
    """systemd-resolved makes /etc/resolv.conf one: such an image, and the host image on such a host, must run."""

    def dangle(root: Path) -> None:
        (root / "etc/resolv.conf").unlink()
        (root / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")

    assert said(pybox.run(image(dangle), ["cat", "/etc/resolv.conf"])).startswith("#")


def test_set_user_id_programs_and_devices_of_a_volume_do_not_work(tmp_path: Path, tree: Path) -> None:
    import shutil

    tmp_path.chmod(0o755)
    shutil.copy(tree / "bin/inside", tmp_path / "suid")
    (tmp_path / "suid").chmod(0o4755)
    os.mknod(tmp_path / "null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))
    result = shell("/v/suid ids; cat /v/null", user="alice", mounts={str(tmp_path): "/v"}, no_new_privs=False)
    assert (result.stdout or b"").startswith(b"1000 1000 1000 /")
    assert b"Permission denied" in (result.stderr or b"")


def test_a_missing_source_is_refused_and_not_made(tmp_path: Path) -> None:
    done = cli("run", "--rm", "-v", f"{tmp_path}/missing:/x", "busybox", "true")
    assert (
        done.returncode == 125
        and "No such file or directory on the host" in done.stderr
        and "hint: create it first" in done.stderr
    )
    assert os.listdir(tmp_path) == []


def test_tmpfs_has_its_size_and_mode() -> None:
    done = cli("run", "--rm", "--tmpfs", "/t:size=1m,mode=700", "busybox", "sh", "-c",
               "stat -c %a /t; df -k /t | tail -1 | awk '{print $2}'; dd if=/dev/zero of=/t/f bs=64k count=32 2>&1 | grep -o 'No space.*'")  # fmt: skip
    assert done.stdout.split("\n")[:3] == ["700", "1024", "No space left on device"]


def test_tmpfs_is_noexec_unless_asked() -> None:
    script = "cp /bin/busybox /t/ && /t/busybox echo ran"
    assert b"Permission denied" in (shell(script, mounts=[pybox_tmpfs("/t")]).stderr or b"")
    assert said(shell(script, mounts=[pybox_tmpfs("/t", exec=True)])) == "ran"


# --- the command's surroundings ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("user", "expected"),
    [
        ("", "0 0 0 / 0 0 0 /"),
        ("alice", "1000 1000 1000 / 1000 1000 1000 / 10 44"),
        ("1000", "1000 1000 1000 / 1000 1000 1000 / 10 44"),
        ("alice:wheel", "1000 1000 1000 / 10 10 10 /"),
        ("alice:7", "1000 1000 1000 / 7 7 7 /"),
        ("4711", "4711 4711 4711 / 0 0 0 /"),
        ("4711:4712", "4711 4711 4711 / 4712 4712 4712 /"),
        ("4294967294:4294967294", " / ".join(["4294967294 4294967294 4294967294"] * 2) + " /"),
    ],
)
def test_the_user_is_resolved_from_the_image(user: str, expected: str) -> None:
    assert inside("ids", user=user).rstrip() == expected.rstrip()


@pytest.mark.parametrize(("user", "word"), [("bob", "'bob'"), ("alice:nogroup", "'nogroup'")])
def test_an_unknown_user_is_refused(user: str, word: str) -> None:
    with pytest.raises(pybox.SpecError, match=f"no (user|group) {word}"):
        shell("true", user=user)


def test_home_is_the_users() -> None:
    assert said(shell("echo $HOME", user="alice")) == "/home/alice"
    assert said(shell("echo $HOME")) == "/root"
    assert said(shell("echo $HOME", user="4711")) == "/"


def test_the_working_directory_is_made_if_missing() -> None:
    assert said(shell("pwd", workdir="/home/alice")) == "/home/alice"
    assert said(shell("pwd; ls -A", workdir="/not/yet/there")) == "/not/yet/there"
    assert said(shell("pwd")) == "/"


def test_only_the_asked_for_variables_are_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "of the host")
    result = shell("env", env={"A": "1", "EMPTY": "", "SPACES": "a b"})
    found = dict(line.split("=", 1) for line in said(result).splitlines())
    assert {name: found.pop(name) for name in ("A", "EMPTY", "SPACES", "HOME", "HOSTNAME")} == {
        "A": "1", "EMPTY": "", "SPACES": "a b", "HOME": "/root", "HOSTNAME": result.id,
    }  # fmt: skip
    assert set(found) <= {"PATH", "PWD", "SHLVL", "OLDPWD"}


def test_env_and_env_file_on_the_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INHERITED", "yes")
    (tmp_path / "env").write_text("# a comment\n\nA=file\nB=two words # kept\nINHERITED\nABSENT\n")
    done = cli("run", "--rm", "--env-file", str(tmp_path / "env"), "-e", "A=option", "-e", "INHERITED", "busybox", "env")
    found = dict(line.split("=", 1) for line in done.stdout.splitlines())
    assert (found["A"], found["B"], found["INHERITED"]) == ("option", "two words # kept", "yes")
    assert "ABSENT" not in found


def test_a_wrong_line_of_an_env_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "env").write_text("GOOD=1\nnot a variable\n")
    done = cli("run", "--rm", "--env-file", str(tmp_path / "env"), "busybox", "env")
    assert done.returncode == 125 and f"{tmp_path}/env:2" in done.stderr


def test_entrypoint_replaces_the_images(image: Images) -> None:
    from pybox.image.model import ImageConfig

    name = image(
        None, ImageConfig(entrypoint=("echo", "image"), cmd=("default",), env=("FROM=image",), workdir="/var", user="alice")
    )
    assert said(pybox.run(name)) == "image default"
    assert said(pybox.run(name, ["mine"])) == "image mine"
    assert said(pybox.run(name, ["-c", "echo $FROM $PWD $(id -u)"], entrypoint="sh")) == "image /var 1000"
    assert said(pybox.run(name, ["echo", "plain"], entrypoint=[])) == "plain"
    done = cli("run", "--rm", "--entrypoint", "", name, "echo", "plain")
    assert done.stdout == "plain\n"


def test_ulimits_hold_and_are_refused_by_name() -> None:
    assert said(shell("ulimit -n; ulimit -Hn; ulimit -c", ulimits=["nofile=100:200", "core=0"])).split() == ["100", "200", "0"]
    with pytest.raises(pybox.SpecError, match="above the hard one"):
        shell("true", ulimits=["nofile=2:1"])


@pytest.mark.parametrize("mask", [0o000, 0o077])
def test_the_umask_is_022_whatever_the_callers(mask: int) -> None:
    before = os.umask(mask)
    try:
        assert said(shell("umask; touch /tmp/f; mkdir /new; stat -c %a /tmp/f /new / /dev /dev/shm /etc/hosts /var")).split() == [
            "0022", "644", "755", "755", "755", "1777", "644", "755",
        ]  # fmt: skip
    finally:
        os.umask(before)


# --- rights ------------------------------------------------------------------------------------------------------------------


def caps(result: pybox.Result) -> dict[str, int]:
    return {line.split()[0].rstrip(":"): int(line.split()[1], 16) for line in said(result).splitlines()}


def test_capabilities_are_the_default_eleven_and_none_is_inheritable() -> None:
    found = caps(shell("grep Cap /proc/self/status"))
    assert found == {"CapInh": 0, "CapPrm": DEFAULT_CAPS, "CapEff": DEFAULT_CAPS, "CapBnd": DEFAULT_CAPS, "CapAmb": 0}


def test_capabilities_can_be_added_and_dropped() -> None:
    net_raw = 1 << 13
    assert caps(shell("grep Cap /proc/self/status", cap_add=["net_raw"]))["CapEff"] == DEFAULT_CAPS | net_raw
    assert caps(shell("grep Cap /proc/self/status", cap_drop=["ALL"])) == dict.fromkeys(
        ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"), 0
    )
    only = caps(shell("grep Cap /proc/self/status", cap_drop=["ALL"], cap_add=["NET_RAW"]))
    assert only["CapBnd"] == only["CapEff"] == net_raw
    assert caps(shell("grep Cap /proc/self/status", cap_drop=["CHOWN"]))["CapBnd"] == DEFAULT_CAPS & ~1


def test_another_user_than_root_has_no_capabilities() -> None:
    found = caps(shell("grep Cap /proc/self/status", user="alice"))
    assert (found["CapEff"], found["CapPrm"], found["CapAmb"], found["CapInh"]) == (0, 0, 0, 0)


def test_an_unknown_capability_is_refused() -> None:
    with pytest.raises(pybox.SpecError, match="no such capability"):
        shell("true", cap_add=["CAP_EVERYTHING"])


def suid(root: Path) -> None:
    os.chmod(root / "bin/inside", 0o4755)


def test_set_user_id_programs_work_only_when_new_privileges_are_allowed(image: Images) -> None:
    name = image(suid)
    assert said(pybox.run(name, ["inside", "ids"], user="alice")).startswith("1000 1000 1000 /")
    assert said(pybox.run(name, ["inside", "ids"], user="alice", no_new_privs=False)).startswith("1000 0 0 /")
    done = cli("run", "--rm", "-u", "alice", "--security-opt", "no-new-privileges=false", name, "inside", "ids")
    assert done.stdout.startswith("1000 0 0 /")


def test_no_new_privs_and_seccomp_are_on() -> None:
    assert said(shell("grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status")).split() == ["NoNewPrivs:", "1", "Seccomp:", "2"]
    assert said(shell("grep '^Seccomp:' /proc/self/status", seccomp="unconfined")).split() == ["Seccomp:", "0"]


def test_userns_maps_root_inside_to_nobody_outside() -> None:
    with running(spec("sleep", "1000", userns=True)) as (seen, _, _):
        assert seen.file("uid_map").split() == ["0", "2000000000", "65536"]
        assert seen.file("gid_map").split() == ["0", "2000000000", "65536"]
        assert os.stat(f"/proc/{seen.pid}").st_uid == 2000000000


def test_userns_shows_the_images_files_as_roots_and_the_new_ones_outside_as_its_own(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    script = "stat -c '%u %g' / /etc/passwd /home/alice /new /v/f; id -u; grep CapEff /proc/self/status"
    found = said(shell(f"touch /new /v/f; {script}", userns=True, mounts={str(tmp_path): "/v"})).splitlines()
    assert found == ["0 0", "0 0", "1000 1000", "0 0", "0 0", "0", f"CapEff:\t{DEFAULT_CAPS:016x}"]
    assert os.stat(tmp_path / "f").st_uid == 2000000000


def test_userns_does_not_make_the_hosts_files_writable(tmp_path: Path) -> None:
    (tmp_path / "roots").write_text("untouched")
    (tmp_path / "roots").chmod(0o644)
    assert b"Permission denied" in (shell("echo x >/v/roots", userns=True, mounts={str(tmp_path): "/v"}).stderr or b"")
    assert (tmp_path / "roots").read_text() == "untouched"
