/* SPDX-License-Identifier: Apache-2.0
 *
 * The gate: a walk that stops before a row until it is let go on, so that somebody can look at what is half made.
 *
 * The child shares the parent's memory, so the gate is a word in the report and both sides wait for the other by futex(2): no fd,
 * which a row could close, and no signal, which are blocked. A run that nobody steps through has gate 0 and never comes here.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pybox.h"

static long futex(uint32_t *word, int op, uint32_t value)
{
	return syscall(SYS_futex, word, op, value, NULL, NULL, 0);
}

/* Whether the parent ended before prctl could tie us to it; a row ahead will ask the same. Once that row is behind us its fd may be closed,
 * but it or a gate before it has tied us then, and no row after it changes ids, which would untie us. */
static int left_alone(struct pb_walk *walk)
{
	for (uint32_t i = walk->next; i < walk->count; i++)
		if (walk->rows[i].op == PB_LEASH)
			return PB_DO[PB_LEASH](walk, &walk->rows[i]) < 0 && errno == EOWNERDEAD;
	return 0;
}

void pb_wait_at_gate(struct pb_walk *walk)
{
	struct pb_report *report = walk->report;
	uint32_t gate;

	/* the row that ties its life to the parent's may be far ahead, and who stands here would outlive it for ever */
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (left_alone(walk))
		_exit(125);
	while ((gate = __atomic_load_n(&report->gate, __ATOMIC_SEQ_CST)) != 0 && walk->next >= gate) {
		__atomic_store_n(&report->waiting, walk->next, __ATOMIC_SEQ_CST);
		futex(&report->waiting, FUTEX_WAKE, INT_MAX);
		if (futex(&report->gate, FUTEX_WAIT, gate) < 0 && errno != EAGAIN && errno != EINTR)
			return; /* a seccomp filter of the user's that knows no futex: nothing to stand still by */
	}
}

void pb_open_gate(struct pb_report *report, uint32_t row)
{
	__atomic_store_n(&report->waiting, 0, __ATOMIC_SEQ_CST);
	__atomic_store_n(&report->gate, row, __ATOMIC_SEQ_CST);
	futex(&report->gate, FUTEX_WAKE, INT_MAX);
}

void pb_end_gate(struct pb_report *report)
{
	__atomic_store_n(&report->waiting, PB_OVER, __ATOMIC_SEQ_CST);
	futex(&report->waiting, FUTEX_WAKE, INT_MAX);
}

uint32_t pb_at_gate(struct pb_report *report)
{
	uint32_t row;

	/* a row below the gate is one that is about to see that it was moved */
	while ((row = __atomic_load_n(&report->waiting, __ATOMIC_SEQ_CST)) == 0 || row < __atomic_load_n(&report->gate, __ATOMIC_SEQ_CST))
		futex(&report->waiting, FUTEX_WAIT, row);
	/* the memory that both share became unreadable in /proc when the child took other rights: a plain user wants to look at it */
	if (row != PB_OVER && geteuid() != 0)
		prctl(PR_SET_DUMPABLE, 1);
	return row;
}
