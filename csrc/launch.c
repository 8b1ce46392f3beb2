/* SPDX-License-Identifier: Apache-2.0
 *
 * The clone, and the walk over the rows.
 *
 * The child shares the parent's memory (CLONE_VM) and the parent's thread sleeps until the child has exec'ed or died
 * (CLONE_VFORK): no page table is copied, so a caller that holds gigabytes launches as fast as an empty one, and a failure is
 * reported by writing a struct. The price is care. Until exec the child may use async-signal-safe calls only
 * (signal-safety(7)): no malloc, no stdio, no locks, nothing of Python's. What it changes in memory stays changed. Three traps,
 * each with its answer here:
 *  - a signal handler of the parent would run in the child: all signals are blocked around the clone, and CLONE_CLEAR_SIGHAND
 *    takes the handlers away;
 *  - a change of ids or capabilities in the child marks the shared memory as not dumpable, for the parent too: pb_launch puts
 *    the parent's flag back when the last launch in flight is over;
 *  - glibc's setuid() would signal the parent's threads to change theirs as well: ops.c makes the raw system calls.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "exec.h"

uint64_t pb_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static _Noreturn void fail(struct pb_walk *walk, int error)
{
	walk->report->index = (int32_t)walk->next;
	walk->report->error = error;
	_exit(125);
}

static void start_walk(void *arg)
{
	struct pb_walk *walk = arg;

	walk->report->done[walk->next - 1] = pb_now();
	pb_walk_rows(walk);
}

/* The second clone of a run with a user namespace: this process has entered it and makes the other namespaces as its citizen.
 * CLONE_PARENT makes the child our sibling, so the caller is its parent and waits for it. Its pid is told by the kernel: who is
 * killed here, with its control group perhaps, tells nobody anything, and a zombie that nobody knows of holds its namespaces. */
static _Noreturn void hand_over(struct pb_walk *walk, const struct pb_row *row)
{
	long pid;

	walk->next++;
	pid = pb_clone3(row->x | CLONE_PARENT | CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND, 0, -1, &walk->report->pid, walk->stack[1],
			start_walk, walk);
	if (pid < 0) {
		walk->next--;
		fail(walk, (int)-pid);
	}
	_exit(0);
}

_Noreturn void pb_walk_rows(struct pb_walk *walk)
{
	for (; walk->next < walk->count; walk->next++) {
		const struct pb_row *row = &walk->rows[walk->next];

		walk->report->index = (int32_t)walk->next;
		if (walk->report->gate)
			pb_wait_at_gate(walk);
		if (row->op == PB_CLONE)
			hand_over(walk, row);
		if (PB_DO[row->op](walk, row) < 0) {
			int fine = (errno == EEXIST && (row->tolerate & PB_OK_EXIST)) ||
				   ((errno == ENOENT || errno == ENOTDIR) && (row->tolerate & PB_OK_MISSING));
			if (!fine)
				fail(walk, errno);
		}
		walk->report->done[walk->next] = pb_now();
	}
	_exit(125); /* a plan always ends in exec */
}

/* argv, envp and paths of the exec rows: pointers into the blob, made before the clone because malloc is not for after it. */
static const char **resolve_words(const struct pb_row *rows, uint32_t count, const char *blob)
{
	const struct pb_row *last = &rows[count - 1];
	uint64_t total = 3; /* each list ends in NULL */
	const char **words, **next;
	int init = count > 1 && rows[count - 2].op == PB_INIT;

	total += last->x + last->y + last->z + (init ? rows[count - 2].x + 1 : 0);
	next = words = malloc(total * sizeof(*words));
	if (!words)
		return NULL;
	const struct {
		uint32_t at;
		uint64_t n;
	} lists[] = {
		{last->a, last->x}, {last->b, last->y}, {last->c, last->z}, {init ? rows[count - 2].a : 0, init ? rows[count - 2].x : 0}};
	for (size_t l = 0; l < (init ? 4u : 3u); l++) {
		const char *s = blob + lists[l].at;

		for (uint64_t i = 0; i < lists[l].n; i++, s += strlen(s) + 1)
			*next++ = s;
		*next++ = NULL;
	}
	return words;
}

/* How many launches share this process's memory right now, and its dumpable flag from before the first of them. */
static pthread_mutex_t dumpable_lock = PTHREAD_MUTEX_INITIALIZER;
static int dumpable_users, dumpable_before;

static void dumpable_keep(void)
{
	pthread_mutex_lock(&dumpable_lock);
	if (dumpable_users++ == 0)
		dumpable_before = prctl(PR_GET_DUMPABLE);
	/* a container must not be able to ptrace the process that is about to become it (CVE-2016-9962); not so for a plain
	 * user, whose own /proc/self would then belong to root */
	if (geteuid() == 0)
		prctl(PR_SET_DUMPABLE, 0);
	pthread_mutex_unlock(&dumpable_lock);
}

static void dumpable_restore(void)
{
	pthread_mutex_lock(&dumpable_lock);
	if (--dumpable_users == 0)
		prctl(PR_SET_DUMPABLE, dumpable_before);
	pthread_mutex_unlock(&dumpable_lock);
}

static int reap(int pid)
{
	int status = 0;

	while (waitpid(pid, &status, __WALL) < 0 && errno == EINTR)
		;
	return status;
}

/* The process that only entered the namespaces and handed over has ended: returns the pid of the one it made, 0 if there is none. */
static int take_over(int first, const struct pb_row *rows, struct pb_report *report)
{
	uint32_t clone = 1;

	if (!WIFSIGNALED(reap(first)))
		return report->pid;
	/* killed: the other one, if it was made, may still be on its way, and in our memory */
	if (report->pid > 0)
		kill(report->pid, SIGKILL);
	while (rows[clone].op != PB_CLONE)
		clone++;
	if (report->index < 0 || (uint32_t)report->index > clone)
		report->index = (int32_t)clone;
	report->error = EINTR;
	return report->pid;
}

/* pybox-init says whether the command could be executed; the errno of a failed exec is reported like that of any row. */
static int hear_init(struct pb_report *report, uint32_t last, int leash, uint64_t paths)
{
	struct {
		struct pb_message message;
		struct pb_probe probe;
	} heard;
	ssize_t n;

	do {
		n = recv(leash, &heard, sizeof(heard), 0);
	} while (n < 0 && errno == EINTR);
	if (n >= (ssize_t)sizeof(heard.message) && heard.message.word == PB_EXEC_FAILED) {
		report->probe = heard.probe;
		/* it came from a process inside */
		if (report->probe.length > PB_HEAD)
			report->probe.length = PB_HEAD;
		if (report->probe.candidate >= paths)
			report->probe.candidate = 0;
		report->index = (int32_t)last;
		report->error = heard.message.value;
		return -1;
	}
	report->done[last] = pb_now();
	return 0; /* silence: init was killed, and the wait status will say by what */
}

int pb_launch(const struct pb_row *rows, uint32_t count, const char *blob, struct pb_report *report, const int leash[2], int init)
{
	struct pb_walk walk = {.rows = rows, .count = count, .next = 1, .blob = blob, .report = report};
	int two_clones = 0, failed = 0;
	sigset_t all, before;
	long pid;

	for (uint32_t i = 1; i < count; i++)
		two_clones |= rows[i].op == PB_CLONE;
	report->index = 0;
	report->error = ENOMEM;
	report->pid = 0;
	report->pidfd = -1;
	walk.words = resolve_words(rows, count, blob);
	walk.stack[0] = malloc(PB_STACK * (two_clones ? 2 : 1));
	if (!walk.words || !walk.stack[0]) {
		pb_end_gate(report);
		goto out;
	}
	walk.stack[1] = (char *)walk.stack[0] + PB_STACK;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	dumpable_keep();
	report->begun = pb_now();
	pid = pb_clone3(rows[0].x | CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND, SIGCHLD, rows[0].fd >= 0 ? report->slots[rows[0].fd] : -1,
			report->gate ? &report->first : NULL, walk.stack[0], start_walk, &walk);
	dumpable_restore();
	if (report->gate)
		pb_end_gate(report);
	if (leash[1] >= 0)
		close(leash[1]); /* or the death of pybox-init would go unheard */
	if (pid < 0) {
		report->error = (int32_t)-pid;
		pthread_sigmask(SIG_SETMASK, &before, NULL);
		goto out;
	}
	report->pid = two_clones ? take_over((int)pid, rows, report) : (int32_t)pid;
	pid = report->pid;
	if (pid > 0) /* it may have died, but nobody has reaped it: the number is still its own */
		report->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	failed = report->index >= 0;
	if (!failed && !init)
		report->done[count - 1] = pb_now();
	if (!failed && init)
		failed = hear_init(report, count - 1, leash[0], rows[count - 1].z) < 0;
	if (failed && pid > 0)
		reap((int)pid);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	free(walk.stack[0]);
	free(walk.words);
	if (failed && report->pidfd >= 0)
		close(report->pidfd);
	return failed ? -1 : 0;
out:
	free(walk.stack[0]);
	free(walk.words);
	return -1;
}
