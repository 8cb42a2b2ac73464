/*
 * A walk in the manner of the Linux Heki series, with a bug: a 1-GiB page is taken for a table.
 *
 *     cc -shared -fPIC -I"$(python -m emu.targets)" -o libmywalker.so docs/examples/broken_walker.c
 *     crosswalk fuzz --walker c:./libmywalker.so
 */
#include <stddef.h>

#include "crosswalk.h"

#define P (1ull << 0)
#define PS (1ull << 7)
#define XD (1ull << 63)
#define FRAME 0x000ffffffffff000ull

static struct crosswalk_memory now;

void crosswalk_attach(const struct crosswalk_memory *memory)
{
	now = *memory;
}

static int levels(void)
{
	return now.cr4 & 1 << 12 ? 5 : 4;
}

static uint64_t address_mask(void)
{
	return (1ull << now.maxphyaddr) - 4096;
}

/* An address as the tables count it, made canonical. */
static uint64_t canonical(uint64_t va)
{
	int unused = 64 - (12 + 9 * levels());

	return (uint64_t)((int64_t)(va << unused) >> unused);
}

static int is_leaf(int level, uint64_t entry)
{
	return level == 1 || (level == 2 && entry & PS); /* The bug: level 3 is left out. */
}

static int is_broken(int level, uint64_t entry)
{
	uint64_t wrong = FRAME & ~address_mask();

	if (!(now.efer & 1 << 11))
		wrong |= XD;
	if (level > 3 || (level == 3 && !now.page1gb))
		wrong |= PS;
	if (level > 3 && now.amd)
		wrong |= 1 << 8;
	if ((level == 2 || level == 3) && entry & PS)
		wrong |= (1ull << (3 + 9 * level)) - (1ull << 13);
	return (entry & wrong) != 0;
}

static void walk(uint64_t table, int level, uint64_t base, uint64_t va, uint64_t va_end,
		 heki_func_t func, struct heki_args *args)
{
	const uint64_t *entries = now.frame(table);
	uint64_t span = 1ull << (3 + 9 * level), field, from, entry;

	if (!entries)
		return;
	for (size_t i = 0; i < 512; i++) {
		from = canonical(base + i * span);
		if (from + (span - 1) < va || from >= va_end)
			continue;
		entry = entries[i];
		if (!(entry & P) || is_broken(level, entry))
			continue;
		if (!is_leaf(level, entry)) {
			walk(entry & address_mask(), level - 1, from, va, va_end, func, args);
			continue;
		}
		field = address_mask() & ~(span - 1);
		args->va = from;
		args->pa = entry & field;
		args->size = span;
		args->flags = entry & ~field;
		func(args);
	}
}

void heki_walk(uint64_t va, uint64_t va_end, heki_func_t func, struct heki_args *args)
{
	walk(now.cr3 & FRAME, levels(), 0, va, va_end, func, args);
}
