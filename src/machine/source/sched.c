/* include/linux/sched.h, kernel/sched/core.c: tasks, and the paths on which they sleep. */

struct thread_info {
	unsigned long flags;
#ifndef PRINTK_RECORDS
	unsigned long syscall_work;
#endif
	u32 status;
#ifndef PRINTK_RECORDS
	u32 cpu;
#endif
};

struct inactive_task_frame {
	unsigned long r15, r14, r13, r12;
	unsigned long bx;
	unsigned long bp;
	unsigned long ret_addr;
};

struct pt_regs {
	unsigned long r15, r14, r13, r12;
	unsigned long bp, bx;
	unsigned long r11, r10, r9, r8;
	unsigned long ax, cx, dx;
	unsigned long si, di;
	unsigned long orig_ax;
	unsigned long ip, cs, flags, sp, ss;
};

struct thread_struct {
	u64 tls_array[3];
	unsigned long sp;
	unsigned short es, ds, fsindex, gsindex;
	unsigned long fsbase;
	unsigned long gsbase;
	unsigned long cr2;
	unsigned long trap_nr;
	unsigned long error_code;
};

struct cred {
	atomic_t usage;
	kuid_t uid, gid;
	kuid_t suid, sgid;
	kuid_t euid, egid;
};

struct signal_struct {
	atomic_t sigcnt;
	atomic_t live;
	int nr_threads;
	struct list_head thread_head;
};

struct mm_struct {
	struct {
		atomic_t mm_count;
		unsigned long mmap_base;
		unsigned long task_size;
		pgd_t *pgd;
		atomic_t mm_users;
		int map_count;
		unsigned long total_vm;
		unsigned long start_code, end_code, start_data, end_data;
		unsigned long start_brk, brk, start_stack;
		unsigned long arg_start, arg_end, env_start, env_end;
	};
	unsigned long cpu_bitmap[1];
};

struct nsproxy {
	atomic_t count;
	struct uts_namespace *uts_ns;
	void *ipc_ns;
	struct mnt_namespace *mnt_ns;
};

struct task_struct {
	struct thread_info thread_info;
#ifdef PRINTK_RECORDS
	volatile long state;
#else
	unsigned int __state;
#endif
	void *stack;
	atomic_t usage;
	unsigned int flags;
	unsigned int ptrace;
	int on_cpu;
#ifdef PRINTK_RECORDS
	unsigned int cpu;
#endif
	int on_rq;
	int prio, static_prio, normal_prio;
	unsigned int rt_priority;
	unsigned long sched_entity[20] __aligned(64);
	int nr_cpus_allowed;
	struct list_head tasks;
	struct mm_struct *mm;
	struct mm_struct *active_mm;
	int exit_state;
	int exit_code;
	int exit_signal;
	unsigned int personality;
	unsigned sched_reset_on_fork : 1;
	unsigned sched_contributes_to_load : 1;
	unsigned : 0;
	unsigned in_execve : 1;
	unsigned in_iowait : 1;
	unsigned long atomic_flags;
#ifdef UBUNTU_4_15
	pid_t pid __at(2216);
#else
	pid_t pid;
#endif
	pid_t tgid;
	unsigned long stack_canary;
	struct task_struct *real_parent;
	struct task_struct *parent;
	struct list_head children;
	struct list_head sibling;
	struct task_struct *group_leader;
	struct pid *thread_pid;
	struct hlist_node pid_links[4];
#ifndef PERCPU_ORDINARY
	struct list_head thread_group;
#endif
	struct list_head thread_node;
	u64 utime, stime;
	unsigned long nvcsw, nivcsw;
	u64 start_time;
#ifdef PRINTK_RECORDS
	u64 real_start_time;
#else
	u64 start_boottime;
#endif
	const struct cred *real_cred;
	const struct cred *cred;
#ifdef UBUNTU_4_15
	char comm[16] __at(2640);
#else
	char comm[16];
#endif
	struct nsproxy *nsproxy;
	struct signal_struct *signal;
	unsigned long blocked;
	struct thread_struct thread __aligned(64);
#ifdef UBUNTU_4_15
} __size(9088);
#else
};
#endif

struct rq {
	u32 __lock;
	unsigned int nr_running;
	u64 nr_switches;
	unsigned long cfs[24] __aligned(64);
	struct task_struct *curr;
	struct task_struct *idle;
	struct task_struct *stop;
	u64 clock __aligned(64);
	int cpu;
	int online;
};

extern unsigned long init_stack[INIT_STACK_WORDS] __data __aligned(4096);
#ifdef UBUNTU_4_15
extern struct task_struct init_task __at(0xffffffff82413480) __data __aligned(64);
#else
extern struct task_struct init_task __data __aligned(64);
#endif
extern struct mm_struct init_mm __data;
extern struct nsproxy init_nsproxy __data;
extern struct cred init_cred __data;
extern struct signal_struct init_signals __data;

#ifndef PERCPU_ORDINARY
extern unsigned long fixed_percpu_data[6] __percpu;
#endif
extern int cpu_number __percpu;
extern unsigned long this_cpu_off __percpu;
extern struct task_struct *current_task __percpu;
extern struct rq runqueues __percpu __aligned(64);

void __switch_to_asm(void) { }
void __schedule(void) { __switch_to_asm(); }
void schedule(void) { __schedule(); }
void schedule_idle(void) { __schedule(); }
void default_idle(void) { }
void do_idle(void) { default_idle(); schedule_idle(); }
void kthreadd(void) { schedule(); }
void worker_thread(void) { schedule(); }
void smpboot_thread_fn(void) { schedule(); }
void rcu_gp_kthread(void) { schedule(); }
void kthread(void) { worker_thread(); smpboot_thread_fn(); rcu_gp_kthread(); }
void ret_from_fork(void) { kthread(); kthreadd(); }

void do_nanosleep(void) { schedule(); }
void hrtimer_nanosleep(void) { do_nanosleep(); }
void __x64_sys_clock_nanosleep(void) { hrtimer_nanosleep(); }
void schedule_hrtimeout_range(void) { schedule(); }
void ep_poll(void) { schedule_hrtimeout_range(); }
void do_epoll_wait(void) { ep_poll(); }
void __x64_sys_epoll_wait(void) { do_epoll_wait(); }
void do_wait(void) { schedule(); }
void kernel_wait4(void) { do_wait(); }
void __x64_sys_wait4(void) { kernel_wait4(); }
void schedule_timeout(void) { schedule(); }
void wait_woken(void) { schedule_timeout(); }
void n_tty_read(void) { wait_woken(); }
void vfs_read(void) { n_tty_read(); }
void ksys_read(void) { vfs_read(); }
void __x64_sys_read(void) { ksys_read(); }

void __const_udelay(void) { }
void panic(void) { __const_udelay(); }
void sysrq_handle_crash(void) { panic(); }
void __handle_sysrq(void) { sysrq_handle_crash(); }
void write_sysrq_trigger(void) { __handle_sysrq(); }
void vfs_write(void) { write_sysrq_trigger(); }
void ksys_write(void) { vfs_write(); }
void __x64_sys_write(void) { ksys_write(); }

void do_syscall_64(void)
{
	__x64_sys_read();
	__x64_sys_write();
	__x64_sys_wait4();
	__x64_sys_epoll_wait();
	__x64_sys_clock_nanosleep();
}
void entry_SYSCALL_64(void) { do_syscall_64(); }
