/*
 * The walk of the Linux Heki RFC v2, patch 13, as C: calls back for each present leaf in
 * [va, va_end), in address order, with its address, physical address, size and flags. Four
 * levels; no checks of reserved bits and no effective rights, as there.
 */
#include <stddef.h>
#include <stdint.h>

#define PRESENT 1ull
#define LARGE 0x80ull
#define ADDRESS 0x000ffffffffff000ull

struct memory {
	const unsigned char *bytes;
	uint64_t size;
};

struct mapping {
	uint64_t va, pa, size, flags;
};

struct args {
	struct mapping now;
	struct mapping *found;
	size_t count, room;
};

typedef void (*callback)(struct args *);

/* The callback of the benchmark. */
void record(struct args *args)
{
	if (args->count < args->room)
		args->found[args->count] = args->now;
	args->count++;
}

/*
 * The same, field by field. The assignment above becomes two vector moves, each of whose loads
 * waits for two narrower stores that the walk has just made: on some processors that takes as
 * long as all the rest.
 */
void record_by_field(struct args *args)
{
	const volatile struct mapping *now = &args->now;

	if (args->count < args->room) {
		struct mapping *to = &args->found[args->count];

		to->va = now->va;
		to->pa = now->pa;
		to->size = now->size;
		to->flags = now->flags;
	}
	args->count++;
}

/* The callback that only counts, to learn how much room is needed. */
void count(struct args *args)
{
	args->count++;
}

static void report(uint64_t va, uint64_t end, uint64_t entry, uint64_t base, uint64_t span,
		   callback func, struct args *args)
{
	uint64_t field = ADDRESS & -span;
	uint64_t next = base + span;

	args->now.va = va;
	args->now.pa = (entry & field) + (va - base);
	args->now.size = (next < end ? next : end) - va;
	args->now.flags = entry & ~field;
	func(args);
}

static const uint64_t *table_at(const struct memory *memory, uint64_t pa)
{
	if (memory->size < 4096 || pa > memory->size - 4096)
		return NULL;
	return (const uint64_t *)(memory->bytes + pa);
}

static void walk_pte(const uint64_t *table, uint64_t va, uint64_t end, callback func,
		     struct args *args)
{
	uint64_t base = va & -4096ull;
	unsigned at = va >> 12 & 511;

	for (; at < 512 && va < end; at++, va = base) {
		if (table[at] & PRESENT)
			report(va, end, table[at], base, 4096, func, args);
		base += 4096;
	}
}

/* Levels 4 to 2: tables whose entries may lead to further tables. */
static void walk_table(const struct memory *memory, const uint64_t *table, int level, uint64_t va,
		       uint64_t end, callback func, struct args *args)
{
	int shift = 3 + 9 * level;
	uint64_t span = 1ull << shift, base = va & -span;
	unsigned at = va >> shift & 511;

	for (; at < 512 && va < end; at++, va = base) {
		uint64_t entry = table[at];
		uint64_t next = base + span;

		if (entry & PRESENT) {
			const uint64_t *below = table_at(memory, entry & ADDRESS);

			if (level < 4 && entry & LARGE)
				report(va, end, entry, base, span, func, args);
			else if (below && level == 2)
				walk_pte(below, va, next < end ? next : end, func, args);
			else if (below)
				walk_table(memory, below, level - 1, va, next < end ? next : end,
					   func, args);
		}
		base = next;
	}
}

/* Addresses here are those of the lower half: [va, end) within 2^47. */
void heki_walk(const struct memory *memory, uint64_t root, uint64_t va, uint64_t end,
	       callback func, struct args *args)
{
	const uint64_t *table = table_at(memory, root);

	if (table && va < end)
		walk_table(memory, table, 4, va, end, func, args);
}
