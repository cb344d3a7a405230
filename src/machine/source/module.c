/* include/linux/module.h, kernel/module. */

enum module_state {
	MODULE_STATE_LIVE,
	MODULE_STATE_COMING,
	MODULE_STATE_GOING,
	MODULE_STATE_UNFORMED,
};

struct mod_tree_node {
	struct module *mod;
	struct rb_node node[2];
};

#ifdef PERCPU_ORDINARY
enum mod_mem_type {
	MOD_TEXT = 0,
	MOD_DATA,
	MOD_RODATA,
	MOD_RO_AFTER_INIT,
	MOD_INIT_TEXT,
	MOD_INIT_DATA,
	MOD_INIT_RODATA,
	MOD_MEM_NUM_TYPES,
	MOD_INVALID = -1,
};

struct module_memory {
	void *base;
	unsigned int size;
	struct mod_tree_node mtn;
};
#else
struct module_layout {
	void *base;
	unsigned int size;
	unsigned int text_size;
	unsigned int ro_size;
	unsigned int ro_after_init_size;
	struct mod_tree_node mtn;
};
#endif

struct module {
	enum module_state state;
	struct list_head list;
	char name[56];
	const char *version;
	const char *srcversion;
	unsigned int num_syms;
	int (*init)(void);
#ifdef PERCPU_ORDINARY
	struct module_memory mem[7] __aligned(64);
#else
	struct module_layout core_layout __aligned(64);
	struct module_layout init_layout;
#endif
	unsigned long taints;
	char *args;
	struct list_head source_list;
	struct list_head target_list;
	void (*exit)(void);
	atomic_t refcnt;
} __aligned(64);

struct module_use {
	struct list_head source_list;
	struct list_head target_list;
	struct module *source, *target;
};

static struct list_head modules __data;
