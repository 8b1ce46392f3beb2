/* SPDX-License-Identifier: Apache-2.0
 *
 * Ops on the process itself: namespaces, ids, rights, and what it becomes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "exec.h"
#include "ops.h"

int do_setns(struct pb_walk *w, const struct pb_row *r)
{
	return (int)syscall(SYS_setns, fd_of(w, r->fd), (int)r->x);
}

int do_unshare(struct pb_walk *w, const struct pb_row *r)
{
	(void)w;
	return (int)syscall(SYS_unshare, r->x);
}

int do_dup(struct pb_walk *w, const struct pb_row *r)
{
	int from = fd_of(w, r->fd);

	/* the place may be taken by an fd that a later row wants: it moves away */
	for (int i = 0; i < w->report->slot_count; i++)
		if (w->report->slots[i] == (int)r->x && i != r->fd && from != (int)r->x)
			w->report->slots[i] = fcntl((int)r->x, F_DUPFD_CLOEXEC, 10);
	/* dup3 refuses equal fds; then only the close-on-exec flag is to be set as asked */
	if (from == (int)r->x)
		return fcntl(from, F_SETFD, r->y ? FD_CLOEXEC : 0);
	w->report->slots[r->fd] = (int)r->x;
	return dup3(from, (int)r->x, (int)r->y);
}

int do_close_range(struct pb_walk *w, const struct pb_row *r)
{
	(void)w;
	return (int)syscall(SYS_close_range, (unsigned)r->x, (unsigned)r->y, (unsigned)r->z);
}

int do_sethostname(struct pb_walk *w, const struct pb_row *r)
{
	return sethostname(text(w, r->a), strlen(text(w, r->a)));
}

/* Three calls: an interface has no file of its own, its flags are set through any socket of the namespace (netdevice(7)). */
int do_loopback(struct pb_walk *w, const struct pb_row *r)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), ret, saved;

	(void)w, (void)r;
	if (fd < 0)
		return -1;
	ret = pb_loopback_up(fd);
	saved = errno;
	close(fd);
	errno = saved;
	return ret;
}

int do_umask(struct pb_walk *w, const struct pb_row *r)
{
	(void)w;
	umask((mode_t)r->x);
	return 0;
}

int do_setsid(struct pb_walk *w, const struct pb_row *r)
{
	(void)w, (void)r;
	return setsid() < 0 ? -1 : 0;
}

int do_setrlimit(struct pb_walk *w, const struct pb_row *r)
{
	const uint64_t limit[2] = {r->y, r->z};

	(void)w;
	return (int)syscall(SYS_prlimit64, 0, (int)r->x, limit, NULL);
}

int do_setgroups(struct pb_walk *w, const struct pb_row *r)
{
	return (int)syscall(SYS_setgroups, (size_t)r->x, text(w, r->a));
}

int do_setresgid(struct pb_walk *w, const struct pb_row *r)
{
	(void)w;
	return (int)syscall(SYS_setresgid, (gid_t)r->x, (gid_t)r->x, (gid_t)r->x);
}

int do_setresuid(struct pb_walk *w, const struct pb_row *r)
{
	(void)w;
	return (int)syscall(SYS_setresuid, (uid_t)r->x, (uid_t)r->x, (uid_t)r->x);
}

/* One call per capability: prctl(2) drops one at a time. */
int do_capbset(struct pb_walk *w, const struct pb_row *r)
{
	(void)w;
	for (uint64_t cap = 0; cap <= r->y; cap++)
		if (!(r->x >> cap & 1) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0 && errno != EINVAL)
			return -1;
	return 0;
}

int do_capset(struct pb_walk *w, const struct pb_row *r)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3, .pid = 0};
	struct __user_cap_data_struct data[2] = {
		{.effective = (uint32_t)r->x, .permitted = (uint32_t)r->x, .inheritable = 0},
		{.effective = (uint32_t)(r->x >> 32), .permitted = (uint32_t)(r->x >> 32), .inheritable = 0},
	};

	(void)w;
	return (int)syscall(SYS_capset, &head, data);
}

int do_prctl(struct pb_walk *w, const struct pb_row *r)
{
	(void)w;
	return prctl((int)r->x, r->y, r->z, 0, 0);
}

int do_leash(struct pb_walk *w, const struct pb_row *r)
{
	struct pollfd other = {.fd = fd_of(w, r->fd), .events = POLLIN};

	if (poll(&other, 1, 0) < 0)
		return -1;
	/* a socket hangs up, a pidfd becomes readable */
	if (other.revents) {
		errno = EOWNERDEAD;
		return -1;
	}
	return 0;
}

int do_seccomp(struct pb_walk *w, const struct pb_row *r)
{
	const struct sock_fprog program = {.len = (unsigned short)r->x, .filter = (struct sock_filter *)(uintptr_t)text(w, r->a)};
	int ret = (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, (unsigned)r->y, &program);

	if (ret >= 0 && r->out >= 0) /* with SECCOMP_FILTER_FLAG_NEW_LISTENER it is an fd */
		w->report->slots[r->out] = ret;
	return ret < 0 ? -1 : 0;
}

/* Ignoring a signal survives exec, and CLONE_CLEAR_SIGHAND leaves it alone: Python ignores SIGPIPE, and a shell pipeline in the
 * container would never end; a shell's background job ignores SIGINT. The command starts the same way wherever it is started. */
static void default_signals(void)
{
	const uint64_t plain[4] = {0}; /* the kernel's struct sigaction with SIG_DFL and no flags */

	/* the raw call: the C library keeps its own two, 32 and 33, from being set; EINVAL for SIGKILL and SIGSTOP */
	for (int number = 1; number <= 64; number++)
		syscall(SYS_rt_sigaction, number, plain, NULL, sizeof(uint64_t));
}

static char *const *words_of_init(const struct pb_walk *w)
{
	const struct pb_row *exec = &w->rows[w->count - 1];

	return (char *const *)(uintptr_t)(w->words + exec->x + exec->y + exec->z + 3);
}

int do_init(struct pb_walk *w, const struct pb_row *r)
{
	const struct pb_row *exec = &w->rows[w->count - 1];

	/* signals stay blocked: pybox-init takes them from a signalfd, and none may be lost before it does */
	default_signals();
	w->report->index = -1;
	return (int)syscall(SYS_execveat, fd_of(w, r->fd), "", words_of_init(w), w->words + exec->x + 1, AT_EMPTY_PATH);
}

int do_exec(struct pb_walk *w, const struct pb_row *r)
{
	const char *const *argv = w->words, *const *envp = argv + r->x + 1, *const *paths = envp + r->y + 1;
	uint32_t blame;
	sigset_t none;

	default_signals();
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	w->report->index = -1;
	blame = pb_exec_first(paths, (uint32_t)r->z, (char *const *)(uintptr_t)argv, (char *const *)(uintptr_t)envp);
	pb_take_evidence(paths[blame], blame, &w->report->probe);
	return -1;
}

int (*const PB_DO[PB_OP_COUNT])(struct pb_walk *, const struct pb_row *) = {
	[PB_SETNS] = do_setns,
	[PB_UNSHARE] = do_unshare,
	[PB_DUP] = do_dup,
	[PB_CLOSE_RANGE] = do_close_range,
	[PB_WRITE_FD] = do_write_fd,
	[PB_WRITE] = do_write,
	[PB_CREATE] = do_create,
	[PB_MOUNT] = do_mount,
	[PB_UMOUNT] = do_umount,
	[PB_PIVOT_ROOT] = do_pivot_root,
	[PB_CHDIR] = do_chdir,
	[PB_FCHDIR] = do_fchdir,
	[PB_MKDIR] = do_mkdir,
	[PB_SYMLINK] = do_symlink,
	[PB_MKNOD] = do_mknod,
	[PB_REAL_DIR] = do_real_dir,
	[PB_TARGET] = do_target,
	[PB_OPEN_TREE] = do_open_tree,
	[PB_MOUNT_SETATTR] = do_mount_setattr,
	[PB_MOVE_MOUNT] = do_move_mount,
	[PB_MAP_LAYER] = do_map_layer,
	[PB_SETHOSTNAME] = do_sethostname,
	[PB_LOOPBACK] = do_loopback,
	[PB_UMASK] = do_umask,
	[PB_SETSID] = do_setsid,
	[PB_SETRLIMIT] = do_setrlimit,
	[PB_SETGROUPS] = do_setgroups,
	[PB_SETRESGID] = do_setresgid,
	[PB_SETRESUID] = do_setresuid,
	[PB_CAPBSET] = do_capbset,
	[PB_CAPSET] = do_capset,
	[PB_PRCTL] = do_prctl,
	[PB_TERMINAL] = do_terminal,
	[PB_CONTROL] = do_control,
	[PB_LEASH] = do_leash,
	[PB_SECCOMP] = do_seccomp,
	[PB_INIT] = do_init,
	[PB_EXEC] = do_exec,
};
