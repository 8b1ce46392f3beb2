"""How host-side effects are undone: one verb per kind of leftover. A run uses it on its way out, `pybox gc` from the journal.

Each verb is safe to repeat and safe to run for an effect that never happened: the journal is written before the effects.
"""

from __future__ import annotations

import os

from pybox.host import read


def undo(verb: str, path: str) -> None:
    """Undo one effect. Raises OSError when the kernel refuses, KeyError for a verb of another version."""
    VERBS[verb](path)


def remove_link(path: str) -> None:
    """Remove a name."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


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
        _kill_group(path)
        try:
            for name in os.listdir(path):
                if os.path.isdir(f"{path}/{name}"):
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


def _kill_group(path: str) -> None:
    try:
        fd = os.open(f"{path}/cgroup.kill", os.O_WRONLY | os.O_CLOEXEC)
    except OSError:
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


def remove_tree(path: str) -> None:
    """Remove a directory tree by fds: nothing in it is followed. What overlayfs left with mode 0 is opened up first."""
    parent, _, name = path.rpartition("/")
    try:
        fd = os.open(parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        _remove_below(fd, name)
    finally:
        os.close(fd)


def _remove_below(dirfd: int, name: str) -> None:
    try:
        os.rmdir(name, dir_fd=dirfd)
        return
    except FileNotFoundError:
        return
    except OSError:
        pass
    try:
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=dirfd)  # a plain user's own directory, closed by its mode
        fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dirfd)
    except NotADirectoryError:
        os.unlink(name, dir_fd=dirfd)
        return
    except OSError as error:
        if error.errno != 40:  # ELOOP: a symlink, which is a name to remove and not a way to follow
            raise
        os.unlink(name, dir_fd=dirfd)
        return
    try:
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        if any(not is_dir for _, is_dir in found) or found:
            mode = os.fstat(fd).st_mode
            if mode & 0o300 != 0o300 and os.geteuid() != 0:
                os.fchmod(fd, 0o700)
        for child, is_dir in found:
            if is_dir:
                _remove_below(fd, child)
            else:
                os.unlink(child, dir_fd=fd)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dirfd)


VERBS = {"unlink": remove_link, "group": remove_group, "tree": remove_tree}
