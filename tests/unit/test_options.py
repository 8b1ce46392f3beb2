"""The command line of `run`: how words become options, and that every option arrives where it is meant to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pybox.cli import run
from pybox.cli.options import RUN, Option, Parsed, parse
from pybox.errors import PyboxError, SpecError
from pybox.runtime import Options
from pybox.spec import Limits, Mount, Net, Rlimit, Spec

PLAIN = Spec(image="IMAGE", args=("CMD",))
ONCE = Options(keep=True)  # what no option at all asks of the run


def asked(*words: str) -> tuple[Spec, Options]:
    """Return what the words before an image and a command ask for."""
    parsed = parse(RUN, [*words, "IMAGE", "CMD"])
    return run.spec_of(parsed), run.options_of(parsed)


def spec(**changes: object) -> tuple[Spec, Options]:
    """Return an ordinary run, changed."""
    return PLAIN.replace(**changes), ONCE


# One value for each option that takes effect, and what it must change. An option that is not in here fails the test below.
EFFECTS: dict[str, tuple[tuple[str, ...], tuple[Spec, Options]]] = {
    "rm": (("--rm",), (PLAIN, Options(keep=False))),
    "name": (("--name", "web"), (PLAIN, Options(keep=True, name="web"))),
    "timeout": (("--timeout", "2m"), (PLAIN, Options(keep=True, timeout=120.0))),
    "tty": (("-t",), spec(tty=True)),
    "stop-signal": (("--stop-signal", "INT"), spec(stop_signal="INT")),
    "no-init": (("--no-init",), spec(init=False)),
    "system": (("--system",), spec(system=True, init=False, tty=True, userns=True, no_new_privs=False)),
    "env": (("-e", "A=1", "--env=B=2=3"), spec(env=(("A", "1"), ("B", "2=3")))),
    "workdir": (("-w", "/src"), spec(workdir="/src")),
    "user": (("-u", "1000:10"), spec(user="1000:10")),
    "entrypoint": (("--entrypoint", "/bin/sh"), spec(entrypoint=("/bin/sh",))),
    "memory": (("-m", "64M"), spec(limits=Limits(memory=64 << 20))),
    "memory-swap": (("-m64M", "--memory-swap", "-1"), spec(limits=Limits(memory=64 << 20, memory_swap=-1))),
    "cpus": (("--cpus", "0.5"), spec(limits=Limits(cpus=0.5))),
    "cpu-shares": (("-c", "512"), spec(limits=Limits(cpu_shares=512))),
    "cpuset-cpus": (("--cpuset-cpus", "0-1"), spec(limits=Limits(cpuset_cpus="0-1"))),
    "pids-limit": (("--pids-limit", "20"), spec(limits=Limits(pids=20))),
    "oom-score-adj": (("--oom-score-adj", "-5"), spec(limits=Limits(oom_score_adj=-5))),
    "storage-size": (("--storage-size", "2M"), spec(limits=Limits(storage_size=2 << 20))),
    "ulimit": (
        ("--ulimit", "nofile=10:20", "--ulimit", "core=0"),
        spec(rlimits=(Rlimit("nofile", 10, 20), Rlimit("core", 0, 0))),
    ),
    "best-effort": (("--best-effort",), spec(best_effort=True)),
    "volume": (
        ("-v", "/a:/b:ro", "-v", "/c:/d"),
        spec(mounts=(Mount("/b", source="/a", read_only=True), Mount("/d", source="/c"))),
    ),
    "mount": (("--mount", "type=bind,src=/a,dst=/b,ro"), spec(mounts=(Mount("/b", source="/a", read_only=True),))),
    "tmpfs": (("--tmpfs", "/t:size=1m"), spec(mounts=(Mount("/t", size=1 << 20),))),
    "read-only": (("--read-only",), spec(read_only=True)),
    "upper": (("--upper", "disk"), spec(upper="disk")),
    "hostname": (("-h", "box"), spec(hostname="box")),
    "network": (("--network", "host"), spec(network="host")),
    "publish": (("-p", "8080:80"), spec(network="pybox", net=Net(ports=("8080:80",)))),
    "publish-all": (("-P",), spec(network="pybox", net=Net(publish_all=True))),
    "ip": (("--ip", "10.0.0.7"), spec(network="pybox", net=Net(ip=("10.0.0.7",)))),
    "mac-address": (("--mac-address", "02:00:00:00:00:07"), spec(network="pybox", net=Net(mac="02:00:00:00:00:07"))),
    "dns": (("--dns", "192.0.2.53"), spec(network="pybox", net=Net(dns=("192.0.2.53",)))),
    "add-host": (("--add-host", "db:192.0.2.9"), spec(network="pybox", net=Net(hosts=("db:192.0.2.9",)))),
    "allow-net": (("--allow-net", "pypi.org:443"), spec(network="pybox", net=Net(allow=("pypi.org:443",)))),
    "net-rate": (("--net-rate", "10m"), spec(network="pybox", net=Net(rate=10_000_000))),
    "pid": (("--pid", "host"), spec(pid="host")),
    "ipc": (("--ipc", "host"), spec(ipc="host")),
    "uts": (("--uts", "host"), spec(uts="host")),
    "userns": (("--userns",), spec(userns=True)),
    "without": (("--without", "pid", "--without", "net"), spec(pid="host", network="host")),
    "cap-add": (("--cap-add", "net_raw", "--cap-add", "ALL"), spec(cap_add=("CAP_NET_RAW", "ALL"))),
    "cap-drop": (("--cap-drop", "CAP_CHOWN"), spec(cap_drop=("CAP_CHOWN",))),
    "security-opt": (
        ("--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges=false"),
        spec(seccomp="unconfined", no_new_privs=False),
    ),
}
# What these say is so anyway, or (the status file, the file of variables) has a test of its own.
ELSEWHERE = {
    "pull",
    "trace",
    "trace-file",
    "step",
    "until",
    "init",
    "interactive",
    "status-file",
    "env-file",
    "detach",
    "cidfile",
    "detach-keys",
    "restart",
    "log-opt",
    "label",
}
ELSEWHERE |= {option.key for option in RUN if option.key.startswith("health-")} | {"no-healthcheck"}
ELSEWHERE |= {"hpc"}  # system/test_hpc.py
OF_HPC = {"keep_id", "umask"}  # no option says them alone


@pytest.mark.parametrize("key", EFFECTS)
def test_the_option_arrives_in_the_spec_or_the_options(key: str) -> None:
    words, wanted = EFFECTS[key]
    assert asked(*words) == wanted and wanted != (PLAIN, ONCE)


def test_every_option_of_the_table_is_tried() -> None:
    assert {option.key for option in RUN} - {"help"} == set(EFFECTS) | ELSEWHERE


def test_every_field_of_a_spec_can_be_set_by_an_option() -> None:
    def differing(one: object, other: object) -> set[str]:
        return {field for field, value in one.items() if value != getattr(other, field)}  # type: ignore[attr-defined]

    fields = {field for _, (found, _) in EFFECTS.values() for field in differing(found, PLAIN)}
    limits = {field for _, (found, _) in EFFECTS.values() for field in differing(found.limits, Limits())}
    assert fields == {field for field, _ in PLAIN.items()} - {"image", "args"} - OF_HPC
    assert limits == {field for field, _ in Limits().items()}


def test_no_name_is_used_twice_and_none_is_empty() -> None:
    names = [name for option in RUN for name in option.names]
    assert len(names) == len(set(names)) and all(name.startswith("-") and name.strip("-") for name in names)


@pytest.mark.parametrize("words", [("-m64M",), ("-m", "64M"), ("--memory=64M",), ("--memory", "64M"), ("-m", "1k", "-m", "64M")])
def test_a_value_may_be_glued_on_or_follow_and_the_last_one_counts(words: tuple[str, ...]) -> None:
    assert asked(*words) == spec(limits=Limits(memory=64 << 20))


def test_short_switches_combine_and_the_last_may_take_a_value() -> None:
    parsed = parse(RUN, ["-im64M", "-iwdir", "-ii", "X"])
    assert (parsed.one("memory"), parsed.one("workdir"), parsed.has("interactive"), parsed.rest) == ("64M", "dir", True, ["X"])


def test_a_value_may_look_like_an_option_or_be_empty() -> None:
    parsed = parse(RUN, ["--entrypoint", "", "--memory-swap", "-1", "--name=", "-e", "--rm", "X"])
    assert parsed.values == {"entrypoint": [""], "memory-swap": ["-1"], "name": [""], "env": ["--rm"]}


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        (["busybox", "ls", "-l", "--rm"], ["busybox", "ls", "-l", "--rm"]),
        (["--", "busybox", "--", "-x"], ["busybox", "--", "-x"]),
        (["--", "--rm"], ["--rm"]),
        (["-i", "-", "-i"], ["-", "-i"]),
        ([], []),
    ],
)
def test_what_follows_the_image_belongs_to_the_command(words: list[str], rest: list[str]) -> None:
    parsed = parse(RUN, words)
    assert parsed.rest == rest and not parsed.has("rm")


@pytest.mark.parametrize(("word", "given"), [("--rm=true", True), ("--rm=false", False)])
def test_a_switch_may_be_said_in_full(word: str, given: bool) -> None:
    assert parse(RUN, [word]).has("rm") is given


@pytest.mark.parametrize(
    ("words", "message", "hint"),
    [
        (["--memroy", "1"], "--memroy: unknown option", "did you mean --memory?"),
        (["--readonly"], "--readonly: unknown option", "did you mean --read-only?"),
        (["--xyzzy"], "--xyzzy: unknown option", None),
        (["-X"], "-X: unknown option", None),
        (["-iX"], "-X: unknown option", None),
        (["--memory"], "--memory: needs a value: BYTES", None),
        (["-i", "-m"], "-m: needs a value: BYTES", None),
        (["--rm=yes"], "--rm: 'yes': is a switch and takes true or false only", None),
    ],
)
def test_what_is_wrong_with_an_option_is_said(words: list[str], message: str, hint: str | None) -> None:
    with pytest.raises(SpecError) as caught:
        parse(RUN, words)
    assert caught.value.message == message
    assert hint is None or caught.value.hint == hint


@pytest.mark.parametrize("option", RUN, ids=lambda option: option.key)
def test_a_typo_in_any_long_option_is_told_the_right_name(option: Option) -> None:
    name = option.names[-1]
    with pytest.raises(SpecError) as caught:
        parse(RUN, [f"{name[:-1]}{name[-1] * 2}"])
    assert caught.value.hint == f"did you mean {name}?"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "image: no image given"),
        (["--network", "bridge", "x"], "network: 'bridge': not the name of a network"),
        (["--pid", "x", "x"], "pid: 'x': must be private or host"),
        (["--upper", "x", "x"], "upper: 'x': must be memory or disk"),
        (["-m", "64X", "x"], "memory: '64X': not a size or number, e.g. 64M or 1.5g"),
        (["--pids-limit", "0", "x"], "pids-limit: '0': must be between 1 and 4194304"),
        (["--name", "a/b", "x"], "name: 'a/b': must be letters, digits, '_', '.' and '-', beginning with a letter or digit"),
        (["--name", "0123456789ab", "x"], "name: '0123456789ab': has the form of an id, and would be taken for one"),
        (["--timeout", "0", "x"], "timeout: '0': must be more than 0 and less than 30 years"),
    ],
)
def test_what_is_wrong_with_a_value_is_said(words: list[str], message: str) -> None:
    with pytest.raises(SpecError) as caught:
        parsed = parse(RUN, words)
        run.spec_of(parsed), run.options_of(parsed)
    assert caught.value.message == message


def test_unlimited_processes_are_no_limit_and_an_empty_entrypoint_is_none() -> None:
    assert asked("--pids-limit=-1") == (PLAIN, ONCE)
    assert asked("--entrypoint", "") == spec(entrypoint=())


def test_an_env_file_is_read_and_what_is_said_with_e_wins(tmp_path: Path) -> None:
    path = tmp_path / "env"
    path.write_text("A=file\nB=file\n")
    assert asked("-e", "A=word", "--env-file", str(path)) == spec(env=(("A", "word"), ("B", "file")))


WORDS = st.lists(
    st.sampled_from([name for option in RUN for name in option.names])
    | st.sampled_from(["--", "-", "", "x", "-ii", "--rm=x"])
    | st.text(max_size=6),
    max_size=6,
)


@given(WORDS)
@example(["-i-"])
@example(["-"])
@example(["--="])
def test_any_words_are_parsed_or_a_spec_error(words: list[str]) -> None:
    try:
        parsed = parse(RUN, words)
    except SpecError:
        return
    assert isinstance(parsed, Parsed) and parsed.rest == words[len(words) - len(parsed.rest) :]


@given(WORDS)
@example(["--env-file", "", "x"])
def test_any_words_make_a_spec_or_a_pybox_error(words: list[str]) -> None:
    try:
        parsed = parse(RUN, words)
        found = run.spec_of(parsed), run.options_of(parsed)
    except PyboxError:
        return
    assert isinstance(found[0], Spec) and found[0].image == parsed.rest[0]


def test_init_false_means_no_init() -> None:
    assert asked("--init=false") == spec(init=False)


def test_of_init_and_no_init_the_last_one_counts() -> None:
    assert asked("--no-init", "--init") == (PLAIN, ONCE)


def test_a_system_container_has_its_own_user_namespace_unless_the_hosts_is_asked_for() -> None:
    ours, _ = asked("--system", "--userns=host")
    assert (ours.system, ours.userns, ours.no_new_privs) == (True, False, True)
    strict, _ = asked("--system", "--security-opt", "no-new-privileges")
    assert (strict.userns, strict.no_new_privs) == (True, True)


def test_the_last_word_on_a_switch_counts() -> None:
    assert asked("--read-only", "--read-only=false") == (PLAIN, ONCE)


def test_a_dash_is_no_switch() -> None:
    with pytest.raises(SpecError):
        parse(RUN, ["-i-", "--rm", "x"])


def test_a_short_option_takes_an_equals_sign() -> None:
    assert asked("-m=64M") == spec(limits=Limits(memory=64 << 20))


def test_the_hint_for_an_unknown_option_of_ps_does_not_speak_of_run() -> None:
    with pytest.raises(SpecError) as caught:
        parse((Option(("--format",), "", "json or table", "FORMAT"),), ["--xyzzy"])
    assert "run --help" not in str(caught.value.hint)


def test_help_is_found_after_other_options(capsys: pytest.CaptureFixture[str]) -> None:
    from pybox.cli.main import dispatch

    assert dispatch(["run", "--rm", "--help"]) == 0
    assert "Exit status:" in capsys.readouterr().out


def test_api_and_command_line_have_the_same_options() -> None:
    from pybox import api

    renamed = {
        "pids": "pids-limit",
        "mounts": "volume",
        "ulimits": "ulimit",
        "no_new_privs": "security-opt",
        "seccomp": "security-opt",
    }
    ours = {renamed.get(name, name.replace("_", "-")) for name in (*api.Container.__annotations__, "timeout", "name")}
    only_there = {"rm", "help", "status-file", "no-init", "interactive", "env-file", "tmpfs", "tty", "stop-signal", "system"}
    only_there |= {option.key for option in RUN if option.group in ("Background", "Learning")} | {
        "detach",
        "detach-keys",
        "label",
        "cidfile",
        "pull",
        "mount",
    }
    assert ours == {option.key for option in RUN} - only_there


def test_a_string_for_a_command_is_refused_with_an_example() -> None:
    from pybox import api

    with pytest.raises(SpecError) as caught:
        api.run("busybox", "ls -l")
    assert (caught.value.message, caught.value.hint) == (
        "args: 'ls -l': must be a list of words, not one string",
        'e.g. ["sh", "-c", "..."]',
    )


def test_a_status_file_is_written_for_a_launch_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from pybox.dirs import Dirs

    monkeypatch.setattr(run, "Forwarder", lambda: pytest.fail("the words are wrong: no signal handler is needed"))
    path = tmp_path / "status"
    with pytest.raises(SpecError, match=r"^memory: "):
        run.run(Dirs(f"{tmp_path}/store", f"{tmp_path}/state"), ["--status-file", str(path), "-m", "x", "busybox", "ls"])
    said = json.loads(path.read_text())
    assert (said["reason"], said["exit_code"], said["image"], said["args"]) == ("launch-failed", 125, "busybox", ["ls"])
    assert said["error_code"] == "E-SPEC"
    assert said["error"].startswith("memory: 'x'") and os.listdir(tmp_path) == ["status"]


def test_a_status_file_that_can_not_be_written_is_refused_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pybox.dirs import Dirs

    monkeypatch.setattr(run, "Runtime", lambda where: pytest.fail("the run has begun"))
    with pytest.raises(SpecError, match=r"^status-file: '.*/no/f': No such file or directory$"):
        run.run(Dirs(f"{tmp_path}/store", f"{tmp_path}/state"), ["--status-file", f"{tmp_path}/no/f", "busybox"])
