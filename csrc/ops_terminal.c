/* SPDX-License-Identifier: Apache-2.0
 *
 * Ops on terminals: pty(7).
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

#include "ops.h"

static int send_fd(int socket, int fd)
{
	union {
		struct cmsghdr align;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec byte = {.iov_base = (char[]){'t'}, .iov_len = 1};
	struct msghdr message = {.msg_iov = &byte, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);

	memset(&control, 0, sizeof(control));
	head->cmsg_level = SOL_SOCKET;
	head->cmsg_type = SCM_RIGHTS;
	head->cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(head), &fd, sizeof(int));
	return sendmsg(socket, &message, MSG_NOSIGNAL) < 0 ? -1 : 0;
}

/* No symlink on the way, and what is found is asked what it is: `pybox exec` opens it in a container that runs. */
static int open_master(void)
{
	struct open_how how = {.flags = O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC, .resolve = RESOLVE_NO_SYMLINKS};
	int master = (int)syscall(SYS_openat2, AT_FDCWD, "/dev/pts/ptmx", &how, sizeof(how));
	struct stat st;

	if (master >= 0 && (fstat(master, &st) < 0 || !S_ISCHR(st.st_mode) || st.st_rdev != makedev(5, 2))) {
		close(master);
		errno = ENOTTY;
		return -1;
	}
	return master;
}

/* Several calls, because a terminal is two ends: the master goes to pybox, the other end stays. TIOCGPTPEER opens that end through
 * the master, so no name in /dev/pts is looked up, which somebody could have exchanged (CVE-2025-52565). The size of the person's
 * window waits in the socket, so that the command never sees another. */
int do_terminal(struct pb_walk *w, const struct pb_row *r)
{
	int master = open_master(), unlocked = 0, fd, ret = -1, saved;
	uint16_t size[2] = {0, 0};

	if (master < 0)
		return -1;
	if (recv(fd_of(w, r->fd), size, sizeof(size), MSG_DONTWAIT) == (ssize_t)sizeof(size)) {
		const struct winsize window = {.ws_row = size[0], .ws_col = size[1]};

		ioctl(master, TIOCSWINSZ, &window);
	}
	if (ioctl(master, TIOCSPTLCK, &unlocked) == 0 && (fd = ioctl(master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC)) >= 0) {
		w->report->slots[r->out] = fd;
		ret = fchown(fd, (uid_t)r->x, (gid_t)-1);
		if (ret == 0)
			ret = send_fd(fd_of(w, r->fd), master);
	}
	saved = errno;
	close(master);
	errno = saved;
	return ret;
}

int do_control(struct pb_walk *w, const struct pb_row *r)
{
	(void)w, (void)r;
	return ioctl(0, TIOCSCTTY, 0);
}
