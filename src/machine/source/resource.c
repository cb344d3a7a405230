/* kernel/resource.c, arch/x86/kernel/e820.c, mm/memblock.c: what lies where in physical memory. */

struct resource {
	resource_size_t start;
	resource_size_t end;
	const char *name;
	unsigned long flags;
	unsigned long desc;
	struct resource *parent, *sibling, *child;
};

struct e820_entry {
	u64 addr;
	u64 size;
	u32 type;
} __packed;

struct e820_table {
	u32 nr_entries;
	struct e820_entry entries[128];
};

struct memblock_region {
	phys_addr_t base;
	phys_addr_t size;
	unsigned int flags;
	int nid;
};

struct memblock_type {
	unsigned long cnt;
	unsigned long max;
	phys_addr_t total_size;
	struct memblock_region *regions;
	char *name;
};

struct memblock {
	bool bottom_up;
	phys_addr_t current_limit;
	struct memblock_type memory;
	struct memblock_type reserved;
};

extern struct resource iomem_resource __data;
extern struct resource ioport_resource __data;
extern struct e820_table *e820_table __rodata;
static struct e820_table e820_table_init __init;
extern struct memblock memblock __data;
static struct memblock_region memblock_memory_init_regions[128] __data;
