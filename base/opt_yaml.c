/* SPDX-License-Identifier: MIT */
/*
 * Configuration files: a map of sections, each a map of options. Read as
 * libyaml's events, so that every error knows its line and nothing is built in memory.
 */
#include "base/opt_table.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>
#include <yaml.h>

#define FILE_MAX ((size_t)1 << 20)
#define DEPTH_MAX 32 /* libyaml takes time square to the depth, and knows no limit */
#define SHOWN 48
#define PATH_SHOWN 64 /* the end of a longer path is shown */

struct loader {
	const struct opt_group *groups;
	size_t n;
	const char *const *sections;
	char name[PATH_SHOWN + 8]; /* of the file, for errors */
	struct err *e;
	yaml_parser_t parser;
	yaml_event_t event; /* the current one */
	bool have_event;
	unsigned *seen_group; /* line of first use, by group */
	unsigned *seen_other; /* by index in sections */
	unsigned *seen_row;   /* by row number over all groups */
};

static unsigned line_of(const struct loader *l)
{
	return (unsigned)l->event.start_mark.line + 1;
}

#define FAIL(l, fmt, ...) err_set((l)->e, -EINVAL, "%s:%u: " fmt, (l)->name, line_of(l), __VA_ARGS__)

static int parser_error(const struct loader *l)
{
	const yaml_parser_t *p = &l->parser;

	if (p->error == YAML_MEMORY_ERROR)
		return err_set(l->e, -ENOMEM, "%s: no memory to read it: free some memory", l->name);
	if (p->error == YAML_READER_ERROR)
		return err_set(l->e, -EINVAL, "%s: not a text file (byte %zu: %s): name a YAML file", l->name,
			       p->problem_offset, p->problem);
	return err_set(l->e, -EINVAL, "%s:%zu: not valid YAML: %s; check indentation and quotes near column %zu",
		       l->name, p->problem_mark.line + 1, p->problem ? p->problem : "syntax error",
		       p->problem_mark.column + 1);
}

static int next_event(struct loader *l)
{
	if (l->have_event)
		yaml_event_delete(&l->event);
	l->have_event = false;
	if (!yaml_parser_parse(&l->parser, &l->event))
		return parser_error(l);
	l->have_event = true;
	return 0;
}

/* Things YAML has and a configuration does not need are refused, rather than half understood. */
static int refuse_extras(const struct loader *l)
{
	const yaml_event_t *ev = &l->event;
	bool anchor = (ev->type == YAML_SCALAR_EVENT && ev->data.scalar.anchor) ||
		      (ev->type == YAML_MAPPING_START_EVENT && ev->data.mapping_start.anchor) ||
		      (ev->type == YAML_SEQUENCE_START_EVENT && ev->data.sequence_start.anchor);
	bool tag = (ev->type == YAML_SCALAR_EVENT && ev->data.scalar.tag) ||
		   (ev->type == YAML_MAPPING_START_EVENT && ev->data.mapping_start.tag);

	if (anchor || ev->type == YAML_ALIAS_EVENT)
		return FAIL(l, "anchors and aliases (%s) are not supported: write the value out", "& and *");
	if (tag)
		return FAIL(l, "tags (%s) are not supported: write the value without", "!");
	return 0;
}

/* The current scalar as text: one line, no NUL. */
static int scalar_text(const struct loader *l, const char **text)
{
	const char *s = (const char *)l->event.data.scalar.value;
	size_t len = l->event.data.scalar.length;

	if (memchr(s, 0, len) || memchr(s, '\n', len))
		return FAIL(l, "\"%.*s...\" has more than one line or a zero byte: write it on one line", SHOWN / 2, s);
	*text = s;
	return 0;
}

/* Skips the node that begins at the current event, whatever is in it. */
static int skip_node(struct loader *l)
{
	int depth = 0, rc;

	for (;;) {
		yaml_event_type_t t = l->event.type;

		if (t == YAML_MAPPING_START_EVENT || t == YAML_SEQUENCE_START_EVENT)
			depth++;
		else if (t == YAML_MAPPING_END_EVENT || t == YAML_SEQUENCE_END_EVENT)
			depth--;
		if (depth <= 0)
			return 0;
		if (depth > DEPTH_MAX)
			return FAIL(l, "more than %d levels: indent less", DEPTH_MAX);
		rc = next_event(l);
		if (rc)
			return rc;
	}
}

static size_t row_number(const struct loader *l, const struct opt_group *group, const struct opt *row)
{
	size_t at = 0;

	for (const struct opt_group *g = l->groups; g != group; g++)
		at += g->n;
	return at + (size_t)(row - group->rows);
}

static int unknown_key(const struct loader *l, const char *section, const char *key)
{
	struct opt_nearest near = { .wanted = key };
	const struct opt_group *elsewhere;

	if (opt_find(l->groups, l->n, NULL, key, &elsewhere))
		return FAIL(l, "section %s has no option \"%.*s\": it belongs in section %s", section, SHOWN, key,
			    elsewhere->name);
	opt_offer_rows(&near, l->groups, l->n, section);
	if (near.best)
		return FAIL(l, "section %s has no option \"%.*s\": did you mean %s?", section, SHOWN, key, near.best);
	return FAIL(l, "section %s has no option \"%.*s\": see --help", section, SHOWN, key);
}

/* The current event is the value of `row`. */
static int load_value(struct loader *l, const struct opt_group *group, const struct opt *row)
{
	unsigned *seen = &l->seen_row[row_number(l, group, row)];
	char where[PATH_SHOWN + 120];
	const char *text;
	int rc;

	if (*seen)
		return FAIL(l, "%s: %s was already given on line %u: remove one", group->name, row->name, *seen);
	rc = refuse_extras(l);
	if (rc)
		return rc;
	if (l->event.type == YAML_MAPPING_START_EVENT)
		return FAIL(l, "%s: %s takes one value, not a map of its own", group->name, row->name);
	if (l->event.type != YAML_SCALAR_EVENT)
		return FAIL(l, "%s: %s takes one value, not a list: join them with commas", group->name, row->name);
	rc = scalar_text(l, &text);
	if (rc)
		return rc;
	if (l->event.data.scalar.style == YAML_PLAIN_SCALAR_STYLE &&
	    (!*text || strcmp(text, "~") == 0 || strcasecmp(text, "null") == 0))
		return FAIL(l, "%s: %s has no value: give one or remove the line", group->name, row->name);
	*seen = line_of(l);
	snprintf(where, sizeof where, "%s:%u: %s: %s", l->name, line_of(l), group->name, row->name);
	return opt_store(group, row, text, where, l->e);
}

/* The current event is the scalar that names an option; leaves its value's last event current. */
static int load_option(struct loader *l, const char *section)
{
	const struct opt_group *group;
	const struct opt *row;
	const char *key;
	int rc = refuse_extras(l);

	if (rc)
		return rc;
	if (l->event.type != YAML_SCALAR_EVENT)
		return FAIL(l, "section %s: the name of an option was expected", section);
	rc = scalar_text(l, &key);
	if (rc)
		return rc;
	row = opt_find(l->groups, l->n, section, key, &group);
	if (!row)
		return unknown_key(l, section, key);
	rc = next_event(l);
	return rc ? rc : load_value(l, group, row);
}

/* The current event is the value of a section. */
static int load_section(struct loader *l, const char *section)
{
	int rc = refuse_extras(l);

	if (rc)
		return rc;
	/* "tcp:" with every line below it commented out */
	if (l->event.type == YAML_SCALAR_EVENT && !l->event.data.scalar.length)
		return 0;
	if (l->event.type != YAML_MAPPING_START_EVENT)
		return FAIL(l, "section %s holds options: write them below it as \"name: value\", indented", section);
	for (;;) {
		rc = next_event(l);
		if (rc)
			return rc;
		if (l->event.type == YAML_MAPPING_END_EVENT)
			return 0;
		rc = load_option(l, section);
		if (rc)
			return rc;
	}
}

static int first_use(const struct loader *l, unsigned *seen, const char *section)
{
	if (*seen)
		return FAIL(l, "section %s was already given on line %u: join the two", section, *seen);
	*seen = line_of(l);
	return 0;
}

static int unknown_section(const struct loader *l, const char *name)
{
	struct opt_nearest near = { .wanted = name };
	char list[128] = "";
	size_t used = 0;

	for (size_t g = 0; g < l->n; g++)
		opt_offer(&near, l->groups[g].name);
	for (size_t i = 0; l->sections && l->sections[i]; i++)
		opt_offer(&near, l->sections[i]);
	opt_offer_rows(&near, l->groups, l->n, NULL);
	if (near.best)
		return FAIL(l, "there is no section or option \"%.*s\": did you mean %s?", SHOWN, name, near.best);
	for (size_t g = 0; g < l->n && used < sizeof list; g++)
		used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", g ? ", " : "", l->groups[g].name);
	return FAIL(l, "there is no section or option \"%.*s\": the sections here are %s", SHOWN, name, list);
}

/* The current event is a key of the outermost map: a section, or an option that stands by itself. */
static int load_top(struct loader *l)
{
	const struct opt_group *group;
	const struct opt *row;
	const char *name;
	int rc = refuse_extras(l);

	if (rc)
		return rc;
	if (l->event.type != YAML_SCALAR_EVENT)
		return FAIL(l, "the name of a section was expected: write e.g. \"%s:\"", l->groups[0].name);
	rc = scalar_text(l, &name);
	if (rc)
		return rc;
	for (size_t g = 0; g < l->n; g++) {
		if (!opt_same_name(name, l->groups[g].name))
			continue;
		rc = first_use(l, &l->seen_group[g], l->groups[g].name);
		if (rc)
			return rc;
		rc = next_event(l);
		return rc ? rc : load_section(l, l->groups[g].name);
	}
	for (size_t i = 0; l->sections && l->sections[i]; i++) {
		if (!opt_same_name(name, l->sections[i]))
			continue;
		rc = first_use(l, &l->seen_other[i], l->sections[i]);
		if (rc)
			return rc;
		rc = next_event(l);
		return rc ? rc : skip_node(l);
	}
	row = opt_find(l->groups, l->n, NULL, name, &group);
	if (!row)
		return unknown_section(l, name);
	rc = next_event(l);
	return rc ? rc : load_value(l, group, row);
}

/* One document, which is a map, or none at all (only comments). */
static int load_stream(struct loader *l)
{
	bool document = false;

	for (;;) {
		int rc = next_event(l);

		if (rc)
			return rc;
		switch (l->event.type) {
		case YAML_STREAM_START_EVENT:
		case YAML_DOCUMENT_END_EVENT:
		case YAML_MAPPING_END_EVENT:
			continue;
		case YAML_STREAM_END_EVENT:
			return 0;
		case YAML_DOCUMENT_START_EVENT:
			if (document)
				return FAIL(l, "a second document (%s): use one file for each", "---");
			document = true;
			rc = next_event(l);
			if (!rc)
				rc = refuse_extras(l);
			if (!rc && l->event.type != YAML_MAPPING_START_EVENT &&
			    !(l->event.type == YAML_SCALAR_EVENT && !l->event.data.scalar.length))
				rc = FAIL(l, "sections are expected: write e.g. \"%s:\" and options below it",
					  l->groups[0].name);
			break;
		default:
			rc = load_top(l);
		}
		if (rc)
			return rc;
	}
}

static void short_name(char *name, size_t cap, const char *path)
{
	size_t len = strlen(path);

	if (len <= PATH_SHOWN)
		snprintf(name, cap, "%s", path);
	else
		snprintf(name, cap, "...%s", path + len - PATH_SHOWN);
}

/* Reads at most FILE_MAX bytes of anything that can be read, pipes included. */
static int read_all(const char *path, const char *name, char **text, size_t *len, struct err *e)
{
	char *buf = malloc(FILE_MAX + 1);
	int fd = -1, rc = 0;
	size_t used = 0;

	if (!buf)
		return err_set(e, -ENOMEM, "%s: no memory to read it: free some memory", name);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	while (fd >= 0 && used <= FILE_MAX) {
		ssize_t got = read(fd, buf + used, FILE_MAX + 1 - used);

		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			rc = -errno;
		if (got <= 0)
			break;
		used += (size_t)got;
	}
	if (fd < 0)
		rc = -errno;
	if (rc)
		err_set(e, rc, "configuration file %s: %s: check its name and permissions", name, strerror(-rc));
	else if (used > FILE_MAX)
		rc = err_set(e, -EFBIG, "configuration file %s is longer than 1 MB: name a YAML file", name);
	else if (!used)
		rc = err_set(e, -EINVAL, "configuration file %s is empty: fill or remove it", name);
	if (fd >= 0)
		close(fd);
	if (rc) {
		free(buf);
		return rc;
	}
	*text = buf;
	*len = used;
	return 0;
}

static size_t count_seen(const struct loader *l)
{
	size_t total = l->n;

	for (size_t g = 0; g < l->n; g++)
		total += l->groups[g].n;
	for (size_t i = 0; l->sections && l->sections[i]; i++)
		total++;
	return total;
}

int opt_load_yaml(const struct opt_group *groups, size_t n, const char *const *sections, const char *path,
		  struct err *e)
{
	struct loader l = { .groups = groups, .n = n, .sections = sections, .e = e };
	char *text = NULL;
	size_t len = 0, total = count_seen(&l);
	int rc;

	short_name(l.name, sizeof l.name, path);
	rc = read_all(path, l.name, &text, &len, e);
	if (rc)
		return rc;
	l.seen_group = calloc(total ? total : 1, sizeof *l.seen_group);
	if (!l.seen_group || !yaml_parser_initialize(&l.parser)) {
		rc = err_set(e, -ENOMEM, "%s: no memory to read it: free some memory", l.name);
		goto out;
	}
	l.seen_other = l.seen_group + n;
	l.seen_row = l.seen_group + n;
	for (size_t i = 0; sections && sections[i]; i++)
		l.seen_row++;
	yaml_parser_set_input_string(&l.parser, (const unsigned char *)text, len);
	rc = load_stream(&l);
	if (l.have_event)
		yaml_event_delete(&l.event);
	yaml_parser_delete(&l.parser);
out:
	free(l.seen_group);
	free(text);
	return rc;
}
