/* SPDX-License-Identifier: Apache-2.0
 *
 * The whole contract between Python and C, on one page.
 *
 * Python lowers a plan to an array of rows and one blob of bytes. C clones a process and walks the rows in it, one system call
 * a row, the last being exec. The report comes back through memory that parent and child share: which row failed, with which
 * errno, and when each row was done. Strings are offsets into the blob (0 is NULL), so rows hold no pointers and can be built
 * once and used for many launches. File descriptors are slots: numbers in a table that the parent fills and rows add to.
 */
#ifndef PYBOX_H
#define PYBOX_H

#include <stddef.h>
#include <stdint.h>

/* --- read by csrc/build.py as the cffi cdef, from here --- */

enum pb_op {
	PB_CLONE,       /* clone3(x = flags | exit signal in y), into the cgroup of slot fd */
	PB_SETNS,       /* setns(fd, x = CLONE_NEW*) */
	PB_UNSHARE,     /* unshare(x = CLONE_NEW*) */
	PB_DUP,         /* dup3(fd, x, y = flags) */
	PB_CLOSE_RANGE, /* close_range(x, y, z = flags) */
	PB_WRITE_FD,    /* write(fd, a) */
	PB_WRITE,       /* open(a), write(b), close */
	PB_CREATE,      /* open(a, O_CREAT|O_EXCL, x = mode), write(b), close */
	PB_MOUNT,       /* mount(a, b, c, x = flags, d); with a slot fd, the source is the block device that is open there */
	PB_UMOUNT,      /* umount2(a, x = flags) */
	PB_PIVOT_ROOT,  /* pivot_root(a, b) */
	PB_CHDIR,       /* chdir(a) */
	PB_FCHDIR,      /* fchdir(fd), then getcwd must lie inside the root */
	PB_MKDIR,       /* mkdir(a, x = mode) */
	PB_SYMLINK,     /* symlink(a, b) */
	PB_MKNOD,       /* mknod(a, x = mode, y = device) */
	PB_REAL_DIR,    /* openat2(a) without following any symlink; made if missing */
	PB_TARGET, /* openat2(a, RESOLVE_IN_ROOT) -> slot out; x: 1 make a directory, 2 make a file, if missing; y: not on proc or sysfs */
	PB_OPEN_TREE,     /* open_tree(a, x = flags) -> slot out */
	PB_MOUNT_SETATTR, /* mount_setattr(fd, x = set, y = clear, z = AT_RECURSIVE or 0) */
	PB_MOVE_MOUNT,    /* move_mount(fd, onto slot x) */
	PB_MAP_LAYER,     /* open_tree(a), mount_setattr(IDMAP by the user namespace of slot fd), move_mount(b) */
	PB_SETHOSTNAME,   /* sethostname(a) */
	PB_LOOPBACK,      /* socket, ioctl(SIOCSIFFLAGS, lo up), close */
	PB_UMASK,         /* umask(x) */
	PB_SETSID,        /* setsid() */
	PB_SETRLIMIT,     /* prlimit(0, x = resource, y = soft, z = hard) */
	PB_SETGROUPS,     /* setgroups(x = count, a = packed gid_t) */
	PB_SETRESGID,     /* setresgid(x, x, x) */
	PB_SETRESUID,     /* setresuid(x, x, x) */
	PB_CAPBSET,       /* prctl(PR_CAPBSET_DROP) for each capability absent from x, up to y */
	PB_CAPSET,        /* capset(effective = permitted = x, inheritable = 0) */
	PB_PRCTL,         /* prctl(x, y, z, 0, 0) */
	PB_TERMINAL, /* a new terminal of /dev/pts for user x: its master is sent over the socket of slot fd, the other end -> slot out */
	PB_CONTROL,  /* ioctl(0, TIOCSCTTY): make stdin the terminal that controls this session */
	PB_LEASH,    /* poll(fd): fails with EOWNERDEAD when the other end is gone */
	PB_SECCOMP,  /* seccomp(SECCOMP_SET_MODE_FILTER, y = flags, a = program of x instructions); a listener -> slot out */
	PB_INIT,     /* execveat(fd, a = argv of x strings, b = envp of y strings): becomes pybox-init */
	PB_EXEC,     /* execve of the first of c = z paths that exists; by pybox-init if there is one */
	PB_OP_COUNT
};

enum pb_tolerate {
	PB_STRICT = 0,
	PB_OK_EXIST = 1,   /* EEXIST is fine */
	PB_OK_MISSING = 2, /* ENOENT and ENOTDIR are fine */
};

enum pb_limits { PB_SLOTS = 160, PB_ROWS = 512, PB_HEAD = 4096, PB_OVER = 65535 };

struct pb_row {
	uint32_t op;       /* enum pb_op */
	uint32_t tolerate; /* enum pb_tolerate, or-ed */
	int32_t fd;        /* slot */
	int32_t out;       /* slot */
	uint32_t a, b, c, d;
	uint64_t x, y, z;
};

/* What a failed exec looks like from where it failed: enough to name the cause (pybox/failures.py). Of a failed mount, head has
 * what the kernel said of it. */
struct pb_probe {
	int32_t stat_errno; /* 0: mode is valid */
	int32_t open_errno; /* 0: head is valid */
	uint32_t mode;      /* st_mode */
	uint32_t mount;     /* statfs f_flags (ST_NOEXEC) */
	uint32_t candidate; /* which of the paths */
	uint32_t length;    /* bytes in head */
	uint8_t head[PB_HEAD];
};

struct pb_report {
	int32_t index; /* the row that failed; -1: none did */
	int32_t error; /* its errno; 0: the process was killed in that row */
	int32_t pid;
	int32_t pidfd;
	int32_t slot_count;      /* in: how many slots the plan names */
	int32_t slots[PB_SLOTS]; /* in: fds of the parent; out: what rows opened, in the child's table */
	uint64_t begun;          /* CLOCK_MONOTONIC, ns: just before the clone */
	uint64_t done[PB_ROWS];  /* CLOCK_MONOTONIC, ns: when each row was finished */
	uint32_t gate;           /* in: rows from this one on wait until it is moved; 0: there is no gate */
	uint32_t waiting;        /* the row that waits at the gate; PB_OVER: the launch is over */
	int32_t first;           /* with a gate: the pid of the first clone, for before the second one there is no other */
	struct pb_probe probe;
};

/* What pybox-init says over the leash: one message when the command runs or could not, one when it has ended. */
enum pb_word { PB_STARTED = 1, PB_EXEC_FAILED = 2, PB_ENDED = 3 };
struct pb_message {
	uint32_t word;
	int32_t value;     /* errno, or the wait status */
	int64_t maxrss_kb; /* with PB_ENDED: of the largest process of the command */
};

/* The arguments of pybox-monitor (monitor.h), by position; all are numbers. */
enum pb_monitor {
	PB_M_PROGRAM,  /* argv[0] */
	PB_M_PID,      /* process 1 of the container, our child; 0: only wait for the deadline, then become that command */
	PB_M_LEASH,    /* fd of the leash, -1: none */
	PB_M_STDIN,    /* fd that the container reads, -1: none */
	PB_M_STDOUT,   /* fd of what it writes; with a terminal this is its master, for both directions */
	PB_M_STDERR,   /* the same, -1: none */
	PB_M_TERMINAL, /* 1: PB_M_STDOUT is a terminal */
	PB_M_CONSOLE,  /* fd of its other end, held so that it is there while nobody inside has it open; -1: none */
	PB_M_LISTEN,   /* fd of the socket that clients connect to */
	PB_M_CLIENT,   /* fd of a client that is there from the start, -1: none */
	PB_M_OWNER,    /* 1: the container dies with that client */
	PB_M_LOG,      /* fd of the directory of the container, where the log is; -1: none */
	PB_M_LOG_SIZE, /* bytes, after which a new file begins */
	PB_M_LOG_FILES,
	PB_M_BEGUN,    /* CLOCK_MONOTONIC, ms */
	PB_M_DEADLINE, /* the same clock, when the container is to be killed; 0: never */
	PB_M_HEALTH,   /* ms between two health checks, 0 or less: none */
	PB_M_STOP,     /* the signal that asks the container to end */
	PB_M_FINISH    /* from here on: the command to become */
};

/* The first byte of each message between pybox-monitor and a client. */
enum pb_kind {
	PB_K_INPUT = 'i',  /* to the monitor: bytes for stdin */
	PB_K_EOF = 'e',    /* no more of them */
	PB_K_SIZE = 'w',   /* two uint16: rows, columns of the terminal */
	PB_K_SIGNAL = 's', /* a byte: send this signal */
	PB_K_DETACH = 'd', /* goodbye: the container shall go on */
	PB_K_QUIET = 'q',  /* tell me of the end only */
	PB_K_HURRY = 'h',  /* wait no longer: for the next start, or for who does not take the last output */
	PB_K_STDOUT = 'o', /* from the monitor: bytes that the container wrote */
	PB_K_STDERR = 'r',
	PB_K_ENDED = 'x', /* an int32: its wait status */
};

struct pb_usage {
	int32_t status; /* as wait(2) gives it */
	int64_t user_us, system_us;
	int64_t maxrss_kb;
	int64_t read_bytes, written_bytes; /* from and to block devices */
};

/* Clone and walk the rows; returns when the command runs (0) or a row has failed (-1, see report). leash is the parent's and
 * the child's end of the leash; the child's end is closed here. With init, what pybox-init says on it is waited for. */
int pb_launch(const struct pb_row *rows, uint32_t count, const char *blob, struct pb_report *report, const int leash[2], int init);

/* wait4(pid): 0, or -errno (EINTR lets Python run its signal handlers). */
int pb_wait(int pid, struct pb_usage *usage);

/* A close-on-exec SOCK_SEQPACKET pair. 0 or -errno. */
int pb_leash(int ends[2]);

/* A sealed copy of a program, that nobody can write to again: what CVE-2019-5736 asks for. An fd or -errno. */
int pb_seal(const char *name, const char *bytes, size_t length);

/* openat2 with RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS below dirfd. An fd or -errno. */
int pb_open_in_root(int dirfd, const char *path, int flags);

/* Have a network namespace made, loopback up, unless one is there or in the making; returns at once. */
void pb_order_network(void);

/* Take one that was made, or wait for it. A close-on-exec fd or -errno; and a socket in there, to close or to give it back with. */
int pb_take_network(int *socket);

/* Its container has ended: it may be taken again, if nothing was ever sent in it. Closes the socket or keeps it. */
void pb_return_network(int socket);

/* Let go of those that nobody has taken, also of what is still in the making. */
void pb_forget_networks(void);

/* A netlink socket of a network namespace: a socket belongs to where it was opened, and so does what it asks for. An fd or -errno. */
int pb_netlink_in(int netns);

/* Project quotas of the file system of an fd, quotactl(2): are there any (0, or -errno: ESRCH)? The limit of one in bytes, 0 for
 * none, or -errno. */
int pb_has_quota(int fd);
int pb_set_quota(int fd, uint32_t project, uint64_t bytes);
int64_t pb_quota(int fd, uint32_t project);

/* setns(fd, CLONE_NEWUSER), for a process with one thread. 0 or -errno. */
int pb_enter_user_namespace(int fd);

/* For another thread while pb_launch is at it: move the gate, and wait until a row waits at it or the launch is over. */
void pb_open_gate(struct pb_report *report, uint32_t row);
uint32_t pb_at_gate(struct pb_report *report);
/* The launch is over, or there will be none. */
void pb_end_gate(struct pb_report *report);

/* pidfd_getfd: a copy of another process's fd. A close-on-exec fd or -errno. */
int pb_copy_fd(int pidfd, int fd);

/* A process in new namespaces (flags) that waits to be killed: it holds a user namespace until the caller has an fd of it.
 * Its pid or -errno. */
int pb_holder(uint64_t flags, int program);

/* --- to here --- */

/* launch.c: the walk, with what each op needs. */
struct pb_walk {
	const struct pb_row *rows;
	uint32_t count;
	uint32_t next;
	const char *blob;
	struct pb_report *report;
	const char **words; /* argv, envp and paths of the exec rows, resolved before the clone */
	void *stack[2];
};

_Noreturn void pb_walk_rows(struct pb_walk *walk);
/* The kernel writes the pid to *pid (NULL: nowhere) before the child takes its first step. */
long pb_clone3(uint64_t flags, int exit_signal, int cgroup, int32_t *pid, void *stack, void (*start)(void *), void *arg);
uint64_t pb_now(void);
int pb_loopback_up(int socket);
/* gate.c */
void pb_wait_at_gate(struct pb_walk *walk);

/* ops_self.c: what each op does. */
extern int (*const PB_DO[PB_OP_COUNT])(struct pb_walk *, const struct pb_row *);

enum { PB_STACK = 64 * 1024 };

#endif
