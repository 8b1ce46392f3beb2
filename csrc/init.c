/* SPDX-License-Identifier: Apache-2.0
 *
 * pybox-init: process 1 of a container. Static, a few kilobytes, no more rights than the command has.
 *
 *     pybox-init [tvd]COUNT PATH... ARGV...  run ARGV by the first of COUNT paths that exists
 *     pybox-init                             wait to be killed (the holder of a user namespace)
 *
 * A command that is process 1 itself has two surprises for it (pid_namespaces(7)): signals that it does not handle are not
 * delivered to it at all, so Ctrl-C and SIGTERM do nothing; and orphans become its children, which it does not expect and never
 * reaps. So pybox-init is process 1: it starts the command, passes signals on to it, reaps whatever dies, and leaves when the
 * command has ended, which makes the kernel kill what is left.
 *
 * Fd 3 is the leash, a socket to pybox. It carries what happened (struct pb_message), and when its other end closes, pybox is
 * dead and so is this container. PR_SET_PDEATHSIG alone would not do: it fires when the launching *thread* ends. With --pid host,
 * fd 5 is the cgroup.kill of the container's control group.
 *
 * t: fd 0 is a terminal for the command. The command gets a session of its own and the terminal to control it, as a login would:
 * Ctrl-C is for the command alone, and Ctrl-Z does not stop one that nobody could continue (an orphaned group, setpgid(2)).
 * v: a visitor, `pybox exec` in a container whose processes may look into others (CAP_SYS_PTRACE). It is no process of the
 * container and not seen there; only the command is, which until its exec has this program as its /proc/PID/exe and a copy of
 * its memory. d: the visitor outlives pybox.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "exec.h"

enum { LEASH = 3, KILLER = 5 };

static struct failure {
	struct pb_message message;
	struct pb_probe probe;
	int error;
} own, *failed = &own; /* written by the child, read by us when it has exec'ed or is gone */
static int terminal, visitor, detached;

static void say(uint32_t word, int value)
{
	struct pb_message message = {.word = word, .value = value};
	struct rusage used;

	/* of the command and what it waited for; in pybox-init's own account is the memory of pybox, which it shared until exec */
	if (word == PB_ENDED && getrusage(RUSAGE_CHILDREN, &used) == 0)
		message.maxrss_kb = used.ru_maxrss;
	/* nobody to hear it is no reason to die of SIGPIPE: the poll loop sees the hang-up */
	send(LEASH, &message, sizeof(message), MSG_NOSIGNAL);
}

static pid_t start(const char *const *paths, uint32_t count, char **argv)
{
	pid_t pid;

	if (visitor) {
		void *page = mmap(NULL, sizeof(*failed), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

		if (page != MAP_FAILED)
			failed = page;
	}
	/* a visitor's child shares no memory with us: who takes it over must not have taken over us */
	pid = visitor ? (pid_t)syscall(SYS_clone, CLONE_VFORK | SIGCHLD, 0, 0, 0, 0) : vfork();
	if (pid == 0) {
		sigset_t none;

		if (terminal || visitor)
			setsid();
		if (terminal)
			ioctl(0, TIOCSCTTY, 0);
		if (visitor && !detached)
			prctl(PR_SET_PDEATHSIG, SIGKILL); /* it does not end with us as one does whose process 1 we are */
		sigemptyset(&none);
		sigprocmask(SIG_SETMASK, &none, NULL);
		extern char **environ;
		uint32_t blame = pb_exec_first(paths, count, argv, environ);

		failed->error = errno;
		pb_take_evidence(paths[blame], blame, &failed->probe);
		_exit(127);
	}
	if (pid < 0)
		failed->error = errno;
	if (*(volatile int *)&failed->error) {
		failed->message.word = PB_EXEC_FAILED;
		failed->message.value = failed->error;
		send(LEASH, failed, offsetof(struct failure, error), MSG_NOSIGNAL);
		if (visitor) /* nobody in the container would reap it */
			waitpid(pid, NULL, 0);
		_exit(127);
	}
	return pid;
}

static _Noreturn void leave(int status)
{
	say(PB_ENDED, status);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status));
}

static void reap(pid_t command)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0)
		if (pid == command)
			leave(status);
}

int main(int argc, char **argv)
{
	sigset_t all;

	if (argc < 2) { /* it holds namespaces open, for as long as the parent lives that its only variable names */
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		while (*environ && getppid() == atoi(*environ))
			pause();
		return 0;
	}
	prctl(PR_SET_NAME, "pybox-init"); /* exec by fd has named us after the fd */
	fcntl(LEASH, F_SETFD, FD_CLOEXEC);
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	const char *how = argv[1];

	for (; *how > '9'; how++) {
		terminal |= *how == 't';
		visitor |= *how == 'v';
		detached |= *how == 'd';
	}
	/* with --pid host we are not process 1, and orphans would go to the host's */
	if (getpid() != 1 && !visitor) {
		prctl(PR_SET_CHILD_SUBREAPER, 1);
		prctl(PR_SET_PDEATHSIG, 0); /* who waited at a gate has it; this must outlive pybox long enough to use KILLER */
		fcntl(KILLER, F_SETFD, FD_CLOEXEC);
	}

	uint32_t count = (uint32_t)strtoul(how, NULL, 10);
	pid_t command = start((const char *const *)argv + 2, count, argv + 2 + count);

	/* a ps inside should show what this is, not the search for the command; argv is one stretch of memory */
	memset(argv[1], 0, (size_t)(argv[argc - 1] + strlen(argv[argc - 1]) - argv[1]));
	say(PB_STARTED, 0);

	int signals = signalfd(-1, &all, SFD_CLOEXEC | SFD_NONBLOCK);
	struct pollfd fds[2] = {{.fd = signals, .events = POLLIN}, {.fd = detached ? -1 : LEASH, .events = 0}};

	for (;;) {
		struct signalfd_siginfo got;

		reap(command);
		if (poll(fds, 2, -1) < 0)
			continue;
		if (fds[1].revents & (POLLHUP | POLLERR)) {
			if (visitor) {
				kill(command, SIGKILL);
				waitpid(command, NULL, 0);
			} else if (getpid() != 1) /* nobody dies of our death: end the whole control group, ourselves included */
				(void)!write(KILLER, "1", 1);
			_exit(128 + SIGKILL);
		}
		while (read(signals, &got, sizeof(got)) == (ssize_t)sizeof(got))
			if (got.ssi_signo != SIGCHLD)
				kill(command, (int)got.ssi_signo);
	}
}
