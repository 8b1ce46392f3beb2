/*
 * floor - the kernel's own price for one container, as the reference that pybox is measured against
 *
 *   floor LOWER DIR COUNT      run COUNT jobs one after the other, print the nanoseconds of each
 *
 * One job is clone(2) with shared memory and vfork semantics into new mount, pid, uts, ipc, network and cgroup namespaces,
 * overlayfs of LOWER with a fresh upper directory, /proc, a /dev with five nodes, pivot_root, exec of /bin/true, wait.
 * The upper directory is on a tmpfs that is mounted inside the namespace on DIR, so it dies with the job: nothing to remove.
 * No limits, no seccomp, no capabilities dropped, nothing captured, nothing recorded: what a runtime adds is to be seen beside
 * it.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { STACK = 64 * 1024 };

struct job {
	const char *dir;
	const char *overlay; /* mount options */
	const char *failed;  /* set by the child: memory is shared until it execs */
	int error;
};

static const struct {
	const char *path;
	mode_t mode;
	unsigned int minor;
} NODES[] = {
	{"dev/null", 0666, 3}, {"dev/zero", 0666, 5}, {"dev/full", 0666, 7}, {"dev/random", 0666, 8}, {"dev/urandom", 0666, 9},
};

#define TRY(call) \
	do { \
		if ((call) < 0) { \
			job->failed = #call; \
			job->error = errno; \
			_exit(125); \
		} \
	} while (0)

static int child(void *argument)
{
	struct job *job = argument;
	static char *const argv[] = {"true", NULL};
	static char *const envp[] = {"PATH=/bin", NULL};

	TRY(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	TRY(mount("tmpfs", job->dir, "tmpfs", 0, NULL));
	TRY(chdir(job->dir));
	TRY(mkdir("upper", 0755));
	TRY(mkdir("work", 0755));
	TRY(mkdir("root", 0755));
	TRY(mount("overlay", "root", "overlay", 0, job->overlay));
	TRY(chdir("root"));
	TRY(mount("proc", "proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL));
	TRY(mount("tmpfs", "dev", "tmpfs", MS_NOSUID, "mode=755,size=64k"));
	for (size_t i = 0; i < sizeof(NODES) / sizeof(NODES[0]); i++)
		TRY(mknod(NODES[i].path, S_IFCHR | NODES[i].mode, makedev(1, NODES[i].minor)));
	TRY(syscall(SYS_pivot_root, ".", "."));
	TRY(umount2(".", MNT_DETACH));
	TRY(chdir("/"));
	TRY(execve("/bin/true", argv, envp));
	return 125;
}

static long long now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000LL + time.tv_nsec;
}

static int run(struct job *job, char *stack)
{
	int flags = CLONE_VM | CLONE_VFORK | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWNET | CLONE_NEWCGROUP;
	int status;
	pid_t pid = clone(child, stack + STACK, flags | SIGCHLD, job);

	if (pid < 0) {
		fprintf(stderr, "floor: clone: %s\n", strerror(errno));
		return -1;
	}
	if (waitpid(pid, &status, 0) < 0 || job->failed || !WIFEXITED(status) || WEXITSTATUS(status) != 0) {
		fprintf(stderr, "floor: %s: %s\n", job->failed ? job->failed : "/bin/true", strerror(job->error));
		return -1;
	}
	return 0;
}

int main(int argc, char **argv)
{
	struct job job = {0};
	char *options, *stack;
	long long *times;
	long count;

	if (argc != 4 || (count = strtol(argv[3], NULL, 10)) < 1) {
		fprintf(stderr, "usage: floor LOWER DIR COUNT\n");
		return 2;
	}
	times = calloc((size_t)count, sizeof(*times));
	stack = mmap(NULL, STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	if (!times || stack == MAP_FAILED || asprintf(&options, "lowerdir=%s,upperdir=upper,workdir=work", argv[1]) < 0) {
		fprintf(stderr, "floor: out of memory\n");
		return 1;
	}
	job.dir = argv[2];
	job.overlay = options;
	for (long i = 0; i < count; i++) {
		long long start = now();

		if (run(&job, stack) < 0)
			return 1;
		times[i] = now() - start;
	}
	for (long i = 0; i < count; i++)
		printf("%lld\n", times[i]);
	return 0;
}
