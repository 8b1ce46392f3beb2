/* SPDX-License-Identifier: Apache-2.0
 *
 * The clients of pybox-monitor: `pybox attach`, and the `pybox run -it` that started the container.
 *
 * Each gets all that the container writes from when it came, in messages. The last message is kept until every client has taken
 * it, and no output is read meanwhile: a slow reader slows the container down, as a pipe would, and nothing is lost. But only
 * its owner may do so for ever; another client that takes nothing for five seconds is let go.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "monitor.h"

static struct {
	int fd, owner, quiet, waiting; /* waiting: has not taken the last message */
} clients[PB_CLIENTS];
static int count;
static int64_t waiting_since;
static char last[1 + PB_CHUNK], heard[1 + PB_CHUNK];
static size_t last_size;

int64_t pb_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

void attach_add(int fd, int owner)
{
	if (fd < 0)
		return;
	if (count == PB_CLIENTS) {
		close(fd);
		return;
	}
	clients[count].fd = fd;
	clients[count].owner = owner;
	clients[count].quiet = 0;
	clients[count].waiting = 0;
	count++;
}

static void drop(int i)
{
	close(clients[i].fd);
	clients[i] = clients[--count];
}

/* Offer the last message to client i. Returns 0 when the client is gone. */
static int offer(int i)
{
	ssize_t n = send(clients[i].fd, last, last_size, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == ENOBUFS || errno == EINTR)) {
		clients[i].waiting = 1;
		return 1;
	}
	clients[i].waiting = 0;
	return n >= 0; /* a hang-up is noticed by attach_serve, which knows whether it was the owner */
}

void attach_send(enum pb_kind kind, const char *bytes, size_t n)
{
	last[0] = (char)kind;
	memcpy(last + 1, bytes, n);
	last_size = n + 1;
	waiting_since = pb_now_ms();
	for (int i = 0; i < count; i++)
		if (!clients[i].quiet || kind == PB_K_ENDED)
			offer(i);
}

void attach_give_up(void)
{
	for (int i = count - 1; i >= 0; i--)
		if (clients[i].waiting)
			drop(i);
}

int attach_busy(void)
{
	int busy = 0;

	for (int i = count - 1; i >= 0; i--) {
		if (!clients[i].waiting)
			continue;
		if (!clients[i].owner && pb_now_ms() - waiting_since >= PB_PATIENCE_MS)
			drop(i);
		else
			busy = 1;
	}
	return busy;
}

int attach_poll(struct pollfd *fds, int hear)
{
	for (int i = 0; i < count; i++) {
		/* without any event asked for, poll still tells of a hang-up */
		fds[i].fd = clients[i].fd;
		fds[i].events = (short)((hear ? POLLIN : 0) | (clients[i].waiting ? POLLOUT : 0));
		fds[i].revents = 0;
	}
	return count;
}

static void understand(const char *message, size_t n, struct pb_request *wish)
{
	uint16_t size[2];

	switch (message[0]) {
	case PB_K_INPUT:
		wish->input = message + 1;
		wish->length = n - 1;
		break;
	case PB_K_EOF:
		wish->end_of_input = 1;
		break;
	case PB_K_SIZE:
		if (n == 1 + sizeof(size)) {
			memcpy(size, message + 1, sizeof(size));
			wish->rows = size[0];
			wish->columns = size[1];
		}
		break;
	case PB_K_SIGNAL:
		if (n == 2)
			wish->signal = message[1];
		break;
	case PB_K_HURRY:
		wish->hurry = 1;
		break;
	default: /* of another version */
		break;
	}
}

void attach_serve(const struct pollfd *fds, int n, struct pb_request *wish)
{
	/* from the last to the first, because drop puts the last one into the gap */
	for (int i = n - 1; i >= 0; i--) {
		ssize_t size = -1;
		int alive = 1;

		if (fds[i].revents & POLLOUT)
			alive = offer(i);
		if (alive && (fds[i].revents & POLLIN)) {
			size = recv(clients[i].fd, heard, sizeof(heard), MSG_DONTWAIT);
			alive = size > 0 || (size < 0 && errno == EAGAIN);
			if (alive && size > 0 && heard[0] == PB_K_QUIET)
				clients[i].quiet = 1;
			if (alive && size > 0 && heard[0] == PB_K_DETACH) {
				clients[i].owner = 0;
				alive = 0;
			}
		} else if (fds[i].revents & (POLLHUP | POLLERR)) {
			/* gone while the container takes no input: what it typed can't be kept, but a goodbye is to be heard */
			while ((size = recv(clients[i].fd, heard, sizeof(heard), MSG_DONTWAIT)) > 0)
				if (heard[0] == PB_K_DETACH)
					clients[i].owner = 0;
			alive = 0;
		}
		if (!alive) {
			wish->owner_gone |= clients[i].owner;
			drop(i);
		} else if (size > 0) {
			understand(heard, (size_t)size, wish);
			return; /* there is one buffer for input: the others are heard in the next round */
		}
	}
}
