/* arch/x86/kernel/head_64.S, arch/x86/mm: page tables, and where memory begins. */

typedef struct {
	pgdval_t pgd;
} pgd_t;

struct page {
	unsigned long flags;
	unsigned long private[6];
	atomic_t _refcount;
};

void startup_64(void) { }

extern pgd_t init_top_pgt[512] __data __aligned(4096);
extern pgd_t level4_kernel_pgt[512] __data __aligned(4096);
extern pgd_t level3_kernel_pgt[512] __data __aligned(4096);
extern pgd_t level2_kernel_pgt[512] __data __aligned(4096);
extern pgd_t level2_fixmap_pgt[512] __data __aligned(4096);

extern unsigned long phys_base __data;
extern unsigned long page_offset_base __rodata;
extern unsigned long vmalloc_base __rodata;
extern unsigned long vmemmap_base __rodata;
extern unsigned int __pgtable_l5_enabled __data;
extern u64 sme_me_mask __data;

void exc_page_fault(void) { }
void asm_exc_page_fault(void) { exc_page_fault(); }
void stop_this_cpu(void) { }
