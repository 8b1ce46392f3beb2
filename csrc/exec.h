/* SPDX-License-Identifier: Apache-2.0
 *
 * exec and its post-mortem, used on both sides: by the row loop (--no-init) and by pybox-init, which is a program of its own.
 *
 * The kernel has three errnos for eight ways in which a program can't be executed. Only the process that failed sees the file as
 * the kernel saw it (through its mounts, with its ids), so it takes the evidence on the spot; Python reads it later.
 */
#ifndef PYBOX_EXEC_H
#define PYBOX_EXEC_H

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "pybox.h"

/* Try each path in turn, as execvp(3) does along PATH: a missing file lets the next one try, a file that is there but can't be
 * executed ends the search. Returns only on failure, with errno and the index of the path to blame. */
static inline uint32_t pb_exec_first(const char *const *paths, uint32_t count, char *const *argv, char *const *envp)
{
	uint32_t blame = 0;
	int denied = 0;

	for (uint32_t i = 0; i < count; i++) {
		execve(paths[i], argv, envp);
		if (errno == EACCES) {
			/* a directory of PATH may be closed to us; remember the first, as execvp(3) does */
			if (!denied)
				blame = i;
			denied = 1;
			continue;
		}
		if (errno != ENOENT && errno != ENOTDIR)
			return i;
		/* ENOENT of a file that exists is about its interpreter: no other path will help */
		if (errno == ENOENT && faccessat(AT_FDCWD, paths[i], F_OK, 0) == 0) {
			errno = ENOENT;
			return i;
		}
		errno = ENOENT;
	}
	if (denied)
		errno = EACCES;
	return blame;
}

static inline void pb_take_evidence(const char *path, uint32_t candidate, struct pb_probe *probe)
{
	struct stat st;
	struct statfs fs;
	ssize_t n;
	int saved = errno, fd;

	probe->candidate = candidate;
	probe->stat_errno = stat(path, &st) < 0 ? errno : 0;
	probe->mode = probe->stat_errno ? 0 : (uint32_t)st.st_mode;
	probe->mount = statfs(path, &fs) < 0 ? 0 : (uint32_t)fs.f_flags;
	probe->length = 0;
	/* O_NONBLOCK: the path may name a fifo */
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	probe->open_errno = fd < 0 ? errno : 0;
	if (fd >= 0) {
		n = read(fd, probe->head, sizeof(probe->head));
		if (n > 0)
			probe->length = (uint32_t)n;
		close(fd);
	}
	errno = saved;
}

#endif
