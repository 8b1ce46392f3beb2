/* SPDX-License-Identifier: Apache-2.0
 *
 * Ops on mounts and files: what a container sees.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "ops.h"

#ifndef MOVE_MOUNT_T_EMPTY_PATH
#define MOVE_MOUNT_F_EMPTY_PATH 0x00000004
#define MOVE_MOUNT_T_EMPTY_PATH 0x00000040
#endif

struct pb_mount_attr { /* linux/mount.h and sys/mount.h don't go together in Debian 12's headers */
	uint64_t attr_set, attr_clr, propagation, userns_fd;
};

static int write_all(int fd, const char *s)
{
	size_t length = strlen(s);
	ssize_t n = write(fd, s, length);

	if (n >= 0 && (size_t)n < length)
		errno = EIO;
	return n == (ssize_t)length ? 0 : -1;
}

int do_write_fd(struct pb_walk *w, const struct pb_row *r)
{
	return write_all(fd_of(w, r->fd), text(w, r->a));
}

/* Three calls, because a kernel file is one sentence: open, write, close. */
static int write_file(const char *path, int flags, mode_t mode, const char *s)
{
	int fd = open(path, flags | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, mode);
	int ret, saved;

	if (fd < 0)
		return -1;
	ret = *s ? write_all(fd, s) : 0;
	saved = errno;
	close(fd);
	errno = saved;
	return ret;
}

int do_write(struct pb_walk *w, const struct pb_row *r)
{
	return write_file(text(w, r->a), 0, 0, text(w, r->b));
}

int do_create(struct pb_walk *w, const struct pb_row *r)
{
	return write_file(text(w, r->a), O_CREAT | O_EXCL, (mode_t)r->x, text(w, r->b));
}

const char *pb_source(const struct pb_walk *w, const struct pb_row *r, char room[PB_SOURCE])
{
	char *at = room + PB_SOURCE;
	static const char where[] = "/proc/self/fd/"; /* the host's /proc: it is in sight until the root is changed */

	if (r->fd < 0)
		return text(w, r->a);
	*--at = '\0';
	for (unsigned n = (unsigned)fd_of(w, r->fd);; n /= 10) {
		*--at = (char)('0' + n % 10);
		if (n < 10)
			break;
	}
	at -= sizeof(where) - 1;
	memcpy(at, where, sizeof(where) - 1);
	return at;
}

int do_mount(struct pb_walk *w, const struct pb_row *r)
{
	char room[PB_SOURCE];
	int ret = mount(pb_source(w, r, room), text(w, r->b), text(w, r->c), r->x, text(w, r->d));

	if (ret < 0 && r->c && !(r->x & (MS_BIND | MS_REMOUNT)))
		pb_hear_mount(w, r);
	return ret;
}

int do_umount(struct pb_walk *w, const struct pb_row *r)
{
	return umount2(text(w, r->a), (int)r->x);
}

int do_pivot_root(struct pb_walk *w, const struct pb_row *r)
{
	return (int)syscall(SYS_pivot_root, text(w, r->a), text(w, r->b));
}

int do_chdir(struct pb_walk *w, const struct pb_row *r)
{
	return chdir(text(w, r->a));
}

/* fchdir, and getcwd as the proof that the directory lies inside the root: a leaked fd of the host's would give
 * "(unreachable)/..." (CVE-2024-21626). The raw call: glibc's getcwd falls back to walking. */
int do_fchdir(struct pb_walk *w, const struct pb_row *r)
{
	char here[4096];

	if (fchdir(fd_of(w, r->fd)) < 0)
		return -1;
	if (syscall(SYS_getcwd, here, sizeof(here)) < 0)
		return -1;
	if (here[0] != '/') {
		errno = EXDEV;
		return -1;
	}
	return 0;
}

int do_mkdir(struct pb_walk *w, const struct pb_row *r)
{
	return mkdir(text(w, r->a), (mode_t)r->x);
}

int do_symlink(struct pb_walk *w, const struct pb_row *r)
{
	return symlink(text(w, r->a), text(w, r->b));
}

int do_mknod(struct pb_walk *w, const struct pb_row *r)
{
	return mknod(text(w, r->a), (mode_t)r->x, (dev_t)r->y);
}

static int openat2_in(int dirfd, const char *path, uint64_t flags, uint64_t resolve)
{
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve};

	return (int)syscall(SYS_openat2, dirfd, path, &how, sizeof(how));
}

/* The target of a mount that the kernel's view depends on must be a directory itself, not a way to another one: an image whose
 * /proc is a symlink would have everything written there go elsewhere (CVE-2019-19921). Made first, if the image lacks it. */
int do_real_dir(struct pb_walk *w, const struct pb_row *r)
{
	int fd = openat2_in(AT_FDCWD, text(w, r->a), O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);

	if (fd < 0 && errno == ENOENT) {
		if (mkdir(text(w, r->a), 0755) < 0)
			return -1;
		fd = openat2_in(AT_FDCWD, text(w, r->a), O_PATH | O_DIRECTORY, RESOLVE_NO_SYMLINKS);
	}
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

/* Put what a symlink says in the place of its name, path[start..stop). 0, or -1 with errno. */
static int follow(char path[4096], size_t start, size_t stop, int dir)
{
	char name[256], link[4096];
	size_t tail = strlen(path + stop) + 1;
	ssize_t n;

	if (stop - start >= sizeof(name)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(name, path + start, stop - start);
	name[stop - start] = '\0';
	n = readlinkat(dir, name, link, sizeof(link));
	if (n < 0)
		return -1;
	if (link[0] == '/')
		start = 0;
	if (start + (size_t)n + tail > 4096) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memmove(path + start + n, path + stop, tail);
	memcpy(path + start, link, (size_t)n);
	return 0;
}

/* Make one name in dir. 0 also when it is there. */
static int make_name(int dir, const char *name, int file)
{
	int made = file ? openat(dir, name, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0644) : mkdirat(dir, name, 0755);

	if (file && made >= 0)
		close(made);
	return made < 0 && errno != EEXIST ? -1 : 0;
}

/* Open a place inside the root, making what is missing one component at a time. Symlinks are followed inside the root only, also
 * those that lead to nothing yet (/etc/resolv.conf of many images); magic links (/proc/self/fd/...) never. */
static int open_place(const char *wanted, int make)
{
	const uint64_t resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS;
	char path[4096];
	size_t end = 0;
	int dir = openat2_in(AT_FDCWD, wanted, O_PATH, resolve), links = 0;

	if (dir >= 0 || errno != ENOENT || !make)
		return dir;
	if (strlen(wanted) >= sizeof(path)) {
		errno = ENAMETOOLONG;
		return -1;
	}
	memcpy(path, wanted, strlen(wanted) + 1);
	dir = openat2_in(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0);
	while (dir >= 0) {
		size_t start = end + strspn(path + end, "/"), stop = start + strcspn(path + start, "/");
		int last = path[stop + strspn(path + stop, "/")] == '\0', next, saved;
		char after = path[stop];

		if (start == stop)
			break;
		path[stop] = '\0';
		next = make_name(dir, path + start, last && make == 2);
		if (next == 0)
			next = openat2_in(AT_FDCWD, path, O_PATH, resolve);
		path[stop] = after;
		end = stop;
		if (next < 0 && errno == ENOENT && ++links <= 40 && follow(path, start, stop, dir) == 0) {
			next = openat2_in(AT_FDCWD, "/", O_PATH | O_DIRECTORY, 0);
			end = 0;
		}
		saved = errno;
		close(dir);
		errno = saved;
		dir = next;
	}
	return dir;
}

/* Several calls: see open_place; and one to ask where it led, for a volume must not be laid over the kernel's own files by way of
 * a symlink of the image (CVE-2019-16884, CVE-2023-27561). */
int do_target(struct pb_walk *w, const struct pb_row *r)
{
	int fd = open_place(text(w, r->a), (int)r->x);
	struct statfs fs;

	if (fd < 0)
		return -1;
	if (r->y && (fstatfs(fd, &fs) < 0 || fs.f_type == PROC_SUPER_MAGIC || fs.f_type == SYSFS_MAGIC)) {
		close(fd);
		errno = EXDEV;
		return -1;
	}
	w->report->slots[r->out] = fd;
	return 0;
}

int do_open_tree(struct pb_walk *w, const struct pb_row *r)
{
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, text(w, r->a), (unsigned)r->x);

	w->report->slots[r->out] = fd;
	return fd;
}

int do_mount_setattr(struct pb_walk *w, const struct pb_row *r)
{
	struct pb_mount_attr attr = {.attr_set = r->x, .attr_clr = r->y};

	return (int)syscall(SYS_mount_setattr, fd_of(w, r->fd), "", (unsigned)(AT_EMPTY_PATH | r->z), &attr, sizeof(attr));
}

int do_move_mount(struct pb_walk *w, const struct pb_row *r)
{
	return (int)syscall(SYS_move_mount, fd_of(w, r->fd), "", fd_of(w, (int32_t)r->x), "",
			    MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

/* Three calls: an id map can only be set on a mount that nobody sees yet (mount_setattr(2)). */
int do_map_layer(struct pb_walk *w, const struct pb_row *r)
{
	struct pb_mount_attr attr = {.attr_set = MOUNT_ATTR_IDMAP, .userns_fd = (uint64_t)fd_of(w, r->fd)};
	int fd = (int)syscall(SYS_open_tree, AT_FDCWD, text(w, r->a), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC), ret, saved;

	if (fd < 0)
		return -1;
	ret = (int)syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr));
	if (ret == 0)
		ret = (int)syscall(SYS_move_mount, fd, "", AT_FDCWD, text(w, r->b), MOVE_MOUNT_F_EMPTY_PATH);
	saved = errno;
	close(fd);
	errno = saved;
	return ret;
}
