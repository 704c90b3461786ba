/* SPDX-License-Identifier: MIT */
#include "cli/progress.h"
#include "base/clock.h"
#include "base/opt.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define SHOW_AFTER (2 * NS_PER_S)
#define REDRAW (200 * NS_PER_MS)
#define SMOOTH_S 3.0
#define BAR_MAX 40

void progress_begin(struct progress *p, const char *what, uint64_t total, bool wanted, uint64_t now_ns)
{
	const char *term = getenv("TERM");

	*p = (struct progress){
		.what = what,
		.total = total,
		.show_ns = now_ns + SHOW_AFTER,
		.last_ns = now_ns,
		.next_ns = now_ns + REDRAW,
	};
	p->on = wanted && isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
	p->colour = p->on && !getenv("NO_COLOR");
}

void progress_clear(struct progress *p)
{
	if (p->drawn)
		fputs("\r\033[K", stderr);
	p->drawn = false;
}

void progress_line(struct progress *p, uint64_t now_ns)
{
	progress_clear(p);
	p->show_ns = now_ns + SHOW_AFTER;
}

static unsigned columns(void)
{
	struct winsize w;

	return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) == 0 && w.ws_col ? w.ws_col : 80;
}

static void time_left(const struct progress *p, uint64_t done, char *buf, size_t cap)
{
	double left = p->rate > 0 && p->total > done ? (double)(p->total - done) / p->rate : 0;
	unsigned s = left < 359999 ? (unsigned)ceil(left) : 359999;

	if (!p->total || p->rate <= 0)
		*buf = 0;
	else if (s >= 3600)
		snprintf(buf, cap, "  %u:%02u:%02u left", s / 3600, s / 60 % 60, s % 60);
	else
		snprintf(buf, cap, "  %u:%02u left", s / 60, s % 60);
}

static void draw(struct progress *p, uint64_t done)
{
	char amount[32], of[32], rate[32], left[32], text[200], bar[BAR_MAX + 1];
	unsigned width = columns(), used, cells, full;
	int n;

	time_left(p, done, left, sizeof(left));
	n = snprintf(text, sizeof(text), " %s%s%s  %s/s%s", format_size(amount, sizeof(amount), done),
		     p->total ? " of " : "", p->total ? format_size(of, sizeof(of), p->total) : "",
		     format_size(rate, sizeof(rate), (uint64_t)p->rate), left);
	used = (unsigned)strlen(p->what) + (n > 0 ? (unsigned)n : 0) + 10;
	cells = p->total && width > used + 8 ? width - used : 0;
	cells = cells > BAR_MAX ? BAR_MAX : cells;
	full = cells ? (unsigned)((double)cells * fmin(1, (double)done / (double)p->total)) : 0;
	memset(bar, '#', full);
	memset(bar + full, '.', cells - full);
	bar[cells] = 0;
	if (cells)
		fprintf(stderr, "\r%s %s[%s]%s %3.0f%%%s\033[K", p->what, p->colour ? "\033[36m" : "", bar,
			p->colour ? "\033[0m" : "", 100 * fmin(1, (double)done / (double)p->total), text);
	else
		fprintf(stderr, "\r%s%.*s\033[K", p->what, (int)(width > used ? width : 40), text);
	fflush(stderr);
	p->drawn = true;
}

void progress_update(struct progress *p, uint64_t done, uint64_t now_ns)
{
	double dt = (double)(now_ns - p->last_ns) / 1e9;

	if (!p->on || now_ns < p->next_ns || dt <= 0)
		return;
	double now_rate = done > p->last_bytes ? (double)(done - p->last_bytes) / dt : 0;
	double weight = p->rate > 0 ? 1 - exp(-dt / SMOOTH_S) : 1;

	p->rate += weight * (now_rate - p->rate);
	p->last_ns = now_ns;
	p->last_bytes = done;
	p->next_ns = now_ns + REDRAW;
	if (now_ns >= p->show_ns)
		draw(p, done);
}
