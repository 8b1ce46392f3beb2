/* SPDX-License-Identifier: Apache-2.0
 *
 * Network namespaces, made beforehand. Making one is a third of what a launch costs the kernel, and it needs nothing of the job:
 * so a thread makes it while Python still plans, or while the container before is running, and the new process only enters it.
 * No two containers are in one at the same time.
 *
 * One that is given back after its container has ended, and whose loopback has never carried a packet, is as good as new: a
 * container without CAP_NET_ADMIN can't change it, sockets and their abstract names are gone with their processes, and
 * where nothing was sent no port is waiting (TIME_WAIT). What differs is a counter of failures in /proc/net/snmp. Who may give
 * one back is decided in pybox/kernel/namespaces.py. Others are let go of.
 *
 * The thread runs no Python and no signal handler. It lives for one namespace: as it ends it is out of what it has made, so a
 * netlink socket in there is all that holds it, beside the container.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pybox.h"

enum { SHELF = 64, STACK = 128 * 1024 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t more = PTHREAD_COND_INITIALIZER;
struct network {
	int socket, fd; /* the socket is -errno for somebody who waits; the fd is -1 when it has been given away before */
};
static struct network shelf[SHELF];
static int ready, making, waiting;

int pb_loopback_up(int socket)
{
	struct ifreq request = {.ifr_name = "lo", .ifr_flags = IFF_UP};

	return ioctl(socket, SIOCSIFFLAGS, &request);
}

static struct network make_one(void)
{
	struct network made = {-1, -1};

	if (unshare(CLONE_NEWNET) == 0)
		made.socket = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	/* a socket knows its namespace, so no /proc is needed to get hold of it; the fd is close-on-exec */
	if (made.socket >= 0 && pb_loopback_up(made.socket) == 0)
		made.fd = ioctl(made.socket, SIOCGSKNS, NULL);
	if (made.fd < 0) {
		int error = errno;

		if (made.socket >= 0)
			close(made.socket);
		made.socket = -error;
	}
	return made;
}

static void let_go(const struct network *network)
{
	if (network->socket >= 0)
		close(network->socket);
	if (network->fd >= 0)
		close(network->fd);
}

static void *maker(void *unused)
{
	struct network made = make_one();

	pthread_mutex_lock(&lock);
	making--;
	if (made.socket >= 0 || waiting) /* a failure that nobody waits for is tried again when somebody does */
		shelf[ready++] = made;
	pthread_cond_broadcast(&more);
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

static void clear(void)
{
	while (ready > 0)
		let_go(&shelf[--ready]);
}

/* What is on the shelf is the parent's, and the makers have stayed there with it. */
static void in_child(void)
{
	clear();
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

int pb_take_network(int *socket)
{
	struct network network = {-1, -1};
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
		network = shelf[--ready];
	pthread_mutex_unlock(&lock);
	if (taken < 0)
		return taken;
	if (network.socket < 0)
		return network.socket;
	if (network.fd < 0) {
		network.fd = ioctl(network.socket, SIOCGSKNS, NULL);
		if (network.fd < 0) {
			taken = -errno;
			close(network.socket);
			return taken;
		}
	}
	*socket = network.socket;
	return network.fd;
}

/* Whether the loopback interface has never carried a packet; the kernel answers within send, rtnetlink(7). */
static int is_silent(int netlink)
{
	struct {
		struct nlmsghdr head;
		struct ifinfomsg about;
	} question = {.head = {.nlmsg_len = sizeof(question), .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST},
		      .about = {.ifi_index = 1}};
	_Alignas(struct nlmsghdr) char answer[8192];
	const struct nlmsghdr *head = (const struct nlmsghdr *)answer;
	const char *at, *end;
	struct rtnl_link_stats64 stats;
	ssize_t n;

	if (send(netlink, &question, sizeof(question), MSG_DONTWAIT) < 0)
		return 0;
	n = recv(netlink, answer, sizeof(answer), MSG_DONTWAIT);
	if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct ifinfomsg)) || head->nlmsg_type != RTM_NEWLINK || head->nlmsg_len > (size_t)n)
		return 0;
	end = answer + head->nlmsg_len;
	for (at = answer + NLMSG_SPACE(sizeof(struct ifinfomsg)); at + sizeof(struct rtattr) <= end;) {
		const struct rtattr *attr = (const struct rtattr *)at;

		if (attr->rta_len < sizeof(*attr) || at + attr->rta_len > end)
			break;
		if (attr->rta_type == IFLA_STATS64 && RTA_PAYLOAD(attr) >= sizeof(stats)) {
			memcpy(&stats, RTA_DATA(attr), sizeof(stats));
			return !stats.rx_packets && !stats.tx_packets;
		}
		at += RTA_ALIGN(attr->rta_len);
	}
	return 0;
}

void pb_return_network(int socket)
{
	const struct network network = {socket, -1};
	int taken = 0;

	if (is_silent(socket)) {
		pthread_mutex_lock(&lock);
		if (ready + making < SHELF) {
			shelf[ready++] = network;
			taken = 1;
			pthread_cond_signal(&more);
		}
		pthread_mutex_unlock(&lock);
	}
	if (!taken)
		close(socket);
}

void pb_forget_networks(void)
{
	pthread_mutex_lock(&lock);
	while (making > 0)
		pthread_cond_wait(&more, &lock);
	clear();
	pthread_mutex_unlock(&lock);
}

int pb_netlink_in(int netns)
{
	sigset_t all, before;
	int own, made;

	sigfillset(&all);
	pthread_sigmask(SIG_BLOCK, &all, &before); /* no handler of Python's is to run in there */
	own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	made = own < 0 || setns(netns, CLONE_NEWNET) < 0 ? -1 : socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	made = made < 0 ? -errno : made;
	if (own >= 0 && setns(own, CLONE_NEWNET) < 0)
		abort(); /* this thread would go on in a container's network */
	if (own >= 0)
		close(own);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	return made;
}
