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
#include <linux/openat2.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "pybox.h"

/* Whether a program, or the interpreter that its #! line names, is reached through a magic link. /proc/self/exe would be the
 * host's python until exec has happened, which the container could hold on to and write to later (CVE-2019-5736). */
static inline int pb_by_magic_link(const char *path)
{
	struct open_how how = {.flags = O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY, .resolve = RESOLVE_NO_MAGICLINKS};
	char line[257]; /* the kernel reads no more than BINPRM_BUF_SIZE, 256, and follows 5 interpreters: exec(2), binfmt_script.c */

	for (int depth = 0; depth < 6; depth++) {
		int fd = (int)syscall(SYS_openat2, AT_FDCWD, path, &how, sizeof(how));
		ssize_t n;

		if (fd < 0)
			return errno == ELOOP;
		n = read(fd, line, sizeof(line) - 1);
		close(fd);
		if (n < 3 || line[0] != '#' || line[1] != '!')
			return 0;
		line[n] = '\0';
		path = line + 2 + strspn(line + 2, " \t");
		line[path - line + (ssize_t)strcspn(path, " \t\n")] = '\0';
	}
	return 0;
}

/* Try each path in turn, as execvp(3) does along PATH: a missing file lets the next one try, a file that is there but can't be
 * executed ends the search. Returns only on failure, with errno and the index of the path to blame. */
static inline uint32_t pb_exec_first(const char *const *paths, uint32_t count, char *const *argv, char *const *envp)
{
	uint32_t blame = 0;
	int denied = 0;

	for (uint32_t i = 0; i < count; i++) {
		if (pb_by_magic_link(paths[i])) {
			errno = ELOOP;
			return i;
		}
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
