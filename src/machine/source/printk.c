/* kernel/printk/printk.c and printk_ringbuffer.h; with PRINTK_RECORDS as they were before 5.10. */

enum log_flags {
	LOG_NEWLINE = 2,
	LOG_CONT = 8,
};

#ifdef PRINTK_RECORDS
struct printk_log {
	u64 ts_nsec;
	u16 len;
	u16 text_len;
	u16 dict_len;
	u8 facility;
	u8 flags : 5;
	u8 level : 3;
} __packed __aligned(4);

#ifndef UBUNTU_4_15
struct printk_safe_seq_buf {
	atomic_t len;
	atomic_t message_lost;
	unsigned long work[3];
	unsigned char buffer[480];
};

extern struct printk_safe_seq_buf nmi_print_seq __percpu;
extern struct printk_safe_seq_buf safe_print_seq __percpu;
#endif

extern u64 log_first_seq __bss;
extern u32 log_first_idx __bss;
extern u64 log_next_seq __bss;
extern u32 log_next_idx __bss;
extern u64 clear_seq __bss;
extern u32 clear_idx __bss;
extern u32 log_buf_len __data;
extern char *log_buf __data;
extern char __log_buf[LOG_BUF_LEN] __bss __aligned(8);
#else
struct dev_printk_info {
	char subsystem[16];
	char device[48];
};

struct printk_info {
	u64 seq;
	u64 ts_nsec;
	u16 text_len;
	u8 facility;
	u8 flags : 5;
	u8 level : 3;
	u32 caller_id;
	struct dev_printk_info dev_info;
};

enum desc_state {
	desc_miss = -1,
	desc_reserved = 0,
	desc_committed = 1,
	desc_finalized = 2,
	desc_reusable = 3,
};

struct prb_data_blk_lpos {
	unsigned long begin;
	unsigned long next;
};

struct prb_desc {
	atomic_long_t state_var;
	struct prb_data_blk_lpos text_blk_lpos;
};

struct prb_data_ring {
	unsigned int size_bits;
	char *data;
	atomic_long_t head_lpos;
	atomic_long_t tail_lpos;
};

struct prb_desc_ring {
	unsigned int count_bits;
	struct prb_desc *descs;
	struct printk_info *infos;
	atomic_long_t head_id;
	atomic_long_t tail_id;
#ifdef PERCPU_ORDINARY
	atomic_long_t last_finalized_seq;
#endif
};

struct printk_ringbuffer {
	struct prb_desc_ring desc_ring;
	struct prb_data_ring text_data_ring;
	atomic_long_t fail;
};

static struct prb_desc _printk_rb_static_descs[PRB_DESCS] __data;
static struct printk_info _printk_rb_static_infos[PRB_DESCS] __data;
static struct printk_ringbuffer printk_rb_static __data;
static struct printk_ringbuffer *prb __data;
static char *log_buf __data;
static u32 log_buf_len __data;
static char __log_buf[LOG_BUF_LEN] __bss __aligned(8);
#endif

void vprintk_emit(void) { }
