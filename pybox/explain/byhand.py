"""The same plan for a person with a shell: the lines of unshare, mount and echo that do what its steps do.

One block per step, with its number, in the order of the plan but for two things that a shell can't do otherwise: it joins its
control groups before unshare(1) makes the namespaces, and what pybox takes hold of by an fd while the host is in sight waits in
a directory. From pivot_root on the tools are the image's. What has no word in a shell is said in a comment.
tests/system/test_explain.py pastes them.
"""

from __future__ import annotations

from shlex import quote

from pybox import native
from pybox.errors import SpecError
from pybox.steps import claim, disk, hostside, mounts, network, places, process, quota, rights

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pybox.plan import Plan

    Writer = Callable[["_Script", Any], list[str]]

_UNSHARE = {
    "CLONE_NEWNS": "--mount --propagation unchanged",
    "CLONE_NEWUTS": "--uts",
    "CLONE_NEWIPC": "--ipc",
    "CLONE_NEWPID": "--pid --fork --kill-child",
    "CLONE_NEWNET": "--net",
    "CLONE_NEWCGROUP": "--cgroup",
}
_HOLD = ".by-hand"  # where sources wait until the root has changed


def quoted(text: str) -> str:
    """Return a word for sh(1); CONTAINER-ID becomes $ID."""
    return '"$ID"'.join(quote(part) if part else "" for part in text.split(native.ID_TOKEN)) or "''"


def script(plan: Plan) -> str:
    """Return the lines. Raises SpecError for a plan with a step that no shell can take."""
    return _Script(plan).text()


def _flags(names: tuple[str, ...]) -> str:
    """Return mount(8)'s words for flags of mount(2) or mount_setattr(2)."""
    return ",".join(name.removeprefix("MS_").removeprefix("MOUNT_ATTR_").replace("RDONLY", "ro").lower() for name in names)


class _Script:
    """Walks a plan once. What a writer below returns goes where the script is at; some add to the lists themselves."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.namespaces: list[str] = []
        self.joins: list[str] = []
        self.undo: list[str] = []
        self.setpriv: list[str] = []
        self.at: dict[str, str] = {}  # slot: path it was opened for
        self.kept: dict[str, str] = {}  # slot: where its source waits
        self.hold = ""  # the directory of sources, as seen from where the script is
        self.group = {
            step.slot: f"{step.path}/{step.join or 'cgroup.procs'}"
            for step in plan.prepare
            if isinstance(step, hostside.MakeGroup)
        }

    def text(self) -> str:
        before: list[str] = []
        inside: list[str] = []
        for number, side, step in self.plan.steps():
            write = next((_WRITERS[kind] for kind in type(step).__mro__ if kind in _WRITERS), None)
            if write is None:
                reason = f"step {number} ({step.describe()}) has no equivalent there"
                raise SpecError("shell", "", reason, "it works without --userns, --network, -t and --system")
            lines = write(self, step)
            if lines:
                (before if side == "host" else inside).extend([f"# {number}. {step.describe()}", *lines])
        undo = [f"trap {quote('; '.join(reversed(self.undo)))} EXIT"] if self.undo else []
        return "\n".join(
            [
                "# Paste it into a shell that has the rights of the plan. It needs util-linux and iproute2.",
                "(set -e",
                "export ID=$(od -An -N6 -tx1 /dev/urandom | tr -d ' \\n')",
                *before,
                *undo,
                "(",
                *self.joins,
                f"exec unshare {' '.join(self.namespaces)} sh -e /dev/fd/3) 3<<'INSIDE'",
                *inside,
                "INSIDE",
                ")",
            ]
        )

    def source(self, slot: str) -> str:
        """Return where the source of a slot waits, seen from here."""
        return f"{self.hold}/{self.kept[slot]}"


def _nothing(why: str) -> Writer:
    return lambda to, step: [f"#    {why}"]


def _make_upper(to: _Script, step: hostside.MakeUpper) -> list[str]:
    to.undo.append(f"rm -rf {quoted(step.path)}")
    return [f"mkdir -p -m 0{mode:o} {quoted(path)}" for path, mode in step._directories()]


def _make_group(to: _Script, step: hostside.MakeGroup) -> list[str]:
    to.undo.append(f"rmdir {quoted(step.path)}")
    return [f"mkdir {quoted(step.path)}"]


def _enable(to: _Script, step: hostside.EnableControllers) -> list[str]:
    wanted = " ".join("+" + name for name in step.controllers)
    tolerant = " || true" if step.optional else ""
    return [f"mkdir -p {quoted(step.group)}", f"echo {quote(wanted)} > {quoted(step.group)}/cgroup.subtree_control{tolerant}"]


def _limit(to: _Script, step: hostside.SetLimit) -> list[str]:
    line = f"echo {quote(step.value)} > {quoted(step.path)}"
    return [f"[ ! -e {quoted(step.path)} ] || {line}" if step.optional else line]


def _user_namespace(to: _Script, step: hostside.MakeUserNamespace) -> list[str]:
    if len(step.uids) == 1 and step.uids[0][2] == 1:
        to.namespaces.append("--map-root-user")
    else:
        for word, ranges in (("users", step.uids), ("groups", step.gids)):
            more = ranges[1:]
            to.namespaces += ["--map-root-user"] if word == "users" else []
            to.namespaces += [f"--map-{word}={start},{first},{count}" for first, start, count in more]
    return ["#    unshare(1) below does it, and newuidmap(1) writes what a plain user may not"]


def _network(to: _Script, step: network.MakeNetwork) -> list[str]:
    to.namespaces.append("--net")
    return ["#    unshare(1) below makes it, together with the others"]


def _clone(to: _Script, step: process.Clone) -> list[str]:
    if step.into_cgroup:
        to.joins.append(f"echo 0 > {quoted(to.group[step.into_cgroup])}")
    for flag in step.flags:
        if _UNSHARE[flag] not in to.namespaces:
            to.namespaces.append(_UNSHARE[flag])
    return ["#    done: that was unshare(1)"]


def _join(to: _Script, step: process.JoinGroup) -> list[str]:
    to.joins.append(f"echo 0 > {quoted(to.group[f'cgroup:{step.controller}'])}")
    return ["#    done, before unshare(1)"]


def _cgroup_view(to: _Script, step: process.OwnCgroupView) -> list[str]:
    to.namespaces.append("--cgroup")
    return ["#    done: that was unshare(1)"]


def _hostname(to: _Script, step: process.SetHostname) -> list[str]:
    return [f"hostname {quoted(step.name)}"]


def _go(to: _Script, step: places.GoTo) -> list[str]:
    if step.path == "/":
        return ["cd /"]
    if step.path != "mnt":  # the store
        return [f"cd {quoted(step.path)}", "mkdir -p mnt scratch"]
    if not to.kept:
        return ["cd mnt"]
    to.hold = f"/{_HOLD}"
    return [f"mkdir mnt/{_HOLD}", f"mount --rbind scratch mnt/{_HOLD}  # the sources, for later", "cd mnt"]


def _quota(to: _Script, step: quota.SetQuota) -> list[str]:
    path, number = quoted(step.path), "4242"  # any number that no other directory has
    return [f"chattr -R +P -p {number} {path}", f"setquota -P {number} 0 {step.size // 1024} 0 0 $(findmnt -no TARGET -T {path})"]


def _make_disk(to: _Script, step: disk.MakeDisk) -> list[str]:
    path = quoted(step.path)
    return [
        *_make_upper(to, step),
        f"truncate -s {disk.needed(step.size)} {path}.disk",
        f"{' '.join(disk.MAKE)} -d {path} {path}.disk",
        f"mv {path}.disk {path}/disk",
    ]


def _attach_disk(to: _Script, step: disk.AttachDisk) -> list[str]:
    to.undo.append('losetup -d "$LOOP"')
    return [f"export LOOP=$(losetup --find --show {quoted(step.path)}/disk)"]


def _mount_disk(to: _Script, step: disk.MountDisk) -> list[str]:
    return [f'mount -t ext4 -o {_flags(disk.FLAGS)},{disk.OPTIONS} "$LOOP" {quoted(step.target)}']


def _overlay(to: _Script, step: mounts.MountOverlay) -> list[str]:
    return [f"mount -t overlay -o {quoted('nodev,' + step.options())} overlay {quoted(step.target)}"]


def _kernel_fs(to: _Script, step: mounts.MountKernelFs) -> list[str]:
    options = ",".join(part for part in (_flags(step.flags), step.options or "") if part)
    return [f"mount -t {step.fstype} {f'-o {quoted(options)} ' if options else ''}{step.fstype} {quoted(step.target)}"]


def _open_source(to: _Script, step: mounts.OpenSource) -> list[str]:
    to.hold = to.hold or "scratch"
    to.kept[step.slot] = name = f"held-{len(to.kept)}"
    place, path = f"{to.hold}/{name}", quoted(step.path)
    return [
        f"if [ -d {path} ]; then mkdir {place}; else : > {place}; fi",
        f"mount {'--rbind' if step.recursive else '--bind'} {path} {place}",
    ]


def _source_flags(to: _Script, step: mounts.SetMountFlags) -> list[str]:
    return [f"mount -o remount,bind,{_flags(step.flags)} {to.source(step.slot)}"]


def _open_target(to: _Script, step: places.OpenTarget) -> list[str]:
    to.at[step.slot] = step.path
    path = quoted(step.path)
    if step.file:
        return [f"[ -e {path} ] || : > {path}"]
    return [f"mkdir -p {path}"]


def _place(to: _Script, step: mounts.PlaceMount) -> list[str]:
    # bound and not moved: out of a mount that is shared with nobody it may be moved, but busybox has no word for it
    return [f"mount -o rbind {to.source(step.source)} {quoted(to.at[step.onto])}"]


def _enter(to: _Script, step: places.EnterPlace) -> list[str]:
    return [f"cd {quoted(to.at[step.slot])}"]


def _detach(to: _Script, step: mounts.DetachOldRoot) -> list[str]:
    return ["umount -l ."]


def _file(to: _Script, step: places.MakeFile) -> list[str]:
    text = f"printf '%s' {quoted(step.text)}" if step.text else ":"
    return [f"{text} > {quoted(step.path)}"]


def _bind(to: _Script, step: mounts.Cover) -> list[str]:
    return [f"[ ! -e {quoted(step.path)} ] || mount -o bind {quoted(step.by)} {quoted(step.path)}"]


def _read_only(to: _Script, step: mounts.MakeReadOnly) -> list[str]:
    return [f"mount -o remount,bind,{_flags(step.flags)} {quoted(step.path)}"]


def _rlimit(to: _Script, step: rights.SetRlimit) -> list[str]:
    def shown(value: int) -> str:
        return "unlimited" if value == -1 else str(value)

    return [f"prlimit --pid $$ --{step.name}={shown(step.soft)}:{shown(step.hard)}"]


def _capabilities(keep: int) -> str:
    names = [native.capability(cap).removeprefix("CAP_").lower() for cap in range(keep.bit_length()) if keep >> cap & 1]
    return ",".join(["-all", *("+" + name for name in names)])


def _priv(*words: str) -> Writer:
    def write(to: _Script, step: object) -> list[str]:
        to.setpriv += [word.format(step=step) for word in words]
        return ["#    setpriv(1) below does it"]

    return write


def _bounding(to: _Script, step: rights.DropBounding) -> list[str]:
    to.setpriv += [f"--bounding-set={_capabilities(step.keep)}", "--inh-caps=-all"]
    return ["#    setpriv(1) below does it"]


def _groups(to: _Script, step: rights.SetGroups) -> list[str]:
    to.setpriv.append(f"--groups={','.join(map(str, step.gids))}" if step.gids else "--clear-groups")
    return ["#    setpriv(1) below does it"]


def _exec(to: _Script, step: process.Exec) -> list[str]:
    command = f"env -i {' '.join(map(quoted, step.env))} {' '.join(map(quoted, step.args))} 3<&-"
    words = " ".join(to.setpriv)
    tidy = [f"umount -l /{_HOLD}; rmdir /{_HOLD}"] if to.kept else []
    return [
        *tidy,
        "case $(setpriv --help 2>&1) in *bounding-set*)",
        f"  exec setpriv {words} {command};;",
        "esac",
        "echo 'this image has no setpriv of util-linux: the command keeps all rights' >&2",
        f"exec {command}",
    ]


_WRITERS: dict[type, Writer] = {
    claim.ClaimState: _nothing("pybox's own book-keeping: by hand you remember yourself what to undo"),
    hostside.MakeUpper: _make_upper,
    quota.SetQuota: _quota,
    disk.MakeDisk: _make_disk,
    disk.AttachDisk: _attach_disk,
    disk.MountDisk: _mount_disk,
    hostside.MakeGroup: _make_group,
    hostside.EnableControllers: _enable,
    hostside.SetLimit: _limit,
    hostside.MakeUserNamespace: _user_namespace,
    network.MakeNetwork: _network,
    process.Clone: _clone,
    process.EnterUserNamespace: _nothing("done: that was unshare(1)"),
    process.JoinGroup: _join,
    process.OwnCgroupView: _cgroup_view,
    network.EnterNetwork: lambda to, step: ["ip link set lo up"],
    network.LoopbackUp: lambda to, step: ["ip link set lo up"],
    process.SetHostname: _hostname,
    process.SetUmask: lambda to, step: [f"umask 0{step.mask:o}"],
    process.SetOomScore: lambda to, step: [f"echo {step.value} > /proc/self/oom_score_adj"],
    process.NewSession: _nothing("left out: in a new session the shell would lose its terminal; setsid(1) makes one"),
    process.PlaceFd: lambda to, step: [],
    process.CloseFds: _nothing("the shell has opened none but 3, its script, which is closed at the end"),
    process.DieWithParent: _nothing("that was --kill-child"),
    process.CheckLeash: lambda to, step: [],
    process.BecomeInit: _nothing("left out: the command becomes process 1 itself"),
    process.Exec: _exec,
    mounts.PrivateMounts: lambda to, step: ["mount --make-rprivate /"],
    mounts.MountOverlay: _overlay,
    mounts.MountKernelFs: _kernel_fs,
    mounts.OpenSource: _open_source,
    mounts.SetMountFlags: _source_flags,
    mounts.PlaceMount: _place,
    mounts.PivotRoot: lambda to, step: ["pivot_root . ."],
    mounts.DetachOldRoot: _detach,
    mounts.Cover: _bind,
    mounts.MakeReadOnly: _read_only,
    mounts.BindOnItself: lambda to, step: [f"mount -o rbind {quoted(step.path)} {quoted(step.path)}"],
    places.GoTo: _go,
    places.OpenTarget: _open_target,
    places.EnterPlace: _enter,
    places.RealDirectory: lambda to, step: [f"[ -d {quoted(step.path)} ] && [ ! -L {quoted(step.path)} ]"],
    places.MakeDirectory: lambda to, step: [f"mkdir -p -m 0{step.mode:o} {quoted(step.path)}"],
    places.MakeFile: _file,
    places.MakeNode: lambda to, step: [f"mknod -m 666 {quoted(step.path)} c {step.major} {step.minor}"],
    places.MakeSymlink: lambda to, step: [f"ln -s {quoted(step.to)} {quoted(step.path)}"],
    rights.SetRlimit: _rlimit,
    rights.DropBounding: _bounding,
    rights.SetGroups: _groups,
    rights.SetGid: _priv("--regid={step.gid}"),
    rights.SetUid: _priv("--reuid={step.uid}"),
    rights.SetCapabilities: _nothing("the bounding set above limits root, and another user has none"),
    rights.NoNewPrivileges: _priv("--no-new-privs"),
    rights.InstallFilter: _nothing("left out: no tool of a shell installs a seccomp filter"),
}
