/* SPDX-License-Identifier: Apache-2.0
 *
 * clone3(2), and the holder of a user namespace.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "pybox.h"

/* clone3(2) onto a stack of the child's own. There is no C wrapper: the child must not return through the frame of a function
 * that the parent will return through too, so the call and the jump are one piece of assembly. */
static long clone3_call(struct clone_args *args, void (*start)(void *), void *arg)
{
	long ret;

#if defined(__x86_64__)
	register void (*r8)(void *) __asm__("r8") = start;
	register void *r9 __asm__("r9") = arg;
	__asm__ volatile("syscall\n\t"
			 "test %%rax, %%rax\n\t"
			 "jnz 1f\n\t"
			 "xor %%ebp, %%ebp\n\t"
			 "mov %%r9, %%rdi\n\t"
			 "call *%%r8\n\t"
			 "hlt\n"
			 "1:"
			 : "=a"(ret)
			 : "0"((long)SYS_clone3), "D"(args), "S"(sizeof(*args)), "r"(r8), "r"(r9)
			 : "rcx", "r11", "memory", "cc");
#elif defined(__aarch64__)
	register long x8 __asm__("x8") = SYS_clone3;
	register long x0 __asm__("x0") = (long)args;
	register long x1 __asm__("x1") = sizeof(*args);
	register void (*x2)(void *) __asm__("x2") = start;
	register void *x3 __asm__("x3") = arg;
	__asm__ volatile("svc 0\n\t"
			 "cbnz x0, 1f\n\t"
			 "mov x29, xzr\n\t"
			 "mov x0, x3\n\t"
			 "blr x2\n\t"
			 "brk 0\n"
			 "1:"
			 : "+r"(x0)
			 : "r"(x8), "r"(x1), "r"(x2), "r"(x3)
			 : "memory", "cc");
	ret = x0;
#else
#error "pybox knows clone3 on x86_64 and aarch64 only"
#endif
	return ret;
}

long pb_clone3(uint64_t flags, int exit_signal, int cgroup, int32_t *pid, void *stack, void (*start)(void *), void *arg)
{
	struct clone_args args;

	memset(&args, 0, sizeof(args));
	args.flags = flags;
	args.exit_signal = (unsigned)exit_signal;
	args.stack = (uintptr_t)stack;
	args.stack_size = PB_STACK;
	if (pid) {
		args.flags |= CLONE_PARENT_SETTID;
		args.parent_tid = (uintptr_t)pid;
	}
	if (cgroup >= 0) {
		args.flags |= CLONE_INTO_CGROUP;
		args.cgroup = (unsigned)cgroup;
	}
	return clone3_call(&args, start, arg);
}

struct holder {
	int program;
	char parent[16];
};

static void hold(void *arg)
{
	struct holder *holder = arg;
	char *const argv[] = {"pybox-init", NULL}, *const envp[] = {holder->parent, NULL};

	/* exec gives it a memory of its own, dumpable: newuidmap(1) and the caller may then write its id maps. It also takes back
	   whose death it was to die with, so pybox-init says that, and asks whether it is too late: it is told the parent's pid */
	syscall(SYS_execveat, holder->program, "", argv, envp, AT_EMPTY_PATH);
	_exit(125);
}

int pb_holder(uint64_t flags, int program)
{
	sigset_t all, before;
	long pid;
	struct holder holder = {.program = program};
	void *stack = malloc(PB_STACK);

	if (!stack)
		return -ENOMEM;
	snprintf(holder.parent, sizeof(holder.parent), "%d", (int)getpid());
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	pid = pb_clone3(flags | CLONE_VM | CLONE_VFORK | CLONE_CLEAR_SIGHAND, SIGCHLD, -1, NULL, stack, hold, &holder);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	free(stack);
	return (int)pid;
}
