"""The system calls a container may make: pybox's own default profile, as a table to read.

The kernel has some 380 system calls; a job needs perhaps 250 of them, and many of the rest are where containers were broken out
of. The table below says for each what happens, in four words:

    allow     the call goes through. The kernel's own checks (capabilities, file modes, namespaces) still apply; seccomp only
    narrows. needs     it goes through when the container was granted one of these capabilities (``--cap-add``), else it fails
    with EPERM. EPERM     it fails with "Operation not permitted": known, and known to be dangerous or useless here. ENOSYS
    it fails with "Function not implemented", as if the kernel were older. That is the answer to every call the table does not
    name, so that
              the C library falls back to what it did before the call existed; with EPERM it would give up (glibc bug 28186 and
              its kind).

Entries are read top to bottom, the first that applies decides. A call that the table names but that no entry lets through fails
with EPERM. What the container's namespaces already confine (mounting needs CAP_SYS_ADMIN, which a container lacks) is denied
once more here, because a new user namespace hands all capabilities to anyone: most kernel holes of the last ten years were
reached through ``unshare(CLONE_NEWUSER)``.

OWN_NAMESPACES is what a system container (system.py) has instead of CAP_SYS_ADMIN: it is good for mounts and namespaces only.
"""

from __future__ import annotations

from pybox.kernel.bpf import ALLOW, Compare, Policy, Rule, errno
from pybox.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

EPERM = errno(1)
ENOSYS = errno(38)

# The CLONE_NEW* flags, linux/sched.h: NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET. NEWTIME (0x80) overlaps the
# exit signal in clone(2), so only unshare can ask for it.
NEW_NAMESPACES = 0x7E020000
NEW_TIME = 0x00000080


class Entry(Record):
    """Some calls with one answer. ``needs``: capabilities of which one must be granted for the entry to apply."""

    why: str
    calls: str
    verdict: int = ALLOW
    needs: str = ""
    when: tuple[Compare, ...] = ()


def int_is(index: int, value: int) -> tuple[Compare, ...]:
    """The argument, which the kernel reads as a 32-bit int, is ``value``, whatever the upper half of the register holds."""
    return (Compare(index, "&==", value, 0xFFFFFFFF),)


def flags_clear(index: int, flags: int) -> tuple[Compare, ...]:
    """None of these flags is set in the argument."""
    return (Compare(index, "&==", 0, flags),)


TABLE = (
    # -- what every program does ------------------------------------------------------------------------------------------------
    Entry(
        "processes: start, end, wait, signal. clone has conditions, further down",
        "fork vfork execve execveat exit exit_group wait4 waitid kill tkill tgkill pidfd_open pidfd_send_signal "
        "getpid getppid gettid getpgid getpgrp setpgid getsid setsid set_tid_address restart_syscall prctl arch_prctl "
        "set_thread_area get_thread_area rseq rseq_slice_yield membarrier process_mrelease uprobe uretprobe",
    ),
    Entry(
        "signals",
        "rt_sigaction rt_sigprocmask rt_sigpending rt_sigqueueinfo rt_tgsigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait "
        "sigaltstack pause signalfd signalfd4",
    ),
    Entry(
        "memory of one's own; the mempolicy calls place it on NUMA nodes, within what the cpuset allows",
        "brk mmap mprotect munmap mremap msync mincore madvise mlock mlock2 mlockall munlock munlockall remap_file_pages "
        "memfd_create memfd_secret mseal map_shadow_stack pkey_alloc pkey_free pkey_mprotect "
        "get_mempolicy set_mempolicy set_mempolicy_home_node mbind",
    ),
    Entry(
        "locks between threads",
        "futex futex_waitv futex_wait futex_wake futex_requeue get_robust_list set_robust_list",
    ),
    Entry(
        "scheduling and priorities; raising one's own is the kernel's to refuse",
        "sched_yield sched_getparam sched_setparam sched_getscheduler sched_setscheduler sched_getattr sched_setattr "
        "sched_getaffinity sched_setaffinity sched_get_priority_max sched_get_priority_min sched_rr_get_interval "
        "getpriority setpriority ioprio_get ioprio_set getcpu",
    ),
    Entry(
        "who am I",
        "getuid geteuid getgid getegid getresuid getresgid getgroups setuid setgid setreuid setregid setresuid setresgid "
        "setfsuid setfsgid setgroups capget capset",
    ),
    Entry(
        "limits and facts about the machine",
        "getrlimit setrlimit prlimit64 getrusage sysinfo uname times umask getrandom",
    ),
    Entry(
        "time: reading and waiting. adjtime reads for everyone and sets only with CAP_SYS_TIME, which the kernel checks",
        "time gettimeofday clock_gettime clock_getres clock_nanosleep nanosleep alarm getitimer setitimer adjtimex clock_adjtime "
        "timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create timerfd_gettime timerfd_settime",
    ),
    Entry(
        "files: open, read, write, close",
        "open openat openat2 creat close close_range read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 "
        "lseek dup dup2 dup3 fcntl flock pipe pipe2 sendfile splice tee vmsplice copy_file_range readahead fadvise64 "
        "fallocate truncate ftruncate sync syncfs fsync fdatasync sync_file_range cachestat",
    ),
    Entry(
        "files: names and directories. mknod makes FIFOs; for device nodes the kernel wants CAP_MKNOD",
        "getcwd chdir fchdir mkdir mkdirat rmdir link linkat symlink symlinkat unlink unlinkat rename renameat renameat2 "
        "readlink readlinkat getdents getdents64 mknod mknodat",
    ),
    Entry(
        "files: attributes",
        "stat lstat fstat newfstatat statx statfs fstatfs access faccessat faccessat2 chmod fchmod fchmodat fchmodat2 "
        "chown lchown fchown fchownat utime utimes futimesat utimensat name_to_handle_at file_getattr file_setattr "
        "getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat "
        "listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat",
    ),
    Entry(
        "which mounts the caller's own namespace has: as readable as /proc/self/mountinfo",
        "statmount listmount",
    ),
    Entry(
        "waiting for many files at once, and being told of changes",
        "poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2 "
        "inotify_init inotify_init1 inotify_add_watch inotify_rm_watch fanotify_mark",
    ),
    Entry(
        "the old asynchronous I/O: small, and databases use it",
        "io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents",
    ),
    Entry(
        "queues, semaphores and shared memory; the IPC namespace keeps them inside",
        "shmget shmat shmctl shmdt semget semop semtimedop semctl msgget msgsnd msgrcv msgctl "
        "mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr",
    ),
    Entry(
        "locking oneself in further",
        "seccomp landlock_create_ruleset landlock_add_rule landlock_restrict_self lsm_get_self_attr lsm_list_modules",
    ),
    Entry(
        "debuggers: since Linux 4.8 seccomp judges a call after the tracer changed it; the PID namespace keeps the tracer inside",
        "ptrace process_vm_readv process_vm_writev",
    ),
    # -- with conditions on arguments -------------------------------------------------------------------------------------------
    Entry("AF_ALG, kernel crypto: a long line of holes, and nobody's only way to encrypt", "socket", EPERM, when=int_is(0, 38)),
    Entry("AF_VSOCK talks to the hypervisor and is not confined by the network namespace", "socket", EPERM, when=int_is(0, 40)),
    Entry(
        "the other sockets",
        "socket socketpair bind listen accept accept4 connect shutdown getsockname getpeername getsockopt setsockopt "
        "sendto sendmsg sendmmsg recvfrom recvmsg recvmmsg",
    ),
    Entry("TIOCSTI types into the terminal: with a shared one, into the caller's shell", "ioctl", EPERM, when=int_is(1, 0x5412)),
    Entry("TIOCLINUX pastes into a console, the same trick", "ioctl", EPERM, when=int_is(1, 0x541C)),
    Entry("the other ioctls: what they may do depends on the file, and /dev has only harmless ones", "ioctl"),
    Entry("personality: Linux", "personality", when=int_is(0, 0x0)),
    Entry("personality: 32-bit Linux, for setarch", "personality", when=int_is(0, 0x8)),
    Entry("personality: report a 2.6 kernel", "personality", when=int_is(0, 0x20000)),
    Entry("personality: both. Others weaken the memory layout (READ_IMPLIES_EXEC)", "personality", when=int_is(0, 0x20008)),
    Entry("personality: only ask", "personality", when=int_is(0, 0xFFFFFFFF)),
    # -- namespaces and mounts: with CAP_SYS_ADMIN ------------------------------------------------------------------------------
    Entry(
        "new namespaces and mounts: how containers are made, and how holes in the kernel are reached",
        "clone clone3 unshare setns mount umount2 pivot_root fsopen fsconfig fsmount fspick move_mount open_tree open_tree_attr "
        "mount_setattr sethostname setdomainname listns",
        needs="CAP_SYS_ADMIN OWN_NAMESPACES",
    ),
    Entry("a process or a thread, but no namespace", "clone", when=flags_clear(0, NEW_NAMESPACES)),
    Entry("stop sharing files or the directory, but no namespace", "unshare", when=flags_clear(0, NEW_NAMESPACES | NEW_TIME)),
    Entry("its flags are in memory, where a filter can't look; with ENOSYS the C library uses clone", "clone3", ENOSYS),
    # -- with other capabilities ------------------------------------------------------------------------------------------------
    Entry("quotas, watching whole mounts, labels", "quotactl quotactl_fd fanotify_init lsm_set_self_attr", needs="CAP_SYS_ADMIN"),
    Entry("programs inside the kernel", "bpf", needs="CAP_BPF CAP_SYS_ADMIN"),
    Entry("performance counters, which see more than the container", "perf_event_open", needs="CAP_PERFMON CAP_SYS_ADMIN"),
    Entry("the kernel's log, which is the host's", "syslog", needs="CAP_SYSLOG CAP_SYS_ADMIN"),
    Entry("open a file by number, past all directories: the shocker exploit", "open_by_handle_at", needs="CAP_DAC_READ_SEARCH"),
    Entry("look into or act on other processes", "kcmp pidfd_getfd process_madvise", needs="CAP_SYS_PTRACE"),
    Entry("move other processes' memory between nodes", "migrate_pages move_pages", needs="CAP_SYS_NICE"),
    Entry("set the clock, which all share", "settimeofday clock_settime", needs="CAP_SYS_TIME"),
    Entry("another root directory, chroot(2)", "chroot", needs="CAP_SYS_CHROOT"),
    Entry("load code into the kernel", "init_module finit_module delete_module", needs="CAP_SYS_MODULE"),
    Entry("raw I/O ports", "ioperm iopl", needs="CAP_SYS_RAWIO"),
    Entry("reboot; in a PID namespace it ends pid 1", "reboot", needs="CAP_SYS_BOOT"),
    Entry("process accounting", "acct", needs="CAP_SYS_PACCT"),
    Entry("hang up the terminal", "vhangup", needs="CAP_SYS_TTY_CONFIG"),
    # -- never ------------------------------------------------------------------------------------------------------------------
    Entry(
        "io_uring does its I/O past this very filter, and has a record of holes",
        "io_uring_setup io_uring_enter io_uring_register",
        EPERM,
    ),
    Entry("keyrings are shared with the whole host", "add_key request_key keyctl", EPERM),
    Entry("page faults handled by the attacker: the tool that makes kernel races winnable", "userfaultfd", EPERM),
    Entry("another kernel, or swap", "kexec_load kexec_file_load swapon swapoff", EPERM),
    Entry("16-bit segments: old code that few programs use and several holes did", "modify_ldt", EPERM),
)


def policy(caps: AbstractSet[str], machine: str) -> Policy:
    """Return the default profile for a container with these capabilities. Calls that ``machine`` lacks are left out."""
    from pybox.kernel.syscalls import numbers

    known = numbers(machine)
    rules: dict[str, list[Rule]] = {}
    for entry in TABLE:
        applies = not entry.needs or not caps.isdisjoint(entry.needs.split())
        for call in entry.calls.split():
            mine = rules.setdefault(call, [])
            if applies and not (mine and not mine[-1].when):
                mine.append(Rule(entry.verdict, entry.when))
    calls = []
    for call, mine in rules.items():
        if call in known:
            decided = bool(mine) and not mine[-1].when
            calls.append((known[call], tuple(mine) if decided else (*mine, Rule(EPERM))))
    return Policy(ENOSYS, tuple(sorted(calls, key=lambda item: item[0])))
