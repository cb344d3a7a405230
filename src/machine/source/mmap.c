/* include/linux/mm_types.h, include/linux/maple_tree.h, mm/mmap.c: what processes map. */

struct vm_area_struct {
	unsigned long vm_start, vm_end;
#ifndef PERCPU_ORDINARY
	struct vm_area_struct *vm_next, *vm_prev;
	struct rb_node vm_rb;
#endif
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	const struct vm_operations_struct *vm_ops;
	unsigned long vm_pgoff;
	struct file *vm_file;
	void *vm_private_data;
#ifdef PERCPU_ORDINARY
	struct anon_vma_name *anon_name;
#endif
	struct list_head shared;
};

struct anon_vma_name {
	atomic_t kref;
	char name[80];
};

struct vm_special_mapping {
	const char *name;
	void **pages;
};

struct vm_operations_struct {
	void (*open)(void);
	void (*close)(void);
};

#ifdef PERCPU_ORDINARY
enum maple_type {
	maple_dense,
	maple_leaf_64,
	maple_range_64,
	maple_arange_64,
};

struct maple_range_64 {
	struct maple_node *parent;
	unsigned long pivot[15];
	void *slot[16];
};

struct maple_arange_64 {
	struct maple_node *parent;
	unsigned long pivot[9];
	void *slot[10];
	unsigned long gap[10];
	unsigned char meta[2];
};

struct maple_node {
	union {
		struct {
			struct maple_node *parent;
			void *slot[31];
		};
		struct maple_range_64 mr64;
		struct maple_arange_64 ma64;
	};
};
#endif

static struct vm_operations_struct special_mapping_vmops __data;
