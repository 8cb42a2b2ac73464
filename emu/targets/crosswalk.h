/*
 * What Crosswalk lends a page-table walker in C, and what it calls: see docs/walkers.md.
 *
 *     cc -shared -fPIC -o libmywalker.so walker.c
 *     crosswalk fuzz --walker c:./libmywalker.so
 */
#ifndef CROSSWALK_H
#define CROSSWALK_H

#include <stdint.h>

/* Control registers, features, and memory. */
struct crosswalk_memory {
	uint64_t cr0, cr3, cr4, efer;
	uint32_t pkru;
	uint32_t maxphyaddr; /* in bits */
	uint32_t page1gb;    /* CPUID.80000001H:EDX.Page1GB */
	uint32_t amd;        /* 1 for AMD's rules where they differ from Intel's */
	/*
	 * The 4 KiB of memory at a physical address, a multiple of 4096; NULL where there is no
	 * RAM. Good until the next crosswalk_attach.
	 */
	const void *(*frame)(uint64_t pa);
	uint32_t pkrs; /* the MSR IA32_PKRS: what keys of supervisor pages allow, with CR4.PKS */
};

/* One mapping, as the walk hands it to its callback. */
struct heki_args {
	uint64_t va, pa, size, flags;
};

typedef void (*heki_func_t)(struct heki_args *args);

/* Effective rights: what the entries of all levels together leave, whatever CR0 and CR4 say. */
#define CROSSWALK_WRITE   1
#define CROSSWALK_USER    2
#define CROSSWALK_EXECUTE 4

/* Which parts of a mapping are given; the others say nothing, and aren't judged. */
#define CROSSWALK_HAS_PA     1
#define CROSSWALK_HAS_FLAGS  2
#define CROSSWALK_HAS_RIGHTS 4

/* One mapping, as crosswalk_list hands it to its callback. */
struct crosswalk_mapping {
	uint64_t va, pa, size, flags;
	uint32_t rights; /* of CROSSWALK_WRITE, _USER, _EXECUTE */
	uint32_t given;  /* of CROSSWALK_HAS_PA, _FLAGS, _RIGHTS */
};

typedef void (*crosswalk_func_t)(const struct crosswalk_mapping *mapping);

/* What follows is exported by the walker. */

/*
 * Both may be left out. The claims that it is judged by, names with commas: leaves and flags need
 * heki_walk or crosswalk_list, effective crosswalk_list, translation and rights crosswalk_translate;
 * without it, all of those. ranges, for lists of which a mapping may stand for several pages, has to
 * be stated. The paging modes that it is asked about: 32bit, pae, 4level, 5level; without it, 4level and 5level.
 */
const char *crosswalk_claims(void);
const char *crosswalk_modes(void);

/*
 * May be left out: 1 for an address space that the walker has no answers for, else 0. After 1 it is
 * asked nothing about it; crosswalk_attach isn't called.
 */
int crosswalk_declines(const struct crosswalk_memory *memory);

/* Takes note of the address space that all that follows is about. */
void crosswalk_attach(const struct crosswalk_memory *memory);

/*
 * A walker that lists mappings calls func(args) for each that touches [va, va_end),
 * with its va, pa, size and flags in *args. The last page of all is asked for with a va_end of
 * 2^64 - 1.
 */
void heki_walk(uint64_t va, uint64_t va_end, heki_func_t func, struct heki_args *args);

/*
 * In place of heki_walk, for a walker that knows effective rights, or no physical addresses: calls
 * func for each mapping that touches [first, last], last included.
 */
void crosswalk_list(uint64_t first, uint64_t last, crosswalk_func_t func);

/*
 * A walker that translates returns 1 and the address in *pa where the access is allowed, or mapped,
 * else 0, and -1 for no answer. access is 0 to read, 1 to write, 2 to execute; cpl 0 or 3; ac is RFLAGS.AC.
 */
int crosswalk_translate(uint64_t va, int access, int cpl, int ac, uint64_t *pa);

#endif
