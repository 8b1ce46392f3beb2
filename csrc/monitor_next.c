/* SPDX-License-Identifier: Apache-2.0
 *
 * After a run: pybox-monitor becomes `pybox finish`, which records the end; if the container shall be started again, that becomes
 * a pybox-monitor that does nothing but wait for up to a minute, and then `pybox finish` again.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "monitor.h"

static int told_to_end(int signals)
{
	struct signalfd_siginfo got;

	while (read(signals, &got, sizeof(got)) == (ssize_t)sizeof(got))
		if (got.ssi_signo == SIGTERM)
			return 1;
	return 0;
}

void wait_for_restart(int signals, int door, int folder, int64_t deadline)
{
	struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = door, .events = POLLIN}};

	for (;;) {
		int64_t left = deadline - pb_now_ms();

		/* who stops a container marks it (pybox/kept.py) and then knocks; what that means is for Python to say */
		if (left <= 0 || faccessat(folder, "stopped", F_OK, 0) == 0)
			return;
		if (poll(fds, 2, left > INT_MAX ? INT_MAX : (int)left) < 0)
			continue;
		if (fds[0].revents && told_to_end(signals))
			_exit(0); /* the machine goes down; how the last run ended is on record */
		if (fds[1].revents & POLLIN)
			close(accept4(door, NULL, NULL, SOCK_CLOEXEC));
	}
}

static char *number(char *at, int64_t value)
{
	char text[24];
	int n = 0, negative = value < 0;

	do {
		text[n++] = (char)('0' + (negative ? -(value % 10) : value % 10));
		value /= 10;
	} while (value);
	if (negative)
		*at++ = '-';
	while (n > 0)
		*at++ = text[--n];
	*at = '\0';
	return at + 1;
}

_Noreturn void become(char **words, const int64_t *facts, int count)
{
	extern char **environ;
	enum { DIGITS = 24 };
	int n = 0;
	char **all, *at;
	sigset_t none;

	while (words[n])
		n++;
	all = malloc((size_t)(n + count + 1) * sizeof(*all) + (size_t)count * DIGITS);
	if (!all)
		_exit(125);
	for (int i = 0; i < n; i++)
		all[i] = words[i];
	at = (char *)(all + n + count + 1);
	for (int i = 0; i < count; i++) {
		all[n++] = at;
		at = number(at, facts[i]);
	}
	all[n] = NULL;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	execve(all[0], all, environ);
	_exit(125); /* the lock is free now, and the next pybox finds a container whose owner has died */
}
