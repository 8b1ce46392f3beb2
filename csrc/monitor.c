/* SPDX-License-Identifier: Apache-2.0
 *
 * The loop of pybox-monitor; monitor.h says what it is.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include "monitor.h"

enum { SIGNALS, LEASH, LISTEN, INPUT, OUTPUT, FIRST_CLIENT = OUTPUT + 2 };

static int64_t given[PB_M_FINISH];
static int outputs[2]; /* stdout, stderr; -1 when they have ended */
static char input[PB_CHUNK];
static size_t input_fill;
static int input_ends;

static struct {
	int ended, status, timed_out, told_to_end;
	struct rusage used;
	int64_t at;     /* ms */
	int told;       /* pybox-init has said how the command ended: */
	int64_t maxrss; /* and what its largest process used */
	int told_status;
} fate;

static void end_container(void)
{
	kill((pid_t)given[PB_M_PID], SIGKILL); /* our child, not reaped: the number is its own */
	if (given[PB_M_LEASH] >= 0) {
		/* with --pid host nobody dies of its death; pybox-init ends them all when the leash is cut */
		shutdown((int)given[PB_M_LEASH], SHUT_RDWR);
	}
}

static void hear_leash(void)
{
	struct pb_message message;
	ssize_t n = recv((int)given[PB_M_LEASH], &message, sizeof(message), MSG_DONTWAIT);

	if (n == (ssize_t)sizeof(message) && message.word == PB_ENDED) {
		fate.told = 1;
		fate.told_status = message.value;
		fate.maxrss = message.maxrss_kb;
	} else if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR)) {
		close((int)given[PB_M_LEASH]);
		given[PB_M_LEASH] = -1;
	}
}

static void hear_signals(int fd)
{
	struct signalfd_siginfo got;

	while (read(fd, &got, sizeof(got)) == (ssize_t)sizeof(got)) {
		if (got.ssi_signo != SIGTERM)
			continue;
		fate.told_to_end = 1; /* the machine goes down: let the container say goodbye, and not come back */
		if (!fate.ended)
			kill((pid_t)given[PB_M_PID], (int)given[PB_M_STOP]);
	}
	health_reap();
	if (given[PB_M_PID] > 0 && !fate.ended &&
	    wait4((pid_t)given[PB_M_PID], &fate.status, WNOHANG, &fate.used) == (pid_t)given[PB_M_PID]) {
		fate.ended = 1;
		fate.at = pb_now_ms();
		health_end();
	}
}

static void close_input(void)
{
	if (!given[PB_M_TERMINAL] && given[PB_M_STDIN] >= 0)
		close((int)given[PB_M_STDIN]);
	given[PB_M_STDIN] = -1;
	input_fill = 0;
}

static void push_input(void)
{
	ssize_t n;

	if (given[PB_M_STDIN] < 0) {
		input_fill = 0;
		return;
	}
	if (input_fill > 0) {
		n = write((int)given[PB_M_STDIN], input, input_fill);
		if (n > 0) {
			input_fill -= (size_t)n;
			memmove(input, input + n, input_fill);
		} else if (errno != EAGAIN && errno != EINTR) {
			close_input(); /* the command does not want the rest */
		}
	}
	if (input_fill == 0 && input_ends)
		close_input();
}

static void obey(const struct pb_request *wish)
{
	if (wish->length > 0 && given[PB_M_STDIN] >= 0) {
		memcpy(input, wish->input, wish->length);
		input_fill = wish->length;
	}
	if (wish->end_of_input && !given[PB_M_TERMINAL])
		input_ends = 1;
	if (wish->rows > 0 && given[PB_M_TERMINAL] && outputs[0] >= 0) {
		const struct winsize size = {.ws_row = (unsigned short)wish->rows, .ws_col = (unsigned short)wish->columns};

		ioctl(outputs[0], TIOCSWINSZ, &size); /* the kernel tells the foreground processes: SIGWINCH */
	}
	if (wish->signal > 0 && !fate.ended)
		kill((pid_t)given[PB_M_PID], wish->signal);
	if (wish->owner_gone && !fate.ended)
		end_container();
	if (wish->hurry && fate.ended)
		attach_give_up();
}

/* Move one chunk of a stream. Returns 0 when there is nothing now. */
static int pull(int which)
{
	static char chunk[PB_CHUNK];
	ssize_t n = read(outputs[which], chunk, sizeof(chunk));

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return 0;
	if (n <= 0) { /* a terminal says EIO when its last user has gone */
		if (which == 0 && given[PB_M_TERMINAL])
			given[PB_M_STDIN] = -1;
		close(outputs[which]);
		outputs[which] = -1;
		return 0;
	}
	log_write(which + 1, chunk, (size_t)n);
	attach_send(which == 0 ? PB_K_STDOUT : PB_K_STDERR, chunk, (size_t)n);
	return 1;
}

/* Whether the container has ended and there is nothing more to be read. Who else holds the other ends is not waited for. */
static int drained(void)
{
	if (!fate.ended)
		return 0;
	for (int which = 0; which < 2; which++)
		while (outputs[which] >= 0) {
			if (attach_busy())
				return 0;
			if (!pull(which))
				break;
		}
	return !attach_busy();
}

static void turn(int signals)
{
	struct pollfd fds[FIRST_CLIENT + PB_CLIENTS] = {0};
	struct pb_request wish = {0};
	int busy = attach_busy(), timeout = busy ? 1000 : -1, n;

	fds[SIGNALS] = (struct pollfd){.fd = signals, .events = POLLIN};
	fds[LEASH] = (struct pollfd){.fd = (int)given[PB_M_LEASH], .events = POLLIN};
	fds[LISTEN] = (struct pollfd){.fd = (int)given[PB_M_LISTEN], .events = POLLIN};
	fds[INPUT] = (struct pollfd){.fd = input_fill > 0 ? (int)given[PB_M_STDIN] : -1, .events = POLLOUT};
	for (int which = 0; which < 2; which++)
		fds[OUTPUT + which] = (struct pollfd){.fd = busy ? -1 : outputs[which], .events = POLLIN};
	n = attach_poll(fds + FIRST_CLIENT, input_fill == 0);
	if (given[PB_M_DEADLINE] > 0 && !fate.ended) {
		int64_t left = given[PB_M_DEADLINE] - pb_now_ms();

		if (left <= 0) {
			fate.timed_out = 1;
			given[PB_M_DEADLINE] = 0;
			end_container();
		} else if (timeout < 0 || left < timeout) {
			timeout = (int)(left > INT_MAX ? INT_MAX : left);
		}
	}
	if (poll(fds, (nfds_t)(FIRST_CLIENT + n), health_due(timeout)) < 0)
		return;
	if (fds[LEASH].revents)
		hear_leash(); /* before the signals: what pybox-init says, it says before it ends */
	if (fds[SIGNALS].revents)
		hear_signals(signals);
	attach_serve(fds + FIRST_CLIENT, n, &wish);
	obey(&wish);
	push_input();
	for (int which = 0; which < 2; which++)
		if (fds[OUTPUT + which].revents && !attach_busy() && outputs[which] >= 0)
			pull(which);
	if (fds[LISTEN].revents & POLLIN)
		attach_add(accept4((int)given[PB_M_LISTEN], NULL, NULL, SOCK_CLOEXEC), 0);
}

/* What happened, in the order of Fate (pybox/monitor.py). */
static _Noreturn void finish(char **words)
{
	const int64_t facts[] = {
		fate.status,
		fate.told ? fate.told_status : -1,
		fate.told ? fate.maxrss : -1,
		fate.used.ru_utime.tv_sec * 1000000 + fate.used.ru_utime.tv_usec,
		fate.used.ru_stime.tv_sec * 1000000 + fate.used.ru_stime.tv_usec,
		fate.at - given[PB_M_BEGUN],
		fate.timed_out,
		log_lost(),
		fate.told_to_end,
		fate.used.ru_inblock * 512,
		fate.used.ru_oublock * 512,
	};

	become(words, facts, sizeof(facts) / sizeof(facts[0]));
}

static void prepare(char **argv)
{
	static const int fds[] = {PB_M_LEASH, PB_M_STDIN, PB_M_STDOUT, PB_M_STDERR, PB_M_CONSOLE, PB_M_LISTEN, PB_M_CLIENT, PB_M_LOG};

	for (int i = PB_M_PID; i < PB_M_FINISH; i++)
		given[i] = strtoll(argv[i], NULL, 10);
	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (given[fds[i]] >= 0)
			fcntl((int)given[fds[i]], F_SETFD, FD_CLOEXEC);
	for (int i = 0; i < 2; i++) {
		outputs[i] = (int)given[PB_M_STDOUT + i];
		if (outputs[i] >= 0)
			fcntl(outputs[i], F_SETFL, O_NONBLOCK | fcntl(outputs[i], F_GETFL));
	}
	if (given[PB_M_STDIN] >= 0)
		fcntl((int)given[PB_M_STDIN], F_SETFL, O_NONBLOCK | fcntl((int)given[PB_M_STDIN], F_GETFL));
	if (given[PB_M_PID] > 0)
		log_open((int)given[PB_M_LOG], given[PB_M_LOG_SIZE], (int)given[PB_M_LOG_FILES]);
	attach_add((int)given[PB_M_CLIENT], (int)given[PB_M_OWNER]);
	health_begin(given[PB_M_HEALTH], argv + PB_M_FINISH);
}

int main(int argc, char **argv)
{
	sigset_t all;
	int signals;

	if (argc <= PB_M_FINISH)
		return 125;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	prepare(argv);
	if (given[PB_M_PID] == 0) {
		wait_for_restart(signals, (int)given[PB_M_LISTEN], (int)given[PB_M_LOG], given[PB_M_DEADLINE]);
		become(argv + PB_M_FINISH, NULL, 0);
	}
	hear_signals(signals); /* it may have ended before we were here to hear of it */
	while (!drained())
		turn(signals);
	if (given[PB_M_LEASH] >= 0)
		hear_leash();
	log_close();
	attach_send(PB_K_ENDED, (const char *)(fate.told ? &fate.told_status : &fate.status), sizeof(int32_t));
	finish(argv + PB_M_FINISH);
}
