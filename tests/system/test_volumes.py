"""What of the host's files is shown inside, and how."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Images, cli, said, shell, start

import pybox
from pybox import dirs, volumes
from pybox.api import shared
from pybox.errors import SpecError, StateError
from pybox.failures import StepFailed
from pybox.runtime import Options
from pybox.spec import Mount, Spec
from pybox.text import parse_mount


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
    assert b"Permission denied" in (shell(script, mounts=[Mount("/t")]).stderr or b"")
    assert said(shell(script, mounts=[Mount("/t", exec=True)])) == "ran"


# Volumes with a name


@pytest.fixture
def volume() -> Iterator[str]:
    """The name of a volume that is gone after the test."""
    yield "kept"
    cli("volume", "rm", "kept")


def test_a_named_volume_begins_with_what_the_image_has_and_outlives_containers(image: Images, volume: str) -> None:
    def fill(root: Path) -> None:
        (root / "srv/deep").mkdir(parents=True)
        (root / "srv/deep/file").write_text("from the image")
        (root / "srv/deep/link").symlink_to("file")
        os.link(root / "srv/deep/file", root / "srv/same")
        os.chown(root / "srv/deep/file", 1000, 1000)
        (root / "srv/deep/file").chmod(0o4750)
        os.chown(root / "srv", 1000, 1000)
        (root / "srv").chmod(0o2770)

    name = image(fill)
    look = "stat -c '%n %u:%g %a %h' /srv /srv/deep/file /srv/deep/link; cat /srv/deep/link"
    for command in ("", "touch /srv/new; "):  # the second finds it there
        shown = said(pybox.run(name, ["sh", "-c", command + look], mounts=[f"{volume}:/srv"]))
        assert shown.splitlines() == [
            "/srv 1000:1000 2770 3", "/srv/deep/file 1000:1000 4750 2", "/srv/deep/link 0:0 777 1", "from the image",
        ]  # fmt: skip
    assert said(shell("ls /other", mounts=[f"{volume}:/other:ro"])) == "deep\nnew\nsame"


def test_a_volume_is_made_for_a_container_in_a_user_namespace_with_its_ids(volume: str) -> None:
    result = shell("stat -c %u /etc/passwd; touch /etc/new && echo made", mounts=[f"{volume}:/etc"], userns=True)
    assert said(result) == "0\nmade"


def test_a_volume_that_a_container_shows_is_not_removed(volume: str) -> None:
    made = cli("create", "--mount", f"type=volume,src={volume},dst=/data", "busybox", "true").stdout.strip()
    try:
        assert made
        refused = cli("volume", "rm", volume)
        assert refused.returncode == 125 and f"volume {volume} is in use by container {made}" in refused.stderr
        assert cli("volume", "prune").stdout == "" and volume in cli("volume", "ls", "-q").stdout.split()
        shown = json.loads(cli("volume", "inspect", volume).stdout)[0]
        assert shown["Containers"] == [made] and os.path.isdir(shown["Mountpoint"])
    finally:
        cli("rm", made)
    assert cli("volume", "prune").stdout.split() == [volume] and cli("volume", "ls", "-q").stdout == ""


def test_a_volume_is_the_first_thing_in_an_empty_store(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBOX_STORE", str(tmp_path / "store"))
    assert cli("import", "first", str(tree)).returncode == 0
    done = cli("run", "--rm", "-v", "kept:/etc", "first", "cat", "/etc/passwd")
    assert "root:x:0" in done.stdout, done.stderr
    monkeypatch.undo()


def test_several_that_make_the_same_volume_agree_on_it(volume: str) -> None:
    them = [start("run", "--rm", "-v", f"{volume}:/etc", "busybox", "cat", "/etc/passwd") for _ in range(3)]
    outputs = {process.communicate()[0] for process in them}
    assert [process.returncode for process in them] == [0, 0, 0]
    assert len(outputs) == 1 and b"root:x:0" in outputs.pop()
    assert not [name for name in os.listdir(dirs.current().store) if name.startswith("tmp-")]


@pytest.mark.parametrize("name", ["..", ".", "a b", "-a", "a\n", "\u00e9", "x" * 101])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(SpecError, match="not a name"):
        shell(
            "true",
            mounts=[
                f"{name}:/data" if name not in (".", "..") else Mount("/data", source=volumes.create(dirs.current(), name).path)
            ],
        )
    assert volumes.volumes(dirs.current()) == []


def test_a_run_that_fails_makes_no_volume() -> None:
    assert cli("run", "--rm", "--pull", "never", "-v", "early:/data", "nosuch", "true").returncode == 125
    assert volumes.volumes(dirs.current()) == []
    with pytest.raises(StateError, match="no such volume: early"):
        volumes.remove(dirs.current(), "early")


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ("type=cluster,src=x,dst=/x", "type cluster is not there"), ("type=image,dst=/x", "needs source="), ("type=image,src=host,dst=/x", "an image of the store"),
        ("type=volume,dst=/x,tmpfs-size=1m", "nothing of a tmpfs"), ("type=bind,dst=/x", "needs source="), ("src=a", "needs target="),
        ("type=tmpfs,src=a,dst=/x", "a tmpfs has no source"), ("dst=/x,src=a,color=red", "unknown word 'color'"),
        ("dst=/x,src=a,ro=maybe", "readonly is true or false"), ("type=bind,src=a,dst=/x", "absolute path"),
    ],
)  # fmt: skip
def test_a_mount_that_makes_no_sense_is_refused(words: str, reason: str) -> None:
    with pytest.raises(SpecError, match=reason):
        parse_mount(words)


def test_a_mount_of_a_tmpfs_has_its_size_and_mode() -> None:
    look = "stat -c %a /t; df -k /t | tail -1"
    done = cli("run", "--rm", "--mount", "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=700", "busybox", "sh", "-c", look)
    assert done.stdout.split()[0] == "700" and "1024" in done.stdout.split()


# Volumes without a name


def names_of_volumes() -> list[str]:
    return [volume.name for volume in volumes.volumes(dirs.current())]


@pytest.mark.parametrize("words", [("-v", "/etc"), ("--mount", "type=volume,dst=/etc")])
def test_a_volume_without_a_name_begins_with_what_the_image_has_and_goes_with_the_container(words: tuple[str, ...]) -> None:
    command = ("busybox", "sh", "-c", "touch /etc/new && grep -c root: /etc/passwd && grep -c ' /etc ' /proc/mounts")
    done = cli("run", "--rm", *words, *command)
    assert (done.stdout, done.stderr) == ("1\n1\n", "") and names_of_volumes() == []
    done = cli("run", "-t", "--rm", *words, *command)  # under a monitor
    assert done.stdout == "1\n1\n" and names_of_volumes() == []


def test_a_volume_without_a_name_stays_with_a_container_that_stays() -> None:
    words = ("-v", "/data", "busybox", "sh", "-c", "cat /data/kept; echo text >>/data/kept")
    cli("run", "--name", "one", *words)
    try:
        assert cli("start", "-a", "one").stdout == "text\n"
        (name,) = names_of_volumes()
        assert len(name) == 64 and cli("volume", "prune").stdout == ""
    finally:
        cli("rm", "one")
    assert names_of_volumes() == [name]  # as docker
    cli("run", "--name", "one", *words)
    assert len(names_of_volumes()) == 2
    assert cli("rm", "-v", "one").returncode == 0 and names_of_volumes() == [name]
    assert cli("volume", "prune").stdout.split() == [name]


def test_a_run_that_fails_leaves_no_volume_without_a_name() -> None:
    for words in (("--rm",), ("--rm", "-t"), (), ("-t",)):
        assert cli("run", *words, "-v", "/data", "busybox", "nosuch").returncode == 127
        assert names_of_volumes() == []


def test_a_pybox_that_is_killed_leaves_no_volume_without_a_name(tmp_path: Path) -> None:
    with start("run", "--rm", "-v", "/data", "busybox", "sh", "-c", "echo runs; sleep 1000") as process:
        assert process.stdout is not None and process.stdout.readline() == b"runs\n"
        process.kill()
    assert len(names_of_volumes()) == 1
    cli("gc")
    assert names_of_volumes() == []


def test_what_a_killed_pybox_had_copied_is_removed_by_the_next_volume(store: dirs.Dirs) -> None:
    os.makedirs(f"{store.store}/tmp-0123456789ab/volume/data")
    assert cli("run", "--rm", "-v", "/data", "busybox", "true").returncode == 0
    assert [name for name in os.listdir(store.store) if name.startswith("tmp-")] == []


def test_a_volume_that_is_removed_while_a_container_starts_is_refused_or_missed_but_never_lost(
    volume: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = dirs.current()
    data = volumes.create(where, volume).path
    Path(data, "f").write_text("text")
    runtime, spec = shared(), Spec("busybox", ("cat", "/data/f"), mounts=(Mount("/data", source=data),))
    ready = runtime.ready(spec, keep=False)
    looks, users = [], volumes._users

    def look(where: dirs.Dirs) -> dict[str, list[str]]:
        looks.append(1)
        return {} if len(looks) == 1 else users(where)  # the first time just before there was a journal

    def remove(step: object, desk: object) -> None:  # after the journal is written, and before anything is mounted
        with pytest.raises(StateError, match="in use by container"):
            volumes.remove(where, volume)
        monkeypatch.setattr(volumes, "_users", look)
        with pytest.raises(StateError, match="in use by container"):
            volumes.remove(where, volume)

    watched = type("Watched", (type(ready.prepare[0]),), {"apply": remove}).of(dict(ready.prepare[0].items()))
    assert said(runtime.launch(ready.replace(prepare=(watched, *ready.prepare[1:])), Options(capture=True))) == "text"
    assert len(looks) == 2 and Path(data, "f").read_text() == "text"
    volumes.remove(where, volume)  # after the plan, before the journal
    with pytest.raises(StepFailed, match=r"take hold of the host's .*kept/data"):
        runtime.launch(ready, Options(capture=True))
    assert volumes.volumes(where) == []


# Images beside the root


def test_an_image_is_shown_beside_the_root(image: Images, store: dirs.Dirs) -> None:
    def fill(root: Path) -> None:
        (root / "model").mkdir()
        (root / "model/weights").write_text("heavy")

    name = image(fill)
    script = "cat /m/model/weights; touch /m/x || mount -o remount,rw /m; rm -f /m/model/weights; test -f /m/model/weights"
    for options in ({}, {"userns": True}):
        result = shell(script, mounts=[Mount("/m", image=name, read_only=True)], **options)
        assert result.stdout == b"heavy" and b"Read-only file system" in (result.stderr or b"") and result.exit_code == 0
    words = ("run", "--rm", "--mount", f"type=image,src={name},dst=/m,rw=true", "busybox", "sh", "-c")
    assert cli(*words, "echo light >/m/model/weights; cat /m/model/weights").stdout == "light\n"
    assert cli(*words, "cat /m/model/weights").stdout == "heavy"
    refused = cli(*words[:2], "--userns", *words[2:], "true")
    assert refused.returncode == 125 and "a writable image is not there with --userns as root" in refused.stderr
    absent = cli("run", "--rm", "--mount", "type=image,src=nosuch,dst=/m", "busybox", "true")
    assert absent.returncode == 125 and "hint: pybox pull nosuch" in absent.stderr


def test_an_image_is_not_removed_from_under_a_container_that_shows_it(image: Images, store: dirs.Dirs) -> None:
    name = image(lambda root: (root / "only").write_text("here"))  # type: ignore[arg-type, return-value]
    made = cli("create", "--mount", f"type=image,src={name},dst=/m", "busybox", "cat", "/m/only").stdout.strip()
    try:
        refused = cli("rmi", name)
        assert refused.returncode == 125 and "in use by a container" in refused.stderr
        assert cli("tag", "busybox", name).returncode == 0  # it shows what it was made with
        assert cli("start", "-a", made).stdout == "here"
    finally:
        cli("rm", made)
    cli("image", "prune")
    cli("rmi", name)
