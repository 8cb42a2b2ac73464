/*
 * A page-table walker in a process of its own, which speaks JSON lines, with a bug: it walks
 * addresses that aren't canonical like others.
 *
 *     cc -o exec_walker docs/examples/exec_walker.c
 *     crosswalk fuzz --walker exec:./exec_walker
 *
 * Lines come without spaces and with their keys in one order, so that strstr() finds what is
 * needed; a JSON library would do as well.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define P (1ull << 0)
#define PS (1ull << 7)
#define XD (1ull << 63)
#define FRAME 0x000ffffffffff000ull
#define INSIDE(level) (((uint64_t)1 << (3 + 9 * (level))) - 1)

struct word {
	uint64_t pa, value;
};

static struct word *words;
static size_t count;
static uint64_t cr3, cr4, efer, maxphyaddr, mask;
static int page1gb, amd;

/* The number behind `key` in a line, in hex or not; 0 where there is none. */
static uint64_t number(const char *line, const char *key)
{
	const char *at = strstr(line, key);

	return at ? strtoull(at + strlen(key), NULL, 0) : 0;
}

static void take_space(const char *line)
{
	const char *at = strstr(line, "\"entries\":{") + strlen("\"entries\":{");

	cr3 = number(line, "\"cr3\":\"");
	cr4 = number(line, "\"cr4\":\"");
	efer = number(line, "\"efer\":\"");
	mask = number(line, "\"encryption_mask\":\"");
	maxphyaddr = number(line, "\"maxphyaddr\":");
	page1gb = strstr(line, "\"page1gb\":true") != NULL;
	amd = strstr(line, "\"vendor\":\"amd\"") != NULL;
	count = 0;
	for (; *at == '"' || *at == ','; count++) {
		char *end;

		if (count % 1024 == 0)
			words = realloc(words, (count + 1024) * sizeof(*words));
		words[count].pa = strtoull(at + (*at == ',') + 1, &end, 16);
		words[count].value = strtoull(end + strlen("\":\""), &end, 16);
		at = end + 1;
	}
}

/* The word at a physical address; words come in ascending order, and all others are 0. */
static uint64_t word(uint64_t pa)
{
	size_t low = 0, high = count;

	while (low < high) {
		size_t middle = low + (high - low) / 2;

		if (words[middle].pa < pa)
			low = middle + 1;
		else
			high = middle;
	}
	return low < count && words[low].pa == pa ? words[low].value : 0;
}

static int levels(void)
{
	return cr4 & 1 << 12 ? 5 : 4;
}

static uint64_t address_mask(void)
{
	return ((1ull << maxphyaddr) - 4096) & ~mask;
}

/* An address as the tables count it, made canonical. */
static uint64_t canonical(uint64_t va)
{
	int unused = 64 - (12 + 9 * levels());

	return (uint64_t)((int64_t)(va << unused) >> unused);
}

static int is_leaf(int level, uint64_t entry)
{
	return level == 1 || ((level == 2 || level == 3) && entry & PS);
}

static int leads_on(int level, uint64_t entry)
{
	uint64_t wrong = FRAME & ~address_mask() & ~mask;

	if (!(efer & 1 << 11))
		wrong |= XD;
	if (level > 3 || (level == 3 && !page1gb))
		wrong |= PS;
	if (level > 3 && amd)
		wrong |= 1 << 8;
	if ((level == 2 || level == 3) && entry & PS)
		wrong |= INSIDE(level) & ~0x1fffull;
	return entry & P && !(entry & wrong);
}

/* Whether linear-address-space separation forbids an access; AC counts as it does for SMAP. */
static int separated(const char *line, uint64_t va)
{
	int upper = va >> 63, user = number(line, "\"cpl\":") == 3;
	int fetch = strstr(line, "\"execute\"") != NULL;
	int ac = strstr(line, "\"ac\":true") != NULL, smap = cr4 >> 21 & 1;

	return cr4 >> 27 & 1 && (user ? upper : !upper && (fetch || (smap && !ac)));
}

/* Where an access goes: LAM and UAI mask pointers, those of fetches never. */
static uint64_t linear(const char *line, uint64_t va)
{
	uint64_t top = va & 1ull << 63;
	int bits = 64;

	if (strstr(line, "\"execute\""))
		return va;
	if (efer >> 20 & 1)
		return (uint64_t)((int64_t)(va << 7) >> 7);
	if (top)
		bits = !(cr4 >> 28 & 1) ? 64 : levels() == 5 ? 57 : 48;
	else if (cr3 >> 61 & 3)
		bits = cr3 >> 61 & 1 ? 57 : 48;
	va = (uint64_t)((int64_t)(va << (64 - bits)) >> (64 - bits));
	return (va & ~(1ull << 63)) | top;
}

static void translate(const char *line)
{
	uint64_t va = linear(line, number(line, "\"va\":\"")), table = cr3 & FRAME & ~mask, entry;

	if (separated(line, number(line, "\"va\":\""))) {
		puts("{\"outcome\":\"general_protection\"}");
		return;
	}
	for (int level = levels(); level > 0; level--) {
		entry = word(table + (va >> (3 + 9 * level) & 511) * 8);
		if (!leads_on(level, entry))
			break;
		table = entry & address_mask();
		if (is_leaf(level, entry)) {
			table = (table & ~INSIDE(level)) | (va & INSIDE(level));
			printf("{\"outcome\":\"ok\",\"pa\":\"0x%" PRIx64 "\"}\n", table);
			return;
		}
	}
	puts("{\"outcome\":\"page_fault\"}");
}

static const char *comma;

static void list(uint64_t table, int level, uint64_t base, uint64_t first, uint64_t last)
{
	for (uint64_t i = 0; i < 512; i++) {
		uint64_t entry = word(table + 8 * i), field = address_mask() & ~INSIDE(level);
		uint64_t va = canonical(base + i * (INSIDE(level) + 1));

		if (va + INSIDE(level) < first || va > last || !leads_on(level, entry))
			continue;
		if (!is_leaf(level, entry)) {
			list(entry & address_mask(), level - 1, va, first, last);
			continue;
		}
		printf("%s{\"va\":\"0x%" PRIx64 "\",\"pa\":\"0x%" PRIx64 "\",\"size\":%" PRIu64
		       ",\"flags\":\"0x%" PRIx64 "\"}",
		       comma, va, entry & field, INSIDE(level) + 1, entry & ~field);
		comma = ",";
	}
}

int main(void)
{
	char *line = NULL;
	size_t size = 0;

	puts("{\"protocol\":\"crosswalk-walker/1\",\"claims\":[\"leaves\",\"flags\",\"translation\"]}");
	fflush(stdout);
	while (getline(&line, &size, stdin) > 0) {
		if (strncmp(line, "{\"cpu\":", 7) == 0) {
			take_space(line);
		} else if (strncmp(line, "{\"first\":", 9) == 0) {
			comma = "";
			fputs("{\"mappings\":[", stdout);
			list(cr3 & FRAME & ~mask, levels(), 0, number(line, "\"first\":\""),
			     number(line, "\"last\":\""));
			puts("]}");
		} else {
			translate(line);
		}
		fflush(stdout);
	}
	return 0;
}
