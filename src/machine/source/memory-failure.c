/* include/linux/mm_types.h, include/linux/page-flags.h, mm/memory-failure.c: pages, and those that failed. */

enum pageflags {
	PG_locked,
	PG_lru = 4,
	PG_head = 6,
	PG_hwpoison = 20,
};

struct page {
	unsigned long flags;
	union {
		struct {
			struct list_head lru;
			struct address_space *mapping;
			unsigned long index;
			unsigned long private;
		};
		unsigned long compound_head;
	};
	atomic_t _mapcount;
	atomic_t _refcount;
	unsigned long memcg_data;
};

extern atomic_long_t num_poisoned_pages __data;

void memory_failure(void) { }
