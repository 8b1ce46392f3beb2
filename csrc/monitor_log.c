/* SPDX-License-Identifier: Apache-2.0
 *
 * The log of a container, in the format of Kubernetes' CRI, which every log shipper reads:
 *
 *     2026-11-24T05:47:15.123456789Z stdout F a line
 *
 * F marks a full line; P a piece of one that is too long, its end is in the next record of that stream. A file that has grown to
 * its size becomes log.1, that one log.2, and so on. A full disk stops the log and not the container: lines that could not be
 * written are counted, and the count is written down when there is room again.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "monitor.h"

static struct {
	int dir, fd, files;
	int64_t most, size, lost;
	int lost_unsaid;
} book = {.dir = -1, .fd = -1};

static struct {
	char text[PB_LINE];
	size_t fill;
} pending[2];

static void open_file(void)
{
	struct stat st;

	book.fd = openat(book.dir, "log", O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600);
	book.size = book.fd >= 0 && fstat(book.fd, &st) == 0 ? st.st_size : 0;
}

void log_open(int dir, int64_t most, int files)
{
	book.dir = dir;
	book.most = most;
	book.files = files;
	if (dir >= 0)
		open_file();
}

int64_t log_lost(void)
{
	return book.lost;
}

/* "log", "log.1", ... up to "log.99" */
static void file_name(char name[8], int number)
{
	memcpy(name, "log", 4);
	if (number == 0)
		return;
	name[3] = '.';
	if (number > 9) {
		name[4] = (char)('0' + number / 10);
		name[5] = (char)('0' + number % 10);
		name[6] = '\0';
	} else {
		name[4] = (char)('0' + number);
		name[5] = '\0';
	}
}

static void rotate(void)
{
	char from[8], to[8];

	for (int number = book.files - 1; number > 0; number--) {
		file_name(from, number - 1);
		file_name(to, number);
		renameat(book.dir, from, book.dir, to);
	}
	if (book.files <= 1)
		unlinkat(book.dir, "log", 0);
	close(book.fd);
	open_file();
}

static char *digits(char *at, int64_t value, int width)
{
	for (int i = width - 1; i >= 0; i--, value /= 10)
		at[i] = (char)('0' + value % 10);
	return at + width;
}

/* "2026-11-24T05:47:15.123456789Z stdout F ". gmtime_r and no snprintf: the program stays small. */
static size_t head(char *text, int stream, int full)
{
	struct timespec now;
	struct tm tm;
	char *at = text;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	at = digits(at, tm.tm_year + 1900, 4);
	*at++ = '-';
	at = digits(at, tm.tm_mon + 1, 2);
	*at++ = '-';
	at = digits(at, tm.tm_mday, 2);
	*at++ = 'T';
	at = digits(at, tm.tm_hour, 2);
	*at++ = ':';
	at = digits(at, tm.tm_min, 2);
	*at++ = ':';
	at = digits(at, tm.tm_sec, 2);
	*at++ = '.';
	at = digits(at, now.tv_nsec, 9);
	memcpy(at, stream == 1 ? "Z stdout F " : "Z stderr F ", 11);
	at[9] = full ? 'F' : 'P';
	return (size_t)(at - text) + 11;
}

static int put(int stream, int full, const char *bytes, size_t n)
{
	char line[48];
	struct iovec parts[3] = {{line, head(line, stream, full)}, {(void *)(uintptr_t)bytes, n}, {(void *)(uintptr_t) "\n", 1}};
	ssize_t whole = (ssize_t)(parts[0].iov_len + n + 1), done;

	if (book.fd >= 0 && book.most > 0 && book.size > 0 && book.size + whole > book.most)
		rotate();
	if (book.fd < 0)
		open_file(); /* it could not be opened when the disk was full */
	done = writev(book.fd, parts, 3);
	if (done == whole) {
		book.size += done;
		return 0;
	}
	if (done > 0 && ftruncate(book.fd, book.size) < 0) /* half a line would spoil the next */
		book.size += done;
	return -1;
}

static void say_lost(void)
{
	static const char said[] = "pybox: lines are missing here: the disk was full";

	if (book.lost_unsaid && put(2, 1, said, sizeof(said) - 1) == 0)
		book.lost_unsaid = 0;
}

static void record(int stream, int full, const char *bytes, size_t n)
{
	say_lost();
	if (put(stream, full, bytes, n) < 0) {
		book.lost++;
		book.lost_unsaid = 1;
	}
}

void log_write(int stream, const char *bytes, size_t n)
{
	char *text = pending[stream - 1].text;
	size_t *fill = &pending[stream - 1].fill;

	if (book.dir < 0)
		return;
	while (n > 0) {
		const char *end = memchr(bytes, '\n', n);
		size_t length = end ? (size_t)(end - bytes) : n;

		if (*fill == 0 && end && length <= PB_LINE) {
			record(stream, 1, bytes, length); /* the usual case needs no copy */
		} else {
			size_t room = PB_LINE - *fill;

			if (length > room) { /* a piece is full: write it and look at the rest again */
				memcpy(text + *fill, bytes, room);
				record(stream, 0, text, PB_LINE);
				*fill = 0;
				bytes += room;
				n -= room;
				continue;
			}
			memcpy(text + *fill, bytes, length);
			*fill += length;
			if (end) {
				record(stream, 1, text, *fill);
				*fill = 0;
			}
		}
		bytes += length + (end != NULL);
		n -= length + (end != NULL);
	}
}

void log_close(void)
{
	for (int stream = 1; stream <= 2; stream++)
		if (book.dir >= 0 && pending[stream - 1].fill > 0)
			record(stream, 0, pending[stream - 1].text, pending[stream - 1].fill);
	say_lost();
}
