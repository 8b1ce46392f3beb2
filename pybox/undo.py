"""How host-side effects are undone: one verb per kind of leftover. A run uses it on its way out, `pybox gc` from the journal.

Each verb is safe to repeat and safe to run for an effect that never happened: the journal is written before the effects.
"""

from __future__ import annotations

import posix as os

from pybox.host import read
from pybox.paths import exists, is_dir


def undo(verb: str, path: str) -> None:
    """Undo one effect. Raises OSError when the kernel refuses, KeyError for a verb of another version."""
    VERBS[verb](path)


def remove_link(path: str) -> None:
    """Remove a name."""
    try:
        os.unlink(path)
    except OSError:
        if not _gone(path):
            raise


def _gone(path: str) -> bool:
    """Whether there is nothing: asked after a refusal, because a read-only file system refuses to remove also what is not there."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    return False


def remove_group(path: str) -> None:
    """Kill what is in a control group and remove it; cgroups(7). Groups below it go first."""
    try:
        os.rmdir(path)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    for attempt in range(200):
        kill_group(path)
        try:
            for name in os.listdir(path):
                if is_dir(f"{path}/{name}"):
                    remove_group(f"{path}/{name}")
            os.rmdir(path)
            return
        except FileNotFoundError:
            return
        except OSError:
            if attempt == 199:
                raise
            import time

            time.sleep(0.005)  # the last process is dying: the kernel says EBUSY until it is gone


def kill_group(path: str) -> None:
    """Kill all processes of a control group: by cgroup.kill, or one by one where the kernel has none. Raises OSError."""
    try:
        fd = os.open(f"{path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        _thaw(path)
        own = os.getpid()
        for pid in read(f"{path}/cgroup.procs").split():
            if int(pid) not in (0, own):
                try:
                    os.kill(int(pid), 9)
                except OSError:
                    pass
        return
    try:
        os.write(fd, b"1")
    finally:
        os.close(fd)


def _thaw(path: str) -> None:
    """Let the processes of a frozen v1 group go on: there, unlike in cgroup2, one that is frozen does not even die."""
    try:
        fd = os.open(f"{path}/freezer.state", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
        return
    try:
        os.write(fd, b"THAWED")
    finally:
        os.close(fd)


def remove_tree(path: str) -> None:
    """Remove a directory tree. Nothing in it is followed, and no depth of it is too much: a container made it.

    Each directory found is moved up to the top before it is emptied, so there is neither recursion nor a path that grows.
    """
    try:
        _remove_tree(path)
    except PermissionError:
        if os.geteuid() == 0:
            raise
        _remove_as_their_root(path)


def _remove_as_their_root(path: str) -> None:
    """Remove what a plain user's container made with subordinate ids: only root of a user namespace with these ids may."""
    from pybox import host, native
    from pybox.kernel.namespaces import own_maps
    from pybox.steps.base import Desk
    from pybox.steps.hostside import MakeUserNamespace

    uids, gids = own_maps(host.probe())
    desk = Desk("", {"program": native.seal("pybox-init", native.init_program())})
    MakeUserNamespace(uids, gids, helper=len(uids) > 1).apply(desk)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            native.enter_user_namespace(desk.fds["userns"])
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            _remove_tree(path)
            status = 0
        finally:
            os._exit(status)
    failed = os.waitpid(pid, 0)[1]
    os.close(desk.fds["userns"])
    os.close(desk.reuse["program"])
    if failed:
        raise PermissionError(1, "its files belong to ids that are not the caller's", path)


def _remove_tree(path: str) -> None:
    try:
        os.rmdir(path)
        return
    except OSError:
        if _gone(path):
            return
    top = _open_directory(path, None)
    try:
        count = 0
        while found := _entries(top):
            for name, is_dir in found:
                if not is_dir:
                    os.unlink(name, dir_fd=top)
                    continue
                here = _open_directory(name, top)
                try:
                    for child, child_is_dir in _entries(here):
                        if not child_is_dir:
                            os.unlink(child, dir_fd=here)
                        else:
                            count = _move_up(child, here, top, count)
                finally:
                    os.close(here)
                os.rmdir(name, dir_fd=top)
    finally:
        os.close(top)
    os.rmdir(path)


def _entries(fd: int) -> list[tuple[str, bool]]:
    with os.scandir(fd) as entries:
        return [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]


def _open_directory(name: str, dir_fd: int | None) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    if os.geteuid() != 0:
        os.chmod(name, 0o700, dir_fd=dir_fd)  # a plain user's own, perhaps closed by its mode: overlayfs leaves such
    return os.open(name, flags, dir_fd=dir_fd)


def _move_up(child: str, here: int, top: int, count: int) -> int:
    try:
        os.rmdir(child, dir_fd=here)
        return count
    except OSError:
        pass
    if os.geteuid() != 0:
        os.chmod(child, 0o700, dir_fd=here)  # its ".." changes, so it must be writable
    while True:
        count += 1
        try:
            os.rename(child, f"{count}~", src_dir_fd=here, dst_dir_fd=top)
            return count
        except (FileExistsError, NotADirectoryError):
            continue
        except OSError as error:
            if error.errno != 39:  # ENOTEMPTY: the name is taken
                raise


def remove_interface(path: str) -> None:
    """See that an interface goes: ``<state>/ID/link/POSITION``.

    The kernel removes it with the network namespace, and that goes with its last process, which has ended by now. Removing it
    by hand would wait 20 ms for a grace period of RCU. So that is done only where another container is in there, too.
    """
    folder, _, position = path.rpartition("/link/")
    if not exists(f"{folder}/shared"):
        return
    from pybox.network import rtnl
    from pybox.network.pool import link_name

    name = link_name(folder.rpartition("/")[2], int(position))
    with rtnl.Kernel() as kernel:
        try:
            kernel.ask(rtnl.remove(name))
        except OSError as error:
            if error.errno != 19:  # ENODEV: it went with the container's namespace
                raise


def release_address(path: str) -> None:
    """Give up the address of a container on a network: ``<state>/net/NETWORK/ID``. Its neighbours forget its name."""
    from pybox.network import names, pool

    folder, _, identity = path.rpartition("/")
    state, _, network = folder.rpartition("/net/")
    for one in pool.leases(state, network):
        if one.identity == identity:
            from pybox.network import members

            members.dismiss(one)
    if pool.release(folder, identity):
        names.refresh(state, (network,))


def withdraw_ports(path: str) -> None:
    """Give up the ports of a container: ``<state>/ports/ID``. First the rules, then the claims that tell which."""
    from pybox.network import pool

    folder, _, identity = path.rpartition("/")
    state = folder.removesuffix("/ports")
    mine = [port for port in pool.ports(state) if port.identity == identity]
    if mine:
        from pybox.network import firewall

        firewall.withdraw(mine, [one for one in pool.all_leases(state) if one.identity == identity])
        pool.release(folder, identity)


def remove_fence(path: str) -> None:
    """Remove the allow-list of a container: ``<state>/ID``. Its addresses are still claimed, for they tell which elements."""
    from pybox.network import firewall, pool

    state, _, identity = path.rpartition("/")
    firewall.tear_down(identity, [one for one in pool.all_leases(state) if one.identity == identity])


def stop_pasta(path: str) -> None:
    """End the pasta of a plain user's container; ``path`` is the file with its pid."""
    from pybox.network import pasta

    pasta.stop(path)


def lift_quota(path: str) -> None:
    """Take back the limit of a writable layer; it stays marked, and may be limited again."""
    from pybox import native
    from pybox.steps.quota import project

    try:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        if number := project(fd):
            native.set_quota(fd, number, 0)
    finally:
        os.close(fd)


VERBS = {
    "unlink": remove_link,
    "group": remove_group,
    "tree": remove_tree,
    "link": remove_interface,
    "lease": release_address,
    "ports": withdraw_ports,
    "fence": remove_fence,
    "pasta": stop_pasta,
    "quota": lift_quota,
}
