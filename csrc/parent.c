/* SPDX-License-Identifier: Apache-2.0
 *
 * What the parent does with system calls that Python 3.11 has no function for.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/dqblk_xfs.h>
#include <linux/openat2.h>
#include <linux/quota.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "pybox.h"

int pb_wait(int pid, struct pb_usage *usage)
{
	struct rusage used;

	if (wait4(pid, &usage->status, __WALL, &used) < 0)
		return -errno;
	usage->user_us = used.ru_utime.tv_sec * 1000000 + used.ru_utime.tv_usec;
	usage->system_us = used.ru_stime.tv_sec * 1000000 + used.ru_stime.tv_usec;
	usage->maxrss_kb = used.ru_maxrss;
	usage->read_bytes = used.ru_inblock * 512;
	usage->written_bytes = used.ru_oublock * 512;
	return 0;
}

int pb_leash(int ends[2])
{
	return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0 ? -errno : 0;
}

int pb_seal(const char *name, const char *bytes, size_t length)
{
	int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd < 0)
		return -errno;
	if (write(fd, bytes, length) != (ssize_t)length || fchmod(fd, 0555) < 0 ||
	    fcntl(fd, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0) {
		int saved = errno;

		close(fd);
		return saved ? -saved : -EIO;
	}
	return fd;
}

int pb_copy_fd(int pidfd, int fd)
{
	int copy = (int)syscall(SYS_pidfd_getfd, pidfd, fd, 0);

	return copy < 0 ? -errno : copy;
}

int pb_enter_user_namespace(int fd)
{
	return syscall(SYS_setns, fd, CLONE_NEWUSER) < 0 ? -errno : 0;
}

int pb_open_in_root(int dirfd, const char *path, int flags)
{
	struct open_how how = {.flags = (unsigned)(flags | O_CLOEXEC), .resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS};
	long fd = syscall(SYS_openat2, dirfd, path, &how, sizeof(how));

	return fd < 0 ? -errno : (int)fd;
}

static int quotactl_fd(int fd, int command, uint32_t project, void *data)
{
	return syscall(SYS_quotactl_fd, fd, QCMD(command, PRJQUOTA), project, data) < 0 ? -errno : 0;
}

int pb_has_quota(int fd)
{
	struct fs_quota_statv state = {.qs_version = FS_QSTATV_VERSION1};
	int result = quotactl_fd(fd, Q_XGETQSTATV, 0, &state);

	return result < 0 ? result : state.qs_flags & FS_QUOTA_PDQ_ENFD ? 0 : -ESRCH;
}

int pb_set_quota(int fd, uint32_t project, uint64_t bytes)
{
	struct if_dqblk block = {.dqb_bhardlimit = bytes / QIF_DQBLKSIZE, .dqb_valid = QIF_BLIMITS};

	return quotactl_fd(fd, Q_SETQUOTA, project, &block);
}

int64_t pb_quota(int fd, uint32_t project)
{
	struct if_dqblk block;
	int result = quotactl_fd(fd, Q_GETQUOTA, project, &block);

	return result < 0 ? result : (int64_t)(block.dqb_bhardlimit * QIF_DQBLKSIZE);
}
