/* SPDX-License-Identifier: Apache-2.0
 *
 * What the system tests run inside a container: one static program that does one thing and says what came of it, as the name of
 * an errno or "ok". It is in the test image as /bin/inside.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#define arg(n) (argc > (n) ? argv[n] : "")

static int verdict(long result)
{
	printf("%s\n", result < 0 ? strerrorname_np(errno) : "ok");
	return 0;
}

/* fds: every open fd and what it is */
static int fds(void)
{
	DIR *dir = opendir("/proc/self/fd");
	struct dirent *entry;
	char target[4096];

	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.' || atoi(entry->d_name) == dirfd(dir))
			continue;
		ssize_t n = readlinkat(dirfd(dir), entry->d_name, target, sizeof(target) - 1);
		printf("%s %.*s\n", entry->d_name, (int)(n > 0 ? n : 0), target);
	}
	return 0;
}

/* eat BYTES: use that much memory */
static int eat(size_t bytes)
{
	char *p = malloc(bytes);

	if (!p)
		return verdict(-1);
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
	return verdict(0);
}

/* forks: start children until the kernel refuses; how many there were, and why no more */
static int forks(int most)
{
	int made = 0, pipe_[2];
	char c;

	if (pipe(pipe_))
		return 1;
	for (; made < most; made++) {
		pid_t pid = fork();
		if (pid == 0) {
			close(pipe_[1]);
			_exit(read(pipe_[0], &c, 1) ? 1 : 0);
		}
		if (pid < 0)
			break;
	}
	printf("%d %s\n", made, made < most ? strerrorname_np(errno) : "ok");
	close(pipe_[1]);
	while (wait(NULL) > 0)
		;
	return 0;
}

/* spin MILLISECONDS: use that much time of a CPU */
static int spin(long ms)
{
	struct timespec t;

	do
		clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	while (t.tv_sec * 1000 + t.tv_nsec / 1000000 < ms);
	return verdict(0);
}

static void heard(int number)
{
	char line[32];
	int n = snprintf(line, sizeof(line), "%s\n", sigabbrev_np(number));

	if (write(1, line, (size_t)n) < 0)
		_exit(9);
	if (number == SIGTERM)
		_exit(7);
}

/* signals: say "ready", then the name of each signal that comes; TERM ends it with status 7 */
static int signals(void)
{
	const int numbers[] = {SIGHUP, SIGINT, SIGQUIT, SIGUSR1, SIGUSR2, SIGTERM, SIGWINCH};

	for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++)
		signal(numbers[i], heard);
	if (write(1, "ready\n", 6) < 0)
		return 9;
	for (;;)
		pause();
}

/* orphan COUNT: leave that many orphans behind, all dead at once; then count the zombies that are left in /proc */
static int orphans(int count)
{
	for (int i = 0; i < count; i++)
		if (fork() == 0) {
			if (fork() == 0)
				_exit(0);
			_exit(0);
		}
	while (wait(NULL) > 0)
		;
	for (int attempt = 0; attempt < 500; attempt++) {
		int zombies = 0;
		DIR *proc = opendir("/proc");
		struct dirent *entry;
		while (proc && (entry = readdir(proc))) {
			char path[300], line[512];
			snprintf(path, sizeof(path), "/proc/%s/stat", entry->d_name);
			FILE *file = atoi(entry->d_name) ? fopen(path, "r") : NULL;
			if (file && fgets(line, sizeof(line), file))
				zombies += strstr(line, ") Z ") != NULL;
			if (file)
				fclose(file);
		}
		closedir(proc);
		if (!zombies)
			return verdict(0);
		usleep(20000);
	}
	printf("zombies\n");
	return 0;
}

/* exchange A B: swap two names for ever */
static _Noreturn void exchange(const char *a, const char *b)
{
	for (;;)
		syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, 2 /* RENAME_EXCHANGE */);
}

/* streams BYTES: as much to stdout as to stderr, in turns */
static int streams(size_t bytes)
{
	char out[4096], err[4096];

	memset(out, 'o', sizeof(out));
	memset(err, 'e', sizeof(err));
	for (size_t done = 0; done < bytes; done += sizeof(out))
		if (write(1, out, sizeof(out)) != sizeof(out) || write(2, err, sizeof(err)) != sizeof(err))
			return 9;
	return 0;
}

static int ids(void)
{
	uid_t r, e, s;
	gid_t rg, eg, sg, groups[64];
	int n = getgroups(64, groups);

	if (getresuid(&r, &e, &s) || getresgid(&rg, &eg, &sg))
		return 1;
	printf("%u %u %u / %u %u %u /", r, e, s, rg, eg, sg);
	for (int i = 0; i < n; i++)
		printf(" %u", groups[i]);
	printf("\n");
	return 0;
}

static int seals(const char *path)
{
	int fd = open(path, O_RDONLY);

	printf("%d\n", fd < 0 ? -1 : fcntl(fd, F_GET_SEALS));
	return 0;
}

/* deep COUNT: a directory in a directory in a directory */
static int deep(int count)
{
	for (int i = 0; i < count; i++)
		if (mkdir("d", 0755) || chdir("d"))
			return verdict(-1);
	return verdict(0);
}

static int try_socket(void)
{
	return verdict(socket(AF_INET, SOCK_STREAM, 0));
}

static int fsmagic(const char *path)
{
	struct statfs fs;

	if (statfs(path, &fs))
		return verdict(-1);
	printf("%lx\n", (unsigned long)fs.f_type);
	return 0;
}

/* reopen FD: what CVE-2019-5736 does once it has an fd of the runtime's program: wait until it may be written */
static int reopen(const char *path, const char *text)
{
	if (write(1, "ready\n", 6) < 0)
		return 9;
	fork();
	fork();
	for (;;) {
		int fd = open(path, O_WRONLY | O_APPEND);
		if (fd >= 0)
			return write(fd, text, strlen(text)) > 0 ? 0 : 1;
	}
}

int main(int argc, char **argv)
{
	const char *what = arg(1);
	gid_t group = 4;

	if (!strcmp(what, "fds"))
		return fds();
	if (!strcmp(what, "open")) /* open PATH FLAGS */
		return verdict(open(arg(2), (int)strtol(arg(3), NULL, 0)));
	if (!strcmp(what, "tiocsti"))
		return verdict(ioctl(0, TIOCSTI, "x"));
	if (!strcmp(what, "tioclinux"))
		return verdict(ioctl(0, TIOCLINUX, "\2"));
	if (!strcmp(what, "unshare"))
		return verdict(unshare((int)strtol(arg(2), NULL, 0)));
	if (!strcmp(what, "mount")) /* mount SOURCE TARGET TYPE FLAGS OPTIONS */
		return verdict(mount(arg(2), arg(3), arg(4), strtoul(arg(5), NULL, 0), arg(6)));
	if (!strcmp(what, "eat"))
		return eat(strtoull(arg(2), NULL, 0));
	if (!strcmp(what, "forks"))
		return forks(atoi(arg(2)));
	if (!strcmp(what, "spin"))
		return spin(atol(arg(2)));
	if (!strcmp(what, "signals"))
		return signals();
	if (!strcmp(what, "orphans"))
		return orphans(atoi(arg(2)));
	if (!strcmp(what, "exchange"))
		exchange(arg(2), arg(3));
	if (!strcmp(what, "streams"))
		return streams(strtoull(arg(2), NULL, 0));
	if (!strcmp(what, "ids"))
		return ids();
	if (!strcmp(what, "setgroups"))
		return verdict(setgroups(1, &group));
	if (!strcmp(what, "seals"))
		return seals(arg(2));
	if (!strcmp(what, "deep"))
		return deep(atoi(arg(2)));
	if (!strcmp(what, "socket"))
		return try_socket();
	if (!strcmp(what, "fsmagic"))
		return fsmagic(arg(2));
	if (!strcmp(what, "reopen"))
		return reopen(arg(2), arg(3));
	if (!strcmp(what, "kill")) { /* end by a signal */
		signal(atoi(arg(2)), SIG_DFL);
		raise(atoi(arg(2)));
		for (;;)
			pause();
	}
	fprintf(stderr, "inside: unknown: %s\n", what);
	return 2;
}
