/* kernel/cpu.c, arch/x86/kernel/setup_percpu.c, kernel/panic.c, kernel/time: the processors. */

struct timerqueue_node {
	struct rb_node node;
	long long expires;
};

struct hrtimer {
	struct timerqueue_node node;
	long long _softexpires;
	void *function;
};

extern unsigned long __per_cpu_offset[NR_CPUS] __rodata;
extern unsigned int nr_cpu_ids __rodata;
extern struct cpumask __cpu_possible_mask __rodata;
extern struct cpumask __cpu_present_mask __data;
extern struct cpumask __cpu_online_mask __data;
extern struct cpumask __cpu_active_mask __data;
extern atomic_t panic_cpu __data;
extern int crashing_cpu __data;
extern unsigned long tainted_mask __bss;
extern u64 jiffies_64 __data;
extern unsigned int hrtimer_resolution __data;
