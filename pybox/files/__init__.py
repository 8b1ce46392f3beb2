"""The files of containers: copying in and out, what was changed, the whole root as a tar, a new image of it.

reach      from a container's name to fds of its root, running or stopped
worker     a process in the container's user namespace does the work; a tar goes through a pipe
taking     a tree becomes a tar          putting   a tar becomes files
copying    cp                            changes   diff          commit   commit
"""
