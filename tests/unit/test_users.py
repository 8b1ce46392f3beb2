"""--user is resolved from the image's own passwd and group files, read as data from its layers."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybox import users
from pybox.errors import SpecError
from pybox.image.model import Image
from pybox.kernel.inputs import Account
from pybox.spec import ID_MAX

PASSWD = """root:x:0:0:root:/root:/bin/sh
# a comment
me:x:1000:100:Me,,,:/home/me:/bin/sh
nohome:x:1001:100::relative:/bin/sh
broken:x:
"""
GROUP = """root:x:0:
users:x:100:
wheel:x:10:root,me
audio:x:29:me
me:x:1000:
short:x:5
"""


def layer(root: Path, passwd: str | None = PASSWD, group: str | None = GROUP) -> str:
    """Make one layer of an image; returns its path."""
    (root / "etc").mkdir(parents=True)
    for name, text in (("passwd", passwd), ("group", group)):
        if text is not None:
            (root / "etc" / name).write_text(text, encoding="utf-8", errors="surrogateescape")
    return str(root)


def image(*layers: str) -> Image:
    """Return an image of layers, topmost first."""
    return Image("busybox", "sha256:0", layers)


@pytest.mark.parametrize(
    ("user", "account"),
    [
        ("", Account(0, 0, (10,), "/root")),
        ("root", Account(0, 0, (10,), "/root")),
        ("0", Account(0, 0, (10,), "/root")),
        ("me", Account(1000, 100, (10, 29), "/home/me")),
        ("1000", Account(1000, 100, (10, 29), "/home/me")),
        ("me:audio", Account(1000, 29, (), "/home/me")),
        ("me:5", Account(1000, 5, (), "/home/me")),
        ("7", Account(7, 0, (), "/")),
        ("7:wheel", Account(7, 10, (), "/")),
        ("7:8", Account(7, 8, (), "/")),
        ("nohome", Account(1001, 100, (), "/")),
        ("4294967294:4294967294", Account(4294967294, 4294967294, (), "/")),
    ],
)
def test_a_user_is_found_as_docker_finds_it(tmp_path: Path, user: str, account: Account) -> None:
    assert users.find(image(layer(tmp_path / "a")), user) == account


@pytest.mark.parametrize(
    ("user", "message"),
    [
        ("nobody", "user: 'nobody': image busybox has no user 'nobody' in /etc/passwd"),
        ("broken", "user: 'broken': image busybox has no user 'broken' in /etc/passwd"),
        ("me:nobody", "user: 'me:nobody': image busybox has no group 'nobody' in /etc/group"),
        ("0:short", "user: '0:short': image busybox has no group 'short' in /etc/group"),
        ("me:", "user: 'me:': must be name|uid[:group|gid]"),
    ],
)
def test_a_user_that_the_image_does_not_know_is_refused(tmp_path: Path, user: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        users.find(image(layer(tmp_path / "a")), user)
    assert caught.value.message == message


def test_the_topmost_layer_that_has_the_file_counts(tmp_path: Path) -> None:
    top = layer(tmp_path / "top", "me:x:5:6::/top:/bin/sh\n", None)
    below = layer(tmp_path / "below")
    assert users.find(image(top, below), "me") == Account(5, 6, (10, 29), "/top")
    (tmp_path / "empty").mkdir()
    assert users.find(image(str(tmp_path / "empty"), below), "me").uid == 1000


def test_an_image_without_these_files_knows_only_numbers(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    bare = image(str(tmp_path / "a"))
    assert users.find(bare, "") == Account() and users.find(bare, "5:6") == Account(5, 6)
    with pytest.raises(SpecError):
        users.find(bare, "root")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a whiteout")
def test_a_file_deleted_in_an_upper_layer_is_deleted(tmp_path: Path) -> None:
    top, below = layer(tmp_path / "top", None, None), layer(tmp_path / "below")
    os.mknod(f"{top}/etc/passwd", stat.S_IFCHR | 0o600, os.makedev(0, 0))
    with pytest.raises(SpecError, match="has no user 'me'"):
        users.find(image(top, below), "me")


@pytest.mark.parametrize("link", ["/etc/../../../../../../{outside}", "{outside}"])
def test_a_symlink_of_the_image_does_not_lead_to_the_host(tmp_path: Path, link: str) -> None:
    outside = tmp_path / "passwd"
    outside.write_text("evil:x:0:0::/:/bin/sh\n")
    root = layer(tmp_path / "a", None)
    os.symlink(link.format(outside=outside), f"{root}/etc/passwd")
    with pytest.raises(SpecError, match="has no user 'evil'"):
        users.find(image(root), "evil")


def test_a_symlink_within_the_image_is_followed(tmp_path: Path) -> None:
    root = layer(tmp_path / "a", None)
    Path(root, "usr").mkdir()
    Path(root, "usr", "passwd").write_text(PASSWD)
    os.symlink("/usr/passwd", f"{root}/etc/passwd")
    assert users.find(image(root), "me").uid == 1000


def test_symlinks_in_a_circle_and_things_that_are_no_files_end(tmp_path: Path) -> None:
    root = layer(tmp_path / "a", None, None)
    os.symlink("group", f"{root}/etc/passwd")
    os.symlink("passwd", f"{root}/etc/group")
    assert users.find(image(root), "5") == Account(5, 0)
    fifo = layer(tmp_path / "b", None)
    os.mkfifo(f"{fifo}/etc/passwd")
    os.mkdir(f"{layer(tmp_path / 'c', None)}/etc/passwd")
    assert users.find(image(fifo), "5") == users.find(image(str(tmp_path / "c")), "5") == Account(5, 0)


FIELD = st.text(st.sampled_from("0123456789:,xme\u00b2\u0663/- \0\n"), max_size=6)
LINES = st.lists(st.lists(FIELD, max_size=8).map(":".join), max_size=4).map("\n".join)


@given(passwd=LINES, group=LINES, user=st.sampled_from(["", "0", "me", "x", "5", "me:x", "5:5"]))
@example("me:x:5:5000000000::/:", "", "me")
@example(f"me:x:{'9' * 5000}:5::/:", "", "me")
@example(f"me:x:5:{'9' * 5000}::/:", "", "me")
@example("me:x:5:5::/:", f"g:x:{'9' * 5000}:me", "me")
@example("me:x:5:4294967295::/:", "", "me")
def test_no_passwd_file_gives_an_id_that_the_kernel_would_read_otherwise(
    tmp_path_factory: pytest.TempPathFactory, passwd: str, group: str, user: str
) -> None:
    root = layer(tmp_path_factory.mktemp("layer"), passwd, group)
    try:
        account = users.find(image(root), user)
    except SpecError:
        return
    assert all(0 <= number <= ID_MAX for number in (account.uid, account.gid, *account.groups))
    assert account.home.startswith("/")


def test_names_that_are_no_utf8_are_read_as_bytes(tmp_path: Path) -> None:
    root = layer(tmp_path / "a", "caf\udce9:x:5:6::/:/bin/sh\nme:x:7:8::/h:\n")
    assert users.find(image(root), "me") == Account(7, 8, (10, 29), "/h")


@pytest.mark.parametrize("char", ["\u2028", "\x85", "\x0c"], ids=["U+2028", "NEL", "FF"])
def test_a_full_name_can_not_smuggle_in_a_user(tmp_path: Path, char: str) -> None:
    root = layer(tmp_path / "a", f"me:x:5:6:Me{char}evil:x:0:0::/:/bin/sh\n")
    with pytest.raises(SpecError):
        users.find(image(root), "evil")


def test_a_fresh_etc_can_stand_above_the_images_only_when_it_looks_the_same(tmp_path: Path) -> None:
    root = layer(tmp_path / "a")
    mine = (os.stat(root).st_uid, os.stat(root).st_gid)
    os.chmod(f"{root}/etc", 0o711)
    assert users.etc_mode(image(root), mine) == 0o711
    assert users.etc_mode(image(root), (mine[0] + 1, mine[1])) is None
    (tmp_path / "b").mkdir()
    assert users.etc_mode(image(str(tmp_path / "b"), root), mine) == 0o711
    assert users.etc_mode(image(str(tmp_path / "b")), mine) is None
    os.symlink("elsewhere", tmp_path / "b" / "etc")
    assert users.etc_mode(image(str(tmp_path / "b"), root), mine) is None
