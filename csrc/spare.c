/* SPDX-License-Identifier: Apache-2.0
 *
 * Network namespaces, made beforehand. Making one is a third of what a launch costs the kernel, and it needs nothing of the job:
 * so a thread makes it while Python still plans, or while the container before is running, and the new process only enters it.
 * Nobody has ever been in it, and no two containers get the same one.
 *
 * The thread runs no Python and no signal handler. It lives for one namespace: as it ends it is out of what it has made, so the
 * fd is all that holds it, and the container alone once the launch has closed that.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pybox.h"

enum { SHELF = 8, STACK = 128 * 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
static int shelf[SHELF]; /* what was made: an fd, or -errno for somebody who waits */
static int ready, making, waiting;

int pb_loopback_up(int socket)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};

	return ioctl(socket, SIOCSIFFLAGS, &request);
}

static int make_one(void)
{
	int any, made;

	if (unshare(CLONE_NEWNET) < 0)
		return -errno;
	any = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (any < 0)
		return -errno;
	/* a socket knows its namespace, so no /proc is needed to get hold of it; the fd is close-on-exec */
	made = pb_loopback_up(any) < 0 ? -1 : ioctl(any, SIOCGSKNS, NULL);
	if (made < 0)
		made = -errno;
	close(any);
	return made;
}

static void *maker(void *unused)
{
	int made = make_one();

	pthread_mutex_lock(&lock);
	making--;
	if (made >= 0 || waiting) /* a failure that nobody waits for is tried again when somebody does */
		shelf[ready++] = made;
	pthread_cond_signal(&more);
	pthread_mutex_unlock(&lock);
	return unused;
}

/* With the lock held. 0 or -errno. */
static int start_maker(void)
{
	pthread_attr_t attr;
	sigset_t all, before;
	pthread_t thread;
	int error;

	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, STACK);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before);
	error = pthread_create(&thread, &attr, maker, NULL);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_attr_destroy(&attr);
	making += !error;
	return -error;
}

static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork(void)
{
	pthread_mutex_unlock(&lock);
}

/* What is on the shelf is the parent's, and the makers have stayed there with it. */
static void in_child(void)
{
	while (ready > 0)
		if (shelf[--ready] >= 0)
			close(shelf[ready]);
	making = waiting = 0;
	pthread_cond_init(&more, NULL);
	pthread_mutex_unlock(&lock);
}

static void prepare_for_forks(void)
{
	pthread_atfork(before_fork, after_fork, in_child);
}

void pb_order_network(void)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;

	pthread_once(&once, prepare_for_forks);
	pthread_mutex_lock(&lock);
	if (ready + making == 0)
		start_maker();
	pthread_mutex_unlock(&lock);
}

int pb_take_network(void)
{
	int taken = 0;

	pb_order_network();
	pthread_mutex_lock(&lock);
	waiting++;
	while (ready == 0 && taken == 0) {
		if (making < waiting && making < SHELF)
			taken = start_maker();
		if (taken == 0)
			pthread_cond_wait(&more, &lock);
	}
	waiting--;
	if (ready > 0)
		taken = shelf[--ready];
	pthread_mutex_unlock(&lock);
	return taken;
}
