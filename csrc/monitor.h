/* SPDX-License-Identifier: Apache-2.0
 *
 * pybox-monitor: what looks after a container that nobody waits for. Static, a few kilobytes; one for each such container.
 *
 * The process that launched the container becomes it by exec, so the container stays its child. It moves bytes between the
 * container's streams, the log and whoever is attached; when the container has ended and all it wrote is written down, it
 * becomes `pybox finish` by exec, which records the end and cleans up. So all policy is in Python and none of Python is in memory
 * while a container lives, nor while one that has ended waits for its next start. Its arguments are those of enum pb_monitor (pybox.h),
 * then the words of that last command.
 *
 * monitor.c         the loop: streams, signals, the end
 * monitor_log.c     the log: CRI lines, rotated by size
 * monitor_health.c  the health checks: `pybox check`, every now and then
 * monitor_next.c    what comes after a run
 * monitor_attach.c  the clients: one message is one kind (enum pb_kind) and its bytes, on a SOCK_SEQPACKET socket
 */
#ifndef PYBOX_MONITOR_H
#define PYBOX_MONITOR_H

#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "pybox.h"

enum { PB_CHUNK = 32 * 1024, PB_LINE = 16 * 1024, PB_CLIENTS = 64, PB_PATIENCE_MS = 5000 };

/* monitor_log.c */
void log_open(int dir, int64_t most, int files);
void log_write(int stream, const char *bytes, size_t n); /* stream: 1 stdout, 2 stderr */
void log_close(void);                                    /* what is left of unfinished lines */
int64_t log_lost(void);                                  /* how many lines the disk did not take */

/* monitor_health.c */
void health_begin(int64_t every, char **finish); /* ms; the words of the last command */
int health_due(int timeout);
void health_reap(void);
void health_end(void);

/* monitor_attach.c */
struct pb_request { /* what the clients want of the loop */
	const char *input;
	size_t length;
	int end_of_input, signal, rows, columns, owner_gone, hurry;
};
void attach_add(int fd, int owner);
int attach_poll(struct pollfd *fds, int hear);                               /* how many were filled in */
void attach_serve(const struct pollfd *fds, int n, struct pb_request *wish); /* one message of one client at most */
void attach_send(enum pb_kind kind, const char *bytes, size_t n);
void attach_give_up(void); /* let go of who has not taken the last message */
int attach_busy(void);     /* 1: somebody has not taken the last message yet; read no more output until then */
int64_t pb_now_ms(void);

/* monitor_next.c */
void wait_for_restart(int signals, int door, int folder, int64_t deadline);
_Noreturn void become(char **words, const int64_t *facts, int count); /* exec of the words and, as more words, the facts */

#endif
