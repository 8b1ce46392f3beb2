/* SPDX-License-Identifier: Apache-2.0
 *
 * One do_* per op. One do_* is one system call, or says why not. All run between clone and exec, in memory shared with the
 * parent: async-signal-safe calls only, nothing allocated, every fd close-on-exec at birth. 0, or -1 with errno.
 */
#ifndef PYBOX_OPS_H
#define PYBOX_OPS_H

#include "pybox.h"

int do_setns(struct pb_walk *w, const struct pb_row *r);
int do_unshare(struct pb_walk *w, const struct pb_row *r);
int do_dup(struct pb_walk *w, const struct pb_row *r);
int do_close_range(struct pb_walk *w, const struct pb_row *r);
int do_write_fd(struct pb_walk *w, const struct pb_row *r);
int do_write(struct pb_walk *w, const struct pb_row *r);
int do_create(struct pb_walk *w, const struct pb_row *r);
int do_mount(struct pb_walk *w, const struct pb_row *r);
int do_umount(struct pb_walk *w, const struct pb_row *r);
int do_pivot_root(struct pb_walk *w, const struct pb_row *r);
int do_chdir(struct pb_walk *w, const struct pb_row *r);
int do_fchdir(struct pb_walk *w, const struct pb_row *r);
int do_mkdir(struct pb_walk *w, const struct pb_row *r);
int do_symlink(struct pb_walk *w, const struct pb_row *r);
int do_mknod(struct pb_walk *w, const struct pb_row *r);
int do_real_dir(struct pb_walk *w, const struct pb_row *r);
int do_target(struct pb_walk *w, const struct pb_row *r);
int do_open_tree(struct pb_walk *w, const struct pb_row *r);
int do_mount_setattr(struct pb_walk *w, const struct pb_row *r);
int do_move_mount(struct pb_walk *w, const struct pb_row *r);
int do_map_layer(struct pb_walk *w, const struct pb_row *r);
int do_sethostname(struct pb_walk *w, const struct pb_row *r);
int do_loopback(struct pb_walk *w, const struct pb_row *r);
int do_umask(struct pb_walk *w, const struct pb_row *r);
int do_setsid(struct pb_walk *w, const struct pb_row *r);
int do_setrlimit(struct pb_walk *w, const struct pb_row *r);
int do_setgroups(struct pb_walk *w, const struct pb_row *r);
int do_setresgid(struct pb_walk *w, const struct pb_row *r);
int do_setresuid(struct pb_walk *w, const struct pb_row *r);
int do_capbset(struct pb_walk *w, const struct pb_row *r);
int do_capset(struct pb_walk *w, const struct pb_row *r);
int do_prctl(struct pb_walk *w, const struct pb_row *r);
int do_terminal(struct pb_walk *w, const struct pb_row *r);
int do_control(struct pb_walk *w, const struct pb_row *r);
int do_leash(struct pb_walk *w, const struct pb_row *r);
int do_seccomp(struct pb_walk *w, const struct pb_row *r);
int do_init(struct pb_walk *w, const struct pb_row *r);
int do_exec(struct pb_walk *w, const struct pb_row *r);

/* words.c: after a failed mount, have the kernel say why; the words go into the report, errno stays. */
void pb_hear_mount(struct pb_walk *w, const struct pb_row *r);

/* What a mount is of: its name, or the block device of a slot, as a name that leads to that very one. */
enum { PB_SOURCE = 32 };
const char *pb_source(const struct pb_walk *w, const struct pb_row *r, char room[PB_SOURCE]);

static inline const char *text(const struct pb_walk *w, uint32_t offset)
{
	return offset ? w->blob + offset : NULL;
}

static inline int fd_of(const struct pb_walk *w, int32_t slot)
{
	return slot >= 0 ? w->report->slots[slot] : -1;
}

#endif
