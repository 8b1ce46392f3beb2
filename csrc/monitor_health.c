/* SPDX-License-Identifier: Apache-2.0
 *
 * When the health of a container is looked after: `pybox check` is started every now and then, one at a time. What it finds is
 * its own business (pybox/checking.py); here it is only a process with an interval. It dies with the monitor and with the container.
 */
#define _GNU_SOURCE
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

enum { WORDS = 32 };

static struct {
	int64_t every, next; /* ms; 0: never */
	pid_t running;       /* 0: none is */
	char *words[WORDS];
} check;

/* The command is that of `pybox finish`, up to this word and the container's id behind it, with another word in its place. */
void health_begin(int64_t every, char **finish)
{
	int n = 0;

	while (n < WORDS - 3 && finish[n] && strcmp(finish[n], "finish") != 0) {
		check.words[n] = finish[n];
		n++;
	}
	if (every <= 0 || !finish[n] || !finish[n + 1])
		return;
	check.words[n] = "check";
	check.words[n + 1] = finish[n + 1];
	check.every = every;
	check.next = pb_now_ms() + every;
}

static _Noreturn void become_check(pid_t monitor)
{
	extern char **environ;
	sigset_t none;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != monitor)
		_exit(125); /* it died before it could be told */
	/* above all the lock, which says that the monitor lives */
	syscall(SYS_close_range, 3U, ~0U, 0U);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(check.words[0], check.words, environ);
	_exit(125);
}

/* Start what is due; returns the time (ms) that poll may wait, not more than the given one (-1: for ever). */
int health_due(int timeout)
{
	const pid_t monitor = getpid();
	int64_t left;

	if (!check.every || check.running)
		return timeout;
	left = check.next - pb_now_ms();
	if (left <= 0) {
		check.running = fork();
		if (check.running == 0)
			become_check(monitor);
		if (check.running > 0)
			return timeout;
		check.running = 0; /* no memory, or too many processes: the next one, perhaps */
		left = check.every;
		check.next = pb_now_ms() + left;
	}
	if (timeout < 0 || left < timeout)
		return (int)(left > INT_MAX ? INT_MAX : left);
	return timeout;
}

/* A child has ended: if it was the check, the next interval begins. */
void health_reap(void)
{
	if (check.running && waitpid(check.running, NULL, WNOHANG) == check.running) {
		check.running = 0;
		check.next = pb_now_ms() + check.every;
	}
}

/* The container has ended: no check any more. */
void health_end(void)
{
	check.every = 0;
	if (check.running) {
		kill(check.running, SIGKILL);
		waitpid(check.running, NULL, 0);
		check.running = 0;
	}
}
