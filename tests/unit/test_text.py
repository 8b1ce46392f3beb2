"""The small grammars of the command line: each text is read as docker reads it, or refused with one SpecError."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybox.errors import SpecError
from pybox.spec import Mount, Rlimit
from pybox.text import (
    parse_capability,
    parse_env,
    parse_security_opt,
    parse_tmpfs,
    parse_ulimit,
    parse_volume,
    read_env_file,
)

ANY = st.text(st.sampled_from("/abc.:,=ro-zsizemdxCAP_019 \0\n\u00e9\u0663"), max_size=24) | st.text(max_size=20)
PART = st.text(st.characters(blacklist_characters=":/\0", blacklist_categories=("Cs",)), min_size=1, max_size=8).filter(
    lambda part: part not in (".", "..")
)
PLACE = st.lists(PART, min_size=1, max_size=3).map(lambda parts: "/" + "/".join(parts))
INSIDE = PLACE.map(lambda place: f"/mnt{place}")


@given(ANY)
@example("./:/x")
@example("..:/a:ro,rw,z,Z")
@example("/:/../etc")
@example("/a:/b:")
@example("/a:/b:ro:rw")
@example("/a\0:/b")
def test_any_volume_is_a_mount_inside_the_root_or_a_spec_error(text: str) -> None:
    try:
        mount = parse_volume(text)
    except SpecError:
        return
    assert mount.source is not None and mount.source.startswith("/") and mount.target.startswith("/")
    assert ".." not in mount.target.split("/") and "\0" not in mount.source + mount.target


@given(PLACE, INSIDE, st.booleans())
def test_a_volume_round_trips(source: str, target: str, read_only: bool) -> None:
    assert parse_volume(f"{source}:{target}" + ":ro" * read_only) == Mount(target, source=source, read_only=read_only)


def test_a_relative_source_that_says_so_is_of_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sources = [parse_volume(f"{word}:/x").source for word in (".", "./a", "..", "../b")]
    assert sources == [str(tmp_path), f"{tmp_path}/a", str(tmp_path.parent), f"{tmp_path.parent}/b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "volume: 'a': must be SRC:DST[:ro]"),
        ("", "volume: must be SRC:DST[:ro]"),
        (":/a", "volume: ':/a': must be SRC:DST[:ro]"),
        ("/a:", "volume: '/a:': must be SRC:DST[:ro]"),
        ("/a:/b:ro:x", "volume: '/a:/b:ro:x': must be SRC:DST[:ro]"),
        ("/a:/b:bogus", "volume: '/a:/b:bogus': unknown option 'bogus'"),
        ("some/data:/b", "volume: 'some/data': the host side must be an absolute path"),
        ("da+ta:/b", "volume: 'da+ta': not a name of letters, digits and _ . -"),
        ("/a:b", "volume: 'b': must be an absolute path"),
        ("/a:/b/../../etc", "volume: '/b/../../etc': must not contain '..'"),
        ("/a:/", "volume: '/': the root can't be mounted over"),
        ("/a://./", "volume: '//./': the root can't be mounted over"),
        ("/a:/proc", "volume: '/proc': belongs to the kernel's own file systems"),
        ("/a://proc/./sys/", "volume: '//proc/./sys/': belongs to the kernel's own file systems"),
        ("/a:/sys/fs/cgroup", "volume: '/sys/fs/cgroup': belongs to the kernel's own file systems"),
        ("/a:/dev", "volume: '/dev': belongs to the kernel's own file systems"),
    ],
)
def test_what_is_wrong_with_a_volume_is_said(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_volume(text)
    assert caught.value.message == message


@pytest.mark.parametrize("target", ["/proc/meminfo", "/proc/cpuinfo/", "/dev/shm", "/process", "/system"])
def test_what_lxcfs_and_harmless_names_need_is_let_in(target: str) -> None:
    assert parse_volume(f"/a:{target}").target == target


@given(ANY)
@example("/x:size=")
@example("/x:mode=")
@example("/x:mode=8")
@example("/x:,")
@example("/x:size=1:2")
def test_any_tmpfs_is_a_mount_inside_the_root_or_a_spec_error(text: str) -> None:
    try:
        mount = parse_tmpfs(text)
    except SpecError:
        return
    assert mount.source is None and mount.target.startswith("/") and 0 <= mount.mode <= 0o77777
    assert mount.size is None or mount.size >= 0


@pytest.mark.parametrize(
    ("text", "mount"),
    [
        ("/x", Mount("/x")),
        ("/x:size=64m", Mount("/x", size=64 << 20)),
        ("/x:ro,exec,mode=755", Mount("/x", read_only=True, exec=True, mode=0o755)),
        ("/x:exec,noexec,ro,rw,nosuid,nodev", Mount("/x")),
    ],
)
def test_tmpfs_options(text: str, mount: Mount) -> None:
    assert parse_tmpfs(text) == mount


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/x:bogus", "tmpfs: '/x:bogus': unknown option 'bogus'"),
        ("/x:mode=9", "tmpfs: '/x:mode=9': unknown option 'mode=9'"),
        ("/x:size=big", "tmpfs size: 'big': not a size or number, e.g. 64M or 1.5g"),
    ],
)
def test_what_is_wrong_with_a_tmpfs_is_said(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_tmpfs(text)
    assert caught.value.message == message


def test_a_tmpfs_of_no_size_is_refused() -> None:
    with pytest.raises(SpecError):
        parse_tmpfs("/x:size=0")


@given(ANY)
@example("nofile=1:2:3")
@example("nofile=-2")
@example("nofile=unlimited:1")
@example("=1")
def test_any_ulimit_is_an_rlimit_or_a_spec_error(text: str) -> None:
    try:
        limit = parse_ulimit(text)
    except SpecError:
        return
    assert limit.hard == -1 or 0 <= limit.soft <= limit.hard


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("nofile=1024:4096", Rlimit("nofile", 1024, 4096)),
        ("core=0", Rlimit("core", 0, 0)),
        ("RLIMIT_STACK=-1", Rlimit("stack", -1, -1)),
        ("nproc=5:unlimited", Rlimit("nproc", 5, -1)),
    ],
)
def test_ulimits(text: str, limit: Rlimit) -> None:
    assert parse_ulimit(text) == limit


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nofiles=1", "ulimit: 'nofiles': no such limit"),
        ("nofile=2:1", "ulimit: 'nofile=2:1': the soft limit is above the hard one"),
        ("nofile=unlimited:1", "ulimit: 'nofile=-1:1': the soft limit is above the hard one"),
        ("nofile=many", "ulimit: 'many': not a whole number"),
    ],
)
def test_what_is_wrong_with_a_ulimit_is_said(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_ulimit(text)
    assert caught.value.message == message


def test_a_ulimit_without_a_value_is_told_its_form() -> None:
    with pytest.raises(SpecError) as caught:
        parse_ulimit("nofile")
    assert caught.value.message == "ulimit: 'nofile': must be NAME=SOFT[:HARD]"


def test_a_variable_is_given_or_taken_from_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBOX_T", "x=y")
    monkeypatch.delenv("PYBOX_U", raising=False)
    assert [parse_env(word) for word in ("A=1", "A=", "A=b=c", "PYBOX_T", "PYBOX_U")] == [
        ("A", "1"),
        ("A", ""),
        ("A", "b=c"),
        ("PYBOX_T", "x=y"),
        None,
    ]
    with pytest.raises(SpecError, match=r"^env: '=1': must be NAME=VALUE or NAME$"):
        parse_env("=1")


@given(st.text(st.characters(blacklist_categories=("Cs",))))
def test_any_env_file_is_pairs_or_a_spec_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "env"
    path.write_text(text, encoding="utf-8", newline="")
    try:
        pairs = read_env_file(str(path))
    except SpecError as error:
        assert error.message.startswith(f"env-file: '{path}:")
        return
    assert all(name and "=" not in name and not any(c.isspace() for c in name) for name, _ in pairs)


def test_an_env_file_is_read_as_docker_reads_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYBOX_T", "mine")
    path = tmp_path / "env"
    path.write_bytes(b'# comment\n\n  A=1 2 \nB="q"\r\nPYBOX_T\nPYBOX_ABSENT\nC=x#y\n')
    assert read_env_file(str(path)) == [("A", "1 2 "), ("B", '"q"'), ("PYBOX_T", "mine"), ("C", "x#y")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"A=1\nB C=2\n", "env-file: '{path}:2': not NAME=VALUE"),
        (b"=2\n", "env-file: '{path}:1': not NAME=VALUE"),
        (b"A=\xff\n", "env-file: '{path}': not UTF-8 text"),
        (None, "env-file: '{path}': No such file or directory"),
    ],
)
def test_what_is_wrong_with_an_env_file_is_said(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "env"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError) as caught:
        read_env_file(str(path))
    assert caught.value.message == message.format(path=path)


@pytest.mark.parametrize("char", ["\u2028", "\x85", "\x0c", "\x1c"], ids=["U+2028", "NEL", "FF", "FS"])
def test_a_value_of_an_env_file_ends_at_the_line_end_and_nowhere_else(tmp_path: Path, char: str) -> None:
    path = tmp_path / "env"
    path.write_text(f"A=x{char}B=y\n", encoding="utf-8")
    assert read_env_file(str(path)) == [("A", f"x{char}B=y")]


@pytest.mark.parametrize(
    ("text", "name"), [("net_raw", "CAP_NET_RAW"), ("CAP_CHOWN", "CAP_CHOWN"), ("all", "ALL"), (" kill ", "CAP_KILL")]
)
def test_capabilities(text: str, name: str) -> None:
    assert parse_capability(text) == name


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("seccomp=unconfined", ("seccomp", "unconfined")),
        ("seccomp:unconfined", ("seccomp", "unconfined")),
        ("seccomp=/a=b:c.json", ("seccomp", "/a=b:c.json")),
        ("no-new-privileges", ("no-new-privileges", "true")),
        ("no-new-privileges:false", ("no-new-privileges", "false")),
        ("no-new-privileges=TRUE", ("no-new-privileges", "true")),
    ],
)
def test_security_options(text: str, pair: tuple[str, str]) -> None:
    assert parse_security_opt(text) == pair


@given(ANY)
@example("seccomp")
@example("seccomp=")
@example("no-new-privileges=maybe")
@example("apparmor=unconfined")
def test_any_security_option_is_known_or_a_spec_error(text: str) -> None:
    try:
        name, value = parse_security_opt(text)
    except SpecError as error:
        assert error.reason == "not known" and error.hint is not None and error.hint.startswith("seccomp=unconfined")
        return
    assert name in ("seccomp", "no-new-privileges") and value


def test_paths_are_taken_as_bytes_are(monkeypatch: pytest.MonkeyPatch) -> None:
    word = os.fsdecode(b"/caf\xe9:/x")
    assert os.fsencode(parse_volume(word).source or "") == b"/caf\xe9"
