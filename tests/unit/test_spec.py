"""A Spec that exists makes sense by itself; what does not is refused with one SpecError before anything is created."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybox.errors import SpecError
from pybox.kernel import credentials
from pybox.spec import ID_MAX, Limits, Mount, Rlimit, Spec, parse_cpuset, parse_user
from pybox.state import check_name, is_id

ANY = st.text(max_size=30)
USERISH = st.text(st.sampled_from("0123456789:root-+ ./,\0\n\u0663\u00b2\u00e9"), max_size=14)
NAME = st.from_regex(r"\A[a-z_][a-z0-9_.]{0,8}\Z")
ID = st.integers(0, ID_MAX)


@given(USERISH | ANY)
@example("0:")
@example(":0")
@example("4294967295")
@example("-1")
@example("+0")
@example(" 0")
@example("0 ")
@example("1:2:3")
@example("\u0663")
def test_any_user_is_a_name_or_an_id_or_a_spec_error(text: str) -> None:
    try:
        user, group = parse_user(text)
    except SpecError as error:
        assert error.field == "user"
        return
    assert group is not None or ":" not in text
    for part, said in zip((user, group), text.split(":"), strict=False):
        if isinstance(part, int):
            assert 0 <= part <= ID_MAX and said.isascii() and int(said) == part
        else:
            assert part == said and not (said.isascii() and said.isdigit())
            assert part and part[0] not in "-+" and not any(c.isspace() or c in ":/,\0" for c in part)


@given(ID | NAME, st.none() | ID | NAME)
def test_a_user_round_trips(user: int | str, group: int | str | None) -> None:
    assert parse_user(f"{user}" if group is None else f"{user}:{group}") == (user, group)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:", "user: '0:': must be name|uid[:group|gid]"),
        (":0", "user: ':0': must be name|uid[:group|gid]"),
        ("-1", "user: '-1': must be name|uid[:group|gid]"),
        ("a b", "user: 'a b': must be name|uid[:group|gid]"),
        ("1:2:3", "user: '1:2:3': must be name|uid[:group|gid]"),
        ("4294967295", "user: '4294967295': ids go from 0 to 4294967294"),
        ("00000000000", "user: '00000000000': ids go from 0 to 4294967294"),
        ("root\n", "user: 'root\\n': must be name|uid[:group|gid]"),
    ],
)
def test_what_is_wrong_with_a_user_is_said(text: str, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parse_user(text)
    assert caught.value.message == message


@given(st.text(st.sampled_from("0123456789,- \n\u0663"), max_size=12) | ANY)
@example("0-")
@example("3-1")
@example("9999999999999999")
@example("")
def test_any_cpu_list_is_cpus_or_a_spec_error(text: str) -> None:
    try:
        cpus = parse_cpuset(text)
    except SpecError:
        return
    assert cpus and all(0 <= cpu <= 8191 for cpu in cpus)


@given(st.sets(st.integers(0, 300), min_size=1, max_size=8))
def test_a_cpu_list_round_trips(cpus: set[int]) -> None:
    assert parse_cpuset(",".join(map(str, cpus))) == cpus


def test_ranges_of_cpus() -> None:
    assert parse_cpuset("0-2,5") == {0, 1, 2, 5} == parse_cpuset("5,2,1,0-1")
    with pytest.raises(SpecError, match=r"^cpuset-cpus: '3-1': not a list of CPUs, e\.g\. 0-1,3$"):
        Limits(cpuset_cpus="3-1")


@given(
    image=ANY,
    args=st.lists(ANY, max_size=2).map(tuple),
    env=st.lists(st.tuples(ANY, ANY), max_size=2).map(tuple),
    user=USERISH,
    workdir=ANY | ANY.map(lambda text: "/" + text),
    hostname=ANY,
    network=ANY | st.just("host"),
    cap_add=st.lists(ANY | ANY.map(lambda text: "CAP_" + text), max_size=2).map(tuple),
)
def test_any_texts_make_a_sane_spec_or_a_spec_error(**fields: str) -> None:
    try:
        spec = Spec(**fields)  # type: ignore[arg-type]
    except SpecError:
        return
    assert "\0" not in "".join((spec.image, *spec.args, spec.user, spec.workdir, spec.hostname))
    assert spec.workdir == "" or spec.workdir.startswith("/")
    assert spec.hostname.isascii() and len(spec.hostname) <= 64


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image": ""}, "image: not an image name"),
        ({"image": "-it"}, "image: '-it': not an image name"),
        ({"image": "a\0b"}, "image: 'a\\x00b': contains a NUL character"),
        ({"args": (b"ls",)}, "args: b'ls': must be text"),
        ({"args": ("a\0",)}, "args: 'a\\x00': contains a NUL character"),
        ({"env": (("", "x"),)}, "env: not a variable name"),
        ({"env": (("A=B", "x"),)}, "env: 'A=B': not a variable name"),
        ({"workdir": "src"}, "workdir: 'src': must be an absolute path"),
        ({"workdir": "/../x"}, "workdir: '/../x': must not contain '..'"),
        ({"workdir": "/" + "x" * 4095}, "workdir: '/" + "x" * 39 + "...': longer than PATH_MAX, 4096"),
        ({"hostname": "a b"}, "hostname: 'a b': must be letters, digits, '-' and '.', 64 at most"),
        ({"hostname": "-"}, "hostname: '-': must be letters, digits, '-' and '.', 64 at most"),
        ({"hostname": "h" * 65}, f"hostname: '{'h' * 65}': must be letters, digits, '-' and '.', 64 at most"),
        ({"hostname": "h", "uts": "host"}, "hostname: 'h': can't be set together with --uts host: it would rename the host"),
        ({"network": "bridge"}, "network: 'bridge': not the name of a network"),
        ({"pid": "container:x"}, "pid: 'container:x': must be private or host"),
        ({"upper": "tape"}, "upper: 'tape': must be memory or disk"),
        ({"mounts": (Mount("/a"), Mount("/a/"))}, "volume: '/a': is mounted twice"),
        ({"user": "-1"}, "user: '-1': must be name|uid[:group|gid]"),
        ({"cap_add": ("NET_RAW",)}, "cap-add: 'NET_RAW': not a capability name, e.g. CAP_NET_RAW or ALL"),
    ],
)
def test_what_is_wrong_with_a_spec_is_said(fields: dict[str, object], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Spec(**{"image": "busybox", **fields})  # type: ignore[arg-type]
    assert caught.value.message == message


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"memory": 1}, "memory: 1: must be at least 512K: the kernel's own share of a process"),
        ({"memory_swap": 1}, "memory-swap: 1: needs --memory"),
        ({"memory": 1 << 20, "memory_swap": 1}, "memory-swap: 1: must not be less than --memory"),
        ({"cpu_shares": 1}, "cpu-shares: 1: must be between 2 and 262144"),
        ({"pids": 0}, "pids-limit: 0: must be at least 1"),
        ({"oom_score_adj": 1001}, "oom-score-adj: 1001: must be between -1000 and 1000"),
    ],
)
def test_limits_that_no_kernel_takes_are_refused(fields: dict[str, int], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        Limits(**fields)  # type: ignore[arg-type]
    assert caught.value.message == message
    assert Limits(memory=1 << 20, memory_swap=-1).memory_swap == -1


@pytest.mark.parametrize(("name", "soft", "hard"), [("nofile", 2, 1), ("nofile", -1, 1), ("files", 1, 1)])
def test_rlimits_that_no_kernel_takes_are_refused(name: str, soft: int, hard: int) -> None:
    with pytest.raises(SpecError):
        Rlimit(name, soft, hard)


def test_a_capability_is_checked_against_the_kernels_names() -> None:
    with pytest.raises(SpecError, match=r"^cap-add: 'CAP_FOO': no such capability$"):
        credentials.granted(Spec(image="x", cap_drop=("CAP_FOO",)), 40)


def test_capabilities_granted_are_the_default_less_dropped_plus_added() -> None:
    def granted(**fields: tuple[str, ...]) -> frozenset[str]:
        return credentials.granted(Spec(image="x", **fields), 40)  # type: ignore[arg-type]

    assert granted() == frozenset(credentials.DEFAULT) and len(credentials.DEFAULT) == 11
    assert granted(cap_drop=("ALL",), cap_add=("CAP_CHOWN",)) == {"CAP_CHOWN"}
    assert granted(cap_drop=("CAP_CHOWN",)) == frozenset(credentials.DEFAULT) - {"CAP_CHOWN"}
    assert len(granted(cap_add=("ALL",))) == 41
    assert granted(cap_add=("ALL",), cap_drop=("CAP_SYS_ADMIN",)) == granted(cap_add=("ALL",)) - {"CAP_SYS_ADMIN"}


@given(st.text(st.sampled_from("abcdef0123456789-_.Z/ \n\u00e9"), max_size=14) | ANY)
@example("")
@example("-")
@example("..")
@example("0123456789ab")
def test_any_container_name_is_safe_as_a_file_name_or_a_spec_error(name: str) -> None:
    try:
        assert check_name(name) == name
    except SpecError as error:
        assert error.field == "name"
        return
    assert "/" not in name and name[0] not in ".-" and name.isascii() and not is_id(name)


@pytest.mark.parametrize("same", ["//a", "/./a", "/a/."])
def test_one_place_is_not_mounted_twice_under_two_spellings(same: str) -> None:
    with pytest.raises(SpecError):
        Spec(image="x", mounts=(Mount("/a"), Mount(same)))


def test_a_variable_whose_value_is_no_text_is_a_spec_error() -> None:
    with pytest.raises(SpecError):
        Spec(image="x", env=(("A", 1),))  # type: ignore[arg-type]


@pytest.mark.parametrize("cpus", [0.0, -1.0, float("nan")])
def test_cpus_that_no_kernel_takes_are_refused(cpus: float) -> None:
    with pytest.raises(SpecError):
        Limits(cpus=cpus)


def test_an_argument_that_no_bytes_stand_for_is_a_spec_error() -> None:
    with pytest.raises(SpecError, match=r"^args: .*half a surrogate pair"):
        Spec(image="x", args=("\ud800",))
    assert Spec(image="x", args=("caf\udce9",)).args == ("caf\udce9",)
