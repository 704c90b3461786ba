/* SPDX-License-Identifier: MIT */
/*
 * The command line. One scanner walks it four times: to check its form, to
 * load configuration files, to set options, to collect operands. So a file
 * never overrides a flag, and nothing has been set when the form is wrong.
 */
#include "base/opt_table.h"
#include <assert.h>
#include <errno.h>
#include <string.h>

struct args {
	const struct opt_group *groups;
	size_t n;
	int argc;
	char **argv;
	struct err *e;
	int at;              /* next word */
	const char *cluster; /* rest of "-abc" */
	bool operands_only;  /* after "--" */
};

enum arg_kind { ARG_END, ARG_OPTION, ARG_CONFIG, ARG_OPERAND };

struct arg {
	const struct opt_group *group;
	const struct opt *row;
	const char *value;
	char *operand;
	char where[80]; /* the flag as written */
};

static int unknown_flag(const struct args *a, const char *name, size_t len)
{
	char wanted[64];
	struct opt_nearest near = { .wanted = wanted };

	snprintf(wanted, sizeof wanted, "%.*s", (int)len, name);
	opt_offer_rows(&near, a->groups, a->n, NULL);
	opt_offer(&near, "config");
	opt_offer(&near, "help");
	if (near.best)
		return err_set(a->e, -EINVAL, "there is no option --%s: did you mean --%s?", wanted, near.best);
	return err_set(a->e, -EINVAL, "there is no option --%s: see --help", wanted);
}

/* The next word as the value of the flag just read. A flag is not taken for a value. */
static int take_value(struct args *a, struct arg *arg, const struct opt *row)
{
	char syntax[96] = "FILE";
	const char *word = a->at < a->argc ? a->argv[a->at] : NULL;

	if (row)
		opt_syntax(row, syntax, sizeof syntax);
	if (!word)
		return err_set(a->e, -EINVAL, "%s needs a value: %s=%s", arg->where, arg->where, syntax);
	if (word[0] == '-' && word[1] == '-')
		return err_set(a->e, -EINVAL, "%s needs a value, and %.64s is a flag: write %s=%s", arg->where, word,
			       arg->where, syntax);
	arg->value = word;
	a->at++;
	return 0;
}

/* "--name", "--name=value", "--no-name" */
static int long_flag(struct args *a, struct arg *arg, const char *name)
{
	const char *equals = strchr(name, '=');
	size_t len = equals ? (size_t)(equals - name) : strlen(name);
	char plain[64];

	if (len >= sizeof plain || !len)
		return unknown_flag(a, name, len);
	memcpy(plain, name, len);
	plain[len] = 0;
	snprintf(arg->where, sizeof arg->where, "--%s", plain);
	arg->value = equals ? equals + 1 : NULL;

	if (strcmp(plain, "help") == 0)
		return err_set(a->e, -EINVAL, "--help takes no value: write --help");
	if (strcmp(plain, "config") == 0) {
		int rc = equals ? 0 : take_value(a, arg, NULL);

		return rc ? rc : ARG_CONFIG;
	}
	arg->row = opt_find(a->groups, a->n, NULL, plain, &arg->group);
	if (!arg->row && strncmp(plain, "no-", 3) == 0) {
		arg->row = opt_find(a->groups, a->n, NULL, plain + 3, &arg->group);
		if (arg->row && arg->row->type != OPT_BOOL)
			return err_set(a->e, -EINVAL, "%s: %s is not a switch; give it a value: --%s=VALUE", arg->where,
				       plain + 3, plain + 3);
		if (arg->row && equals)
			return err_set(a->e, -EINVAL, "%s takes no value: write --%s=%.16s", arg->where, plain + 3,
				       arg->value);
		arg->value = "no";
	}
	if (!arg->row)
		return unknown_flag(a, plain, len);
	if (!arg->value && arg->row->type == OPT_BOOL)
		arg->value = "yes";
	if (!arg->value)
		arg->value = arg->row->optional_value;
	if (!arg->value) {
		int rc = take_value(a, arg, arg->row);

		if (rc)
			return rc;
	}
	return ARG_OPTION;
}

static const struct opt *find_letter(const struct args *a, char letter, const struct opt_group **group)
{
	for (size_t g = 0; g < a->n; g++)
		for (size_t i = 0; i < a->groups[g].n; i++)
			if (a->groups[g].rows[i].letter == letter) {
				*group = &a->groups[g];
				return &a->groups[g].rows[i];
			}
	return NULL;
}

/* "-x value", "-xvalue", and switches together: "-rv" */
static int short_flag(struct args *a, struct arg *arg)
{
	char letter = *a->cluster++;

	snprintf(arg->where, sizeof arg->where, "-%c", letter);
	arg->row = find_letter(a, letter, &arg->group);
	if (!arg->row)
		return err_set(a->e, -EINVAL, "there is no option -%c: see --help", letter);
	if (arg->row->type == OPT_BOOL || arg->row->optional_value) {
		arg->value = arg->row->type == OPT_BOOL ? "yes" : arg->row->optional_value;
		return ARG_OPTION;
	}
	if (*a->cluster) {
		arg->value = a->cluster;
		a->cluster = "";
		return ARG_OPTION;
	}
	snprintf(arg->where, sizeof arg->where, "--%s", arg->row->name);
	int rc = take_value(a, arg, arg->row);

	return rc ? rc : ARG_OPTION;
}

/* The next thing on the command line, or -EINVAL. */
static int next_arg(struct args *a, struct arg *arg)
{
	char *word;

	memset(arg, 0, sizeof *arg);
	if (a->cluster && *a->cluster)
		return short_flag(a, arg);
	if (a->at < a->argc && !a->operands_only && strcmp(a->argv[a->at], "--") == 0) {
		a->operands_only = true;
		a->at++;
	}
	if (a->at >= a->argc)
		return ARG_END;
	word = a->argv[a->at++];
	if (a->operands_only || word[0] != '-' || !word[1]) {
		arg->operand = word;
		return ARG_OPERAND;
	}
	if (word[1] == '-')
		return long_flag(a, arg, word + 2);
	a->cluster = word + 1;
	return short_flag(a, arg);
}

static bool help_wanted(int argc, char **argv)
{
	for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
		if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0)
			return true;
	return false;
}

/* "--peer=": a variable of a script was empty, and not an option that was left out. Other types refuse it themselves. */
static int empty_text(const struct args *a, const struct arg *arg)
{
	char syntax[96];

	opt_syntax(arg->row, syntax, sizeof syntax);
	return err_set(a->e, -EINVAL, "%s has an empty value: write %s=%s, or leave it out", arg->where, arg->where,
		       syntax);
}

static int check_form(struct args a, bool operands_ok)
{
	struct arg arg;
	int kind;

	while ((kind = next_arg(&a, &arg)) > 0) {
		if (kind == ARG_OPERAND && !operands_ok)
			return err_set(a.e, -EINVAL, "unexpected argument \"%.64s\": see --help", arg.operand);
		assert(kind != ARG_OPTION || arg.row);
		if (kind == ARG_OPTION && arg.row->type == OPT_STR && !*arg.value)
			return empty_text(&a, &arg);
	}
	return kind;
}

static int load_configs(struct args a, const char *const *sections)
{
	struct arg arg;
	int kind;

	while ((kind = next_arg(&a, &arg)) > 0) {
		int rc = kind == ARG_CONFIG ? opt_load_yaml(a.groups, a.n, sections, arg.value, a.e) : 0;

		if (rc)
			return rc;
	}
	return kind;
}

static int set_all(struct args a)
{
	struct arg arg;
	int kind;

	while ((kind = next_arg(&a, &arg)) > 0) {
		int rc = kind == ARG_OPTION ? opt_store(arg.group, arg.row, arg.value, arg.where, a.e) : 0;

		if (rc)
			return rc;
	}
	return kind;
}

int opt_parse(const struct opt_group *groups, size_t n, const char *const *sections, int argc, char **argv,
	      int *n_operands, struct err *e)
{
	struct args start = { .groups = groups, .n = n, .argc = argc, .argv = argv, .e = e, .at = 1 };
	struct arg arg;
	int rc, kind, count = 0;

	if (help_wanted(argc, argv))
		return 1;
	rc = check_form(start, n_operands != NULL);
	if (!rc)
		rc = load_configs(start, sections);
	if (!rc)
		rc = set_all(start);
	if (rc || !n_operands)
		return rc;
	/* the scanner is always ahead of the operand it has just given */
	while ((kind = next_arg(&start, &arg)) > 0)
		if (kind == ARG_OPERAND)
			argv[count++] = arg.operand;
	assert(kind == 0);
	*n_operands = count;
	return 0;
}
