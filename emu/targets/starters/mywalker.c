/*
 * A page-table walker in C, for Crosswalk to test: 4-level and 5-level paging.
 *
 *     cc -shared -fPIC -I"$(python3 -m crosswalk.emu.targets)" -o libmywalker.so mywalker.c
 *     crosswalk walker try c:./libmywalker.so
 *     crosswalk fuzz --walker c:./libmywalker.so
 *
 * crosswalk_translate says where an access leads to, and heki_walk lists what is mapped. Put yours
 * in their place, and delete what it doesn't answer.
 */
#include <stddef.h>

#include "crosswalk.h"

#define P (1ull << 0)
#define RW (1ull << 1)
#define US (1ull << 2)
#define PS (1ull << 7)
#define G (1ull << 8)
#define XD (1ull << 63)
#define FIELD 0x000ffffffffff000ull /* Bits 51:12 of an entry. */

static struct crosswalk_memory now;

void crosswalk_attach(const struct crosswalk_memory *memory)
{
	now = *memory;
}

static int levels(void)
{
	return now.cr4 >> 12 & 1 ? 5 : 4;
}

static uint64_t span(int level)
{
	return 1ull << (3 + 9 * level);
}

static uint64_t address_mask(void)
{
	return (1ull << now.maxphyaddr) - 4096;
}

static uint64_t canonical(uint64_t va)
{
	int unused = 64 - (12 + 9 * levels());

	return (uint64_t)((int64_t)(va << unused) >> unused);
}

const char *crosswalk_modes(void)
{
	return "4level,5level";
}

/* No answer in other modes (EFER.LMA is clear), nor with LAM in CR3 and CR4, LASS, UAI, PKS. */
int crosswalk_declines(const struct crosswalk_memory *memory)
{
	return !(memory->efer >> 10 & 1) || (memory->cr3 >> 61 & 3) || (memory->cr4 >> 27 & 3) ||
	       (memory->efer >> 20 & 1) || (memory->cr4 >> 24 & 1);
}

/* The bits that a present entry may not set. */
static uint64_t reserved(int level, uint64_t entry)
{
	uint64_t bits = FIELD & ~address_mask();

	if (!(now.efer >> 11 & 1))
		bits |= XD;
	if (level > 3)
		bits |= PS | (now.amd ? G : 0);
	else if (level > 1 && entry & PS)
		bits |= (span(level) - (1ull << 13)) | (level == 3 && !now.page1gb ? PS : 0);
	return bits;
}

static int allowed(int access, int cpl, int ac, uint64_t key, int user, int writable, int executable)
{
	int guarded = cpl == 3 || now.cr0 >> 16 & 1; /* CR0.WP */

	if (cpl == 3 && !user)
		return 0;
	if (access == 2)
		return executable && !(user && cpl == 0 && now.cr4 >> 20 & 1); /* SMEP */
	if (user && cpl == 0 && now.cr4 >> 21 & 1 && !ac) /* SMAP */
		return 0;
	if (user && now.cr4 >> 22 & 1) { /* Protection keys */
		uint32_t denied = now.pkru >> 2 * key;

		if (denied & 1 || (denied & 2 && access == 1 && guarded))
			return 0;
	}
	return access == 0 || writable || !guarded;
}

int crosswalk_translate(uint64_t va, int access, int cpl, int ac, uint64_t *pa)
{
	uint64_t table = now.cr3 & address_mask(), entry;
	int user = 1, writable = 1, executable = 1, level;

	if (va != canonical(va))
		return 0;
	for (level = levels();; level--) {
		const uint64_t *entries = now.frame(table);

		if (!entries)
			return 0;
		entry = entries[va >> (3 + 9 * level) & 511];
		if (!(entry & P) || entry & reserved(level, entry))
			return 0;
		user &= (entry & US) != 0;
		writable &= (entry & RW) != 0;
		executable &= !(entry & XD);
		if (level == 1 || entry & PS)
			break;
		table = entry & address_mask();
	}
	if (!allowed(access, cpl, ac, entry >> 59 & 15, user, writable, executable))
		return 0;
	*pa = (entry & address_mask() & -span(level)) | (va & (span(level) - 1));
	return 1;
}

static void below(uint64_t table, int level, uint64_t base, uint64_t va, uint64_t va_end,
		  heki_func_t func, struct heki_args *args)
{
	const uint64_t *entries = now.frame(table);
	uint64_t field = address_mask() & -span(level);

	if (!entries)
		return;
	for (size_t i = 0; i < 512; i++) {
		uint64_t first = canonical(base + i * span(level)), entry = entries[i];

		if (first + (span(level) - 1) < va || first >= va_end)
			continue;
		if (!(entry & P) || entry & reserved(level, entry))
			continue;
		if (level > 1 && !(entry & PS)) {
			below(entry & address_mask(), level - 1, first, va, va_end, func, args);
			continue;
		}
		args->va = first;
		args->pa = entry & field;
		args->size = span(level);
		args->flags = entry & ~field;
		func(args);
	}
}

void heki_walk(uint64_t va, uint64_t va_end, heki_func_t func, struct heki_args *args)
{
	below(now.cr3 & address_mask(), levels(), 0, va, va_end, func, args);
}
