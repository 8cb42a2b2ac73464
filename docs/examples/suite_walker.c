/*
 * A page-table walker in C, tested with crosswalk-suite-1: 4-level and 5-level paging on an Intel
 * processor with 1-GiB pages and MAXPHYADDR 40, without protection keys, LAM, LASS and the like.
 *
 *     cc -O2 -o suite_walker docs/examples/suite_walker.c
 *     find crosswalk-suite-1/cases -name '*.json' | xargs ./suite_walker
 *
 * -DFORGETS_XD builds it with a bug: it looks at XD of the last entry alone.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 40, PAGE1GB = 1 };
static const char VENDOR[] = "intel";

/* JSON: a value with its key, if it has one, its text or number, and its members. */
struct json {
	char *key, *text;
	struct json *first, *next;
};

static char *at;

static char skip(void)
{
	while (strchr(" \n\r\t,:", *at) && *at)
		at++;
	return *at;
}

static char *string(void)
{
	char *start = ++at;

	while (*at != '"')
		at += *at == '\\' ? 2 : 1;
	*at++ = 0;
	return start;
}

static struct json *value(void)
{
	struct json *made = calloc(1, sizeof(*made)), **last = &made->first;
	char open = skip(), close = open == '{' ? '}' : ']';

	if (open == '"') {
		made->text = string();
	} else if (open == '{' || open == '[') {
		for (at++; skip() != close; last = &(*last)->next) {
			char *key = open == '{' ? string() : NULL;

			*last = value();
			(*last)->key = key;
		}
		at++;
	} else { /* A number, true, false or null: what is behind it ends it. */
		size_t length = strcspn(at, ",]} \n");

		made->text = strndup(at, length);
		at += length;
	}
	return made;
}

static struct json *get(struct json *of, const char *key)
{
	struct json *each = of->first;

	while (each && strcmp(each->key, key))
		each = each->next;
	return each;
}

static struct json *item(struct json *of, int number)
{
	struct json *each = of->first;

	while (number--)
		each = each->next;
	return each;
}

static uint64_t number(struct json *of)
{
	return of ? strtoull(of->text, NULL, 0) : 0;
}

static int has(struct json *list, const char *text)
{
	struct json *each = list->first;

	while (each && strcmp(each->text, text))
		each = each->next;
	return each != NULL;
}

/* The walker under test. */
enum { P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80 };
#define XD (1ull << 63)
#define ADDRESS (((1ull << WIDTH) - 1) & ~0xfffull)

struct space {
	struct json *words;
	uint64_t cr0, cr3, cr4, efer;
};

struct outcome {
	const char *kind;
	uint64_t pa, error_code, cr2, changed[5][2];
	int changes;
};

static uint64_t word(const struct space *space, uint64_t pa)
{
	struct json *each;

	for (each = space->words->first; each; each = each->next)
		if (strtoull(each->key, NULL, 16) == pa)
			return number(each);
	return 0;
}

static struct outcome fault(uint64_t va, uint64_t code)
{
	return (struct outcome){.kind = "page_fault", .error_code = code, .cr2 = va};
}

/* A word may be an entry of two levels: then it is changed once, by both. */
static void change(struct outcome *done, uint64_t pa, uint64_t marked)
{
	int k;

	for (k = 0; k < done->changes && done->changed[k][0] != pa; k++)
		;
	done->changed[k][1] = k < done->changes ? done->changed[k][1] | marked : marked;
	done->changed[k][0] = pa;
	done->changes += k == done->changes;
}

static struct outcome translate(const struct space *space, uint64_t va, char type, int user, int ac)
{
	int level = space->cr4 & 1 << 12 ? 5 : 4, unused = 64 - (12 + 9 * level);
	int nxe = space->efer >> 11 & 1, smep = space->cr4 >> 20 & 1, smap = space->cr4 >> 21 & 1;
	int write = type == 'w', fetch = type == 'e';
	uint64_t code = (write ? 2 : 0) | (user ? 4 : 0) | (fetch && (nxe || smep) ? 16 : 0);
	uint64_t table = space->cr3 & ADDRESS, rights = RW | US, xd = 0;
	struct outcome done = {.kind = "ok"};

	if ((uint64_t)((int64_t)(va << unused) >> unused) != va)
		return (struct outcome){.kind = "general_protection"};
	for (;; level--) {
		int shift = 3 + 9 * level, large = 0;
		uint64_t pa = table + (va >> shift & 511) * 8, entry = word(space, pa), wrong, marked;

		if (!(entry & P))
			return fault(va, code);
		wrong = (1ull << 52) - (1ull << WIDTH) + (nxe ? 0 : XD);
		if (level > 3 || (level == 3 && !PAGE1GB))
			wrong |= PS;
		else if (level > 1 && entry & PS)
			large = 1, wrong |= (1ull << shift) - (1ull << 13);
		if (entry & wrong)
			return fault(va, code | P | 8);
		rights &= entry;
#ifdef FORGETS_XD
		xd = entry & XD;
#else
		xd |= entry & XD;
#endif
		marked = entry | A | (write && (large || level == 1) ? D : 0);
		if (marked != entry)
			change(&done, pa, marked);
		table = entry & ADDRESS;
		if (large || level == 1) {
			uint64_t offset = (1ull << shift) - 1;

			done.pa = (table & ~offset) | (va & offset);
			break;
		}
	}
	if ((user && !(rights & US)) || (fetch && xd) ||
	    (write && !(rights & RW) && (user || space->cr0 & 1 << 16)) ||
	    (!user && rights & US && (fetch ? smep : smap && !ac)))
		return fault(va, code | P);
	return done;
}

/* The suite. */
static int is_pair(struct json *pairs, uint64_t pa, uint64_t held)
{
	struct json *each;

	for (each = pairs->first; each; each = each->next)
		if (number(each->first) == pa && number(each->first->next) == held)
			return 1;
	return 0;
}

static int allowed(struct json *set, const struct outcome *seen)
{
	struct json *must = get(set, "must_change"), *may = get(set, "may_change"), *each;
	int k, found = 0, wanted = 0;

	if (strcmp(get(set, "outcome")->text, seen->kind) || number(get(set, "pa")) != seen->pa ||
	    number(get(set, "error_code")) != seen->error_code ||
	    number(get(set, "cr2")) != seen->cr2)
		return 0;
	for (each = must->first; each; each = each->next)
		wanted++;
	for (k = 0; k < seen->changes; k++) {
		int in_must = is_pair(must, seen->changed[k][0], seen->changed[k][1]);

		found += in_must;
		if (!in_must && !is_pair(may, seen->changed[k][0], seen->changed[k][1]))
			return 0;
	}
	return found == wanted;
}

/* The class of CPUs that this walker's is in, -1 for none. */
static int class_of(struct json *cpus)
{
	struct json *class, *box;
	int number_of = 0;

	for (class = cpus->first; class; class = class->next, number_of++)
		for (box = class->first; box; box = box->next) {
			struct json *widths = get(box, "maxphyaddr");

			if (has(get(box, "vendor"), VENDOR) &&
			    has(get(box, "page1gb"), PAGE1GB ? "true" : "false") &&
			    number(widths->first) <= WIDTH && WIDTH <= number(widths->first->next))
				return number_of;
		}
	return -1;
}

static int probes, wrong;

static void try(const char *name, struct json *suite)
{
	struct json *state = get(suite, "case"), *cpu = get(state, "cpu");
	struct json *probe = get(state, "probes")->first, *of = get(suite, "allowed")->first;
	struct space space = {get(state, "entries"), number(get(cpu, "cr0")),
			      number(get(cpu, "cr3")), number(get(cpu, "cr4")),
			      number(get(cpu, "efer"))};
	const uint64_t modelled = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 12 | 1 << 20 | 1 << 21;
	int class = class_of(get(suite, "cpus"));

	if (class < 0 || !(space.efer & 1 << 10) || space.efer & 1 << 20 ||
	    space.cr4 & ~modelled || space.cr3 >> 52 || get(cpu, "encryption_mask"))
		return;
	for (; probe; probe = probe->next, of = of->next) {
		int set = atoi(item(get(of, "by_cpu"), class)->text);
		uint64_t va = number(get(probe, "va"));
		struct outcome seen;

		if (set < 0)
			continue;
		seen = translate(&space, va, *get(probe, "access")->text, number(get(probe, "cpl")) == 3,
				 *get(probe, "ac")->text == 't');
		probes++;
		if (!allowed(item(get(of, "sets"), set), &seen)) {
			wrong++;
			printf("%s: %s of %#" PRIx64 ": %s, pa %#" PRIx64 ", error code %#" PRIx64 "\n", name,
			       get(probe, "access")->text, va, seen.kind, seen.pa, seen.error_code);
		}
	}
}

int main(int count, char **names)
{
	int k;

	for (k = 1; k < count; k++) {
		FILE *file = fopen(names[k], "rb");
		static char text[1 << 22];
		struct json *suite;

		if (!file) {
			perror(names[k]);
			return 2;
		}
		text[fread(text, 1, sizeof(text) - 1, file)] = 0;
		fclose(file);
		at = text;
		suite = value();
		if (!strcmp(get(suite, "format")->text, "crosswalk-suite/1"))
			try(names[k], suite);
	}
	printf("%d probes, %d wrong\n", probes, wrong);
	return wrong != 0;
}
