/* SPDX-License-Identifier: MIT */
/* Writes a model as the C source that is compiled in. */
#include "compress/select.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static void write_row(FILE *f, const char *name, const float *v)
{
	fprintf(f, "\t\t  .%s = {", name);
	for (unsigned i = 0; i < SEL_FEATURES; i++)
		fprintf(f, "%s%.6ef,", i % 6 ? " " : "\n\t\t\t", (double)v[i]);
	fprintf(f, "\n\t\t  },\n");
}

static void write_model(FILE *f, const struct sel_model *m)
{
	fprintf(f,
		"/* SPDX-License-Identifier: MIT */\n"
		"/* Generated, do not edit. Made on %s by:\n *   %s\n */\n"
		"/* clang-format off */\n"
		"#include \"compress/select.h\"\n\n"
		"const struct sel_model sel_model_shipped = {\n"
		"\t.made_by = \"%s\",\n\t.date = \"%s\",\n\t.choice = {\n",
		m->date, m->made_by, m->made_by, m->date);
	for (unsigned c = 0; c < SEL_CHOICES; c++) {
		fprintf(f, "\t\t[%u] = { /* %s %d */\n", c, codecs[sel_choices[c].codec]->name, sel_choices[c].level);
		write_row(f, "size", m->choice[c].size);
		write_row(f, "encode", m->choice[c].encode);
		write_row(f, "decode", m->choice[c].decode);
		fprintf(f, "\t\t},\n");
	}
	fprintf(f, "\t},\n};\n");
}

int sel_model_write(const struct sel_model *m, const char *path, struct err *e)
{
	FILE *f;
	int rc;

	if (strpbrk(m->made_by, "\"\\\n") || strstr(m->made_by, "*/") || strpbrk(m->date, "\"\\\n"))
		return err_set(e, -EINVAL, "the command that made the model holds a quote: name the images otherwise");
	f = fopen(path, "we");
	if (!f)
		return err_set(e, -errno, "cannot write the model to \"%s\": %s", path, strerror(errno));
	write_model(f, m);
	rc = ferror(f) ? -EIO : 0;
	if (fclose(f) && !rc)
		rc = -errno;
	return rc ? err_set(e, rc, "cannot write the model to \"%s\": %s", path, strerror(-rc)) : 0;
}
