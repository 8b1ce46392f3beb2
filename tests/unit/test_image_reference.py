"""Names of images: docker's spelling, one canonical form, nothing that could be a path."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pybox.errors import ImageError
from pybox.image import reference

PART = st.from_regex(r"[a-z0-9]{1,8}((\.|__|_|-{1,2})[a-z0-9]{1,4}){0,2}", fullmatch=True)
DOMAIN = st.sampled_from(
    ["", "", "docker.io/", "quay.io/", "localhost/", "localhost:5000/", "reg.example.org:443/", "docker.io/library/"]
)
TAG = st.one_of(st.just(""), st.from_regex(r":[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True))
FIRST = st.from_regex(r"[a-z0-9]{1,8}(-[a-z0-9]{1,4})?", fullmatch=True)  # with a dot it would be a registry
NAMES = st.builds(
    lambda domain, first, parts, tag: domain + "/".join([first, *parts]) + tag, DOMAIN, FIRST, st.lists(PART, max_size=2), TAG
)


@pytest.mark.parametrize(
    ("name", "spelled"),
    [
        ("busybox", "busybox:latest"),
        ("busybox:1.36", "busybox:1.36"),
        ("library/busybox", "busybox:latest"),
        ("docker.io/library/busybox:1", "busybox:1"),
        ("index.docker.io/team/tool", "team/tool:latest"),
        ("localhost:5000/tool", "localhost:5000/tool:latest"),
        ("quay.io/library/tool", "quay.io/library/tool:latest"),
        ("tool@sha256:" + "a" * 64, "tool@sha256:" + "a" * 64),
    ],
)
def test_names_are_read_as_docker_reads_them(name: str, spelled: str) -> None:
    assert reference.canonical(name) == spelled
    assert str(reference.parse(name)) == spelled


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "lower-case"),
        ("Tool", "lower-case"),
        ("tool:", "a tag is"),
        ("tool:.x", "a tag is"),
        ("tool:" + "x" * 129, "a tag is"),
        ("a" * 256, "longer than 255"),
        ("../etc/passwd", "the registry is not a host name"),
        ("/etc/passwd", "lower-case"),
        ("a//b", "lower-case"),
        ("a/../b", "lower-case"),
        ("a%b", "lower-case"),
        ("a\0b", "lower-case"),
        ("a b", "lower-case"),
        ("-a.b/c", "the registry is not a host name"),
        ("host", "the machine's own root"),
        ("host:1", "the machine's own root"),
        ("sha256:" + "a" * 64, "image id"),
        ("b" * 64, "image id"),
        ("tool@sha256:abc", "a digest is sha256:"),
        ("tool@md5:" + "a" * 32, "a digest is sha256:"),
        ("tool\n", "lower-case"),
        ("tool:1\n", "a tag is"),
    ],
)
def test_a_name_that_cannot_be_stored_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(ImageError) as caught:
        reference.parse(name)
    assert reason in caught.value.message
    assert caught.value.message.isprintable()


@given(NAMES)
def test_a_valid_name_has_one_spelling_and_survives_the_store(name: str) -> None:
    spelled = reference.canonical(name)
    assert reference.canonical(spelled) == spelled
    assert str(reference.parse(name)) == spelled == str(reference.parse(spelled))
    entry = reference.filename(name)
    assert entry is not None and "/" not in entry
    assert reference.unfilename(entry) == spelled


@given(st.text(max_size=300))
def test_no_text_becomes_a_path(name: str) -> None:
    entry = reference.filename(name)
    assert entry is None or ("/" not in entry and "\0" not in entry and entry not in ("", ".", ".."))
    try:
        parsed = reference.parse(name)
    except ImageError as error:
        assert error.message.isprintable()
    else:
        assert reference.canonical(str(parsed)) == str(parsed) and ".." not in str(parsed).split("/")
