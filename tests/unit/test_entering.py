"""The plan of an exec: what keeps a container in, kept from who is in there already."""

from __future__ import annotations

import pytest
from test_plan import IMAGE, PLAIN, ROOT, USER, at, inputs, one

from pybox.entering import Visit, ready
from pybox.kernel.inputs import Account, Inputs
from pybox.listing import Entry
from pybox.plan import Plan
from pybox.spec import Limits
from pybox.steps.entering import EnterNamespaces, HideMemory, OpenGroup, OpenWorkdir
from pybox.steps.process import (
    BecomeInit,
    CheckLeash,
    Clone,
    CloseFds,
    DieWithParent,
    Exec,
    JoinGroup,
    NewSession,
    PlaceFd,
    SetOomScore,
)
from pybox.steps.rights import DropBounding, InstallFilter, NoNewPrivileges, SetCapabilities, SetUid
from pybox.steps.terminal import ControlTerminal, OpenTerminal

KINDS = ("mnt", "pid", "uts", "ipc", "net", "cgroup")
GROUPS = [["", "/cg/box"], ["memory", "/cg/memory/box"]]
RIGHTS = (DropBounding, SetUid, SetCapabilities, NoNewPrivileges)


def plan(
    spec: object = PLAIN, facts: object = ROOT, sealed: bool = False, detach: bool = False, tty: bool = False, **fields: object
) -> Plan:
    given = inputs(spec.replace(init=sealed, tty=tty), facts, **fields)  # type: ignore[attr-defined, arg-type]
    entry = Entry("0123456789ab", "", "/r/0123456789ab", "running", 7, {"groups": GROUPS}, None)
    assert isinstance(given, Inputs)
    return ready(given, entry, Visit(("ls",), tty=tty, detach=detach), KINDS, sealed).plan


@pytest.mark.parametrize("tty", [False, True])
@pytest.mark.parametrize("spec", [PLAIN, PLAIN.replace(userns=True)], ids=["plain", "userns"])
def test_rights_are_given_up_and_memory_is_hidden_before_the_birth_inside(spec: object, tty: bool) -> None:
    """CVE-2016-9962, CVE-2019-5736: from the second clone on the container can name the process."""
    found = plan(spec, tty=tty, account=Account(5, 6, (7,)))
    first, birth = at(found, Clone)
    hidden = one(found, HideMemory)
    assert first == 0 < one(found, EnterNamespaces) < max(at(found, *RIGHTS)) < hidden < birth
    assert birth < one(found, NewSession) < one(found, CloseFds) < one(found, Exec)
    assert not at(found, BecomeInit) and bool(at(found, ControlTerminal)) == bool(at(found, OpenTerminal)) == tty


@pytest.mark.parametrize("detach", [False, True])
def test_sealed_nothing_of_pyboxs_is_born_inside(detach: bool) -> None:
    found = plan(sealed=True, detach=detach, tty=not detach)
    assert at(found, Clone) == [0] and not at(found, HideMemory, ControlTerminal)
    init = found.inside[one(found, BecomeInit)]
    assert isinstance(init, BecomeInit) and init.how == ("vd" if detach else "tv")
    assert max(at(found, *RIGHTS)) < one(found, CloseFds) < one(found, InstallFilter) < one(found, BecomeInit) < one(found, Exec)
    assert {step.at for step in found.inside if isinstance(step, PlaceFd)} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("sealed", [False, True])
def test_it_dies_with_pybox_unless_detached_and_a_change_of_ids_does_not_undo_that(sealed: bool) -> None:
    """The kernel forgets PR_SET_PDEATHSIG with each change of credentials, prctl(2)."""
    found = plan(sealed=sealed, account=Account(1000, 1000))
    assert max(at(found, *RIGHTS)) < one(found, DieWithParent) < one(found, CheckLeash) < one(found, CloseFds)
    assert not at(plan(sealed=sealed, detach=True), DieWithParent, CheckLeash)


def test_groups_and_the_weight_for_the_oom_killer_come_before_the_namespaces() -> None:
    """The host's /proc is written to, never the container's (CVE-2025-52881)."""
    found = plan(PLAIN.replace(limits=Limits(oom_score_adj=5)))
    assert [step.describe() for step in found.prepare if isinstance(step, OpenGroup)]
    assert max(at(found, JoinGroup, SetOomScore)) < one(found, EnterNamespaces)
    clone = found.inside[0]
    assert isinstance(clone, Clone) and clone.into_cgroup == "cgroup"


def test_nothing_is_made_and_the_working_directory_is_opened_inside() -> None:
    found = plan(PLAIN.replace(workdir="/src"), USER, image=IMAGE)
    assert one(found, EnterNamespaces) < one(found, OpenWorkdir)
    assert not [step for step in found.inside if type(step).__name__.startswith(("Make", "Mount"))]
