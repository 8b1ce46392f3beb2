"""What each option changes in a plan and what it leaves alone, and what can not be planned."""

# ruff: noqa: F811

from __future__ import annotations

import pytest
from test_plan import IMAGE, PLAIN, ROOT, USER, VARIANTS, given, inputs  # noqa: F401

from pybox.errors import LimitError, SpecError
from pybox.host import Cgroups, Facts
from pybox.image.model import ImageConfig
from pybox.kernel.inputs import Account, Inputs
from pybox.plan import make
from pybox.spec import Limits, Mount, Spec
from pybox.steps import mounts
from pybox.steps.base import Step
from pybox.steps.hostside import MakeUpper
from pybox.steps.mounts import MakeReadOnly, MountKernelFs, MountOverlay
from pybox.steps.network import EnterNetwork, LoopbackUp, MakeNetwork
from pybox.steps.places import EnterWorkdir
from pybox.steps.process import Clone, SetHostname
from pybox.steps.rights import InstallFilter, NoNewPrivileges, SetCapabilities, SetGid, SetRlimit, SetUid
from pybox.steps.wiring import PlugIn


@pytest.mark.parametrize(
    ("field", "flag"), [("network", "CLONE_NEWNET"), ("pid", "CLONE_NEWPID"), ("ipc", "CLONE_NEWIPC"), ("uts", "CLONE_NEWUTS")]
)
@pytest.mark.parametrize("facts", [ROOT, USER], ids=["root", "user"])
def test_only_what_is_asked_for_is_shared_with_the_host(field: str, flag: str, facts: Facts) -> None:
    def born(spec: Spec) -> set[str]:
        plan = make(inputs(spec, facts))
        made = {"CLONE_NEWNET" for step in plan.prepare if isinstance(step, MakeNetwork)}
        return made | {name for step in plan.inside if isinstance(step, Clone) for name in step.flags}

    everything = born(PLAIN)
    assert {"CLONE_NEWNS", "CLONE_NEWPID", "CLONE_NEWIPC", "CLONE_NEWUTS", "CLONE_NEWNET", "CLONE_NEWCGROUP"} == everything
    shared = PLAIN.replace(**{field: "host"})
    assert everything - born(shared) - {"CLONE_NEWCGROUP"} == {flag}


def test_what_an_option_changes_is_seen_in_the_steps() -> None:
    def of(name: str, *kinds: type) -> list[Step]:
        return [step for step in make(VARIANTS[name]).inside if isinstance(step, kinds)]

    assert MakeReadOnly("/", ("MS_RDONLY", "MS_NODEV")) == of("read only", MakeReadOnly)[-1]
    assert all(step != MakeReadOnly("/", ("MS_RDONLY", "MS_NODEV")) for step in of("plain", MakeReadOnly))
    assert of("network host", LoopbackUp, EnterNetwork) == [] and of("plain", LoopbackUp, EnterNetwork) == [EnterNetwork()]
    assert of("pid, ipc, uts host", SetHostname) == [] and len(of("plain", SetHostname)) == 1
    assert of("everything", EnterWorkdir) == [EnterWorkdir("at:workdir", "/src")] and of("plain", EnterWorkdir) == []
    assert of("unconfined", InstallFilter, NoNewPrivileges) == [] and len(of("plain", InstallFilter, NoNewPrivileges)) == 2
    assert of("another user", SetUid, SetGid, SetCapabilities) == [SetGid(6), SetUid(5), SetCapabilities(0)]
    assert of("everything", SetRlimit) == [SetRlimit("nofile", 5, -1)]


def test_the_writable_layer_is_on_disk_only_when_it_must_be() -> None:
    made = {name: any(isinstance(step, MakeUpper) for step in make(given).prepare) for name, given in VARIANTS.items()}
    assert {name for name, on_disk in made.items() if on_disk} == {
        "kept",
        "looked after",
        "looked after, hybrid",
        "upper on disk",
        "a writable layer with a limit",
        "a writable layer that is a disk",
        "a disk, userns",
        "an init of its own",
        "userns",
        "userns, limits",
        "on a network, user namespace",
        "plain user, old kernel",
    }
    for name, volatile in (("kept", False), ("plain", False), ("upper on disk", True)):
        (overlay,) = [step for step in make(VARIANTS[name]).inside if isinstance(step, MountOverlay)]
        assert overlay.throw_away is volatile and overlay.lower_dirs == ("layers/a", "layers/b")


def test_what_is_masked_is_covered_and_what_is_read_only_is_made_so(given: Inputs) -> None:
    plan = make(given)
    covered = {step.path for step in plan.inside if type(step) is mounts.Cover}
    covered |= {
        step.target for step in plan.inside if isinstance(step, MountKernelFs) and step.options and "nr_inodes=1" in step.options
    }
    assert covered == {path for path, _ in given.facts.masked}
    assert {step.path for step in plan.inside if isinstance(step, MakeReadOnly)} - {"/"} == set(given.facts.read_only)


def test_the_journal_lists_all_that_the_host_will_have_to_undo() -> None:
    assert make(VARIANTS["plain"]).leaves() == ()
    assert make(VARIANTS["kept"]).leaves() == (("tree", "/s/uppers/CONTAINER-ID"),)
    assert make(VARIANTS["everything, hybrid"]).leaves() == tuple(
        ("group", f"/cg/{name}/pybox-CONTAINER-ID") for name in ("memory", "pids", "cpu")
    )
    assert make(VARIANTS["everything"]).leaves() == (("group", "/cg/pybox-CONTAINER-ID"),)


def test_the_way_out_leads_over_a_network_that_has_one_and_ipv6_s_only_where_the_host_forwards_it() -> None:
    given = VARIANTS["on networks"]
    for forwards6 in (True, False):
        plugs = [step for step in make(given.replace(forwards6=forwards6)).prepare if isinstance(step, PlugIn)]
        assert [(step.network.name, step.way_out, step.way_out6) for step in plugs] == [
            ("a", False, False),
            ("b", True, forwards6),
        ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            inputs(PLAIN.replace(args=()), image=IMAGE.replace(config=ImageConfig())),
            "args: no command given, and image busybox has none",
        ),
        (inputs(PLAIN.replace(args=("",))), "args: the command is an empty string"),
        (inputs(facts=USER, account=Account(5, 0)), "user: '5': id 5 does not exist in a user namespace with 1 id(s)"),
        (inputs(PLAIN.replace(cap_add=("CAP_FOO",))), "cap-add: 'CAP_FOO': no such capability"),
        (
            inputs(PLAIN.replace(cap_add=("CAP_SYS_TIME",)), ROOT.replace(capabilities=((1 << 41) - 1) & ~(1 << 25))),
            "cap-add: 'CAP_SYS_TIME': pybox does not have it itself, so it can't grant it",
        ),
    ],
)
def test_what_can_not_be_planned_is_refused_and_says_why(given: Inputs, message: str) -> None:
    with pytest.raises(SpecError) as caught:
        make(given)
    assert caught.value.message == message


def test_a_limit_that_can_not_be_enforced_stops_the_plan() -> None:
    with pytest.raises(LimitError, match=r"^cannot enforce --pids-limit: hybrid$"):
        make(inputs(PLAIN.replace(limits=Limits(pids=5)), USER.replace(cgroups=Cgroups(problem="hybrid"))))


def test_all_capabilities_means_all_that_pybox_has() -> None:
    short = ROOT.replace(capabilities=0xFF)
    assert SetCapabilities(0xFF) in make(inputs(PLAIN.replace(cap_add=("ALL",)), short)).inside


def test_a_plan_of_very_many_volumes_is_refused_and_not_cut() -> None:
    spec = PLAIN.replace(mounts=tuple(Mount(f"/v{n}", source="/h") for n in range(2000)))
    with pytest.raises((SpecError, ValueError)):
        make(inputs(spec, sources=("directory",) * 2000)).lower()
