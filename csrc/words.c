/* SPDX-License-Identifier: Apache-2.0
 *
 * The kernel's own words for a mount that failed.
 *
 * mount(2) has an errno for it and no more; a file system context (fsopen(2)) has a log that can be read. So what failed is
 * configured once more as a context, up to the point where it fails again, and the log goes where the evidence of a failed exec
 * would. No mount is made of it, and it costs a run that succeeds nothing. Between clone and exec: the rules of ops.h hold.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <linux/mount.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ops.h"

enum { LONGEST = 256 }; /* of a value, with its NUL: fsconfig(2) takes no more */

static int set(int fs, unsigned how, const char *key, const char *value)
{
	return (int)syscall(SYS_fsconfig, fs, how, key, value, 0);
}

/* Layers one by one, for all of them together may be too long: lowerdir+ of overlayfs, Linux 6.7. */
static int set_layers(int fs, const char *at, const char *end)
{
	char layer[LONGEST];

	while (at < end) {
		size_t n = strcspn(at, ":,");

		if (n >= sizeof(layer))
			return -1;
		memcpy(layer, at, n);
		layer[n] = '\0';
		if (set(fs, FSCONFIG_SET_STRING, "lowerdir+", layer) < 0)
			return -1;
		at += n + 1;
	}
	return 0;
}

/* Hand over options as mount(2) takes them: a,b=c. */
static int set_options(int fs, const char *at)
{
	char key[LONGEST], value[LONGEST];

	while (at && *at) {
		const char *end = at + strcspn(at, ","), *is = memchr(at, '=', (size_t)(end - at));
		size_t n = (size_t)((is ? is : end) - at), m = is ? (size_t)(end - is - 1) : 0;
		int failed;

		if (n >= sizeof(key))
			return -1;
		memcpy(key, at, n);
		key[n] = '\0';
		if (m >= sizeof(value)) {
			failed = strcmp(key, "lowerdir") ? -1 : set_layers(fs, is + 1, end);
		} else {
			memcpy(value, is ? is + 1 : "", m);
			value[m] = '\0';
			failed = is ? set(fs, FSCONFIG_SET_STRING, key, value) : set(fs, FSCONFIG_SET_FLAG, key, NULL);
		}
		if (failed < 0)
			return -1;
		at = *end ? end + 1 : end;
	}
	return 0;
}

void pb_hear_mount(struct pb_walk *w, const struct pb_row *r)
{
	struct pb_probe *probe = &w->report->probe;
	char room[PB_SOURCE];
	int error = errno, fs = (int)syscall(SYS_fsopen, text(w, r->c), FSOPEN_CLOEXEC);
	ssize_t n;

	if (fs >= 0) {
		/* words about another failure than the one that is being explained would mislead */
		if ((set(fs, FSCONFIG_SET_STRING, "source", pb_source(w, r, room)) < 0 || set_options(fs, text(w, r->d)) < 0 ||
		     set(fs, FSCONFIG_CMD_CREATE, NULL, NULL) < 0) &&
		    errno == error) {
			/* one message a read, each with its level in front: "e overlay: ..." */
			while (probe->length < PB_HEAD - LONGEST &&
			       (n = read(fs, probe->head + probe->length, PB_HEAD - probe->length)) > 0)
				probe->length += (uint32_t)n;
		}
		close(fs);
	}
	errno = error;
}
