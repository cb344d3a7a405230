/* include/linux/pid.h, include/linux/xarray.h, kernel/pid.c: tasks by number. */

struct xarray {
	u32 xa_lock;
	unsigned int xa_flags;
	void *xa_head;
};

struct xa_node {
	unsigned char shift;
	unsigned char offset;
	unsigned char count;
	unsigned char nr_values;
	struct xa_node *parent;
	struct xarray *array;
	struct list_head private_list;
	void *slots[64];
};

struct idr {
	struct xarray idr_rt;
	unsigned int idr_base;
	unsigned int idr_next;
};

struct upid {
	int nr;
	struct pid_namespace *ns;
};

struct pid {
	atomic_t count;
	unsigned int level;
	struct hlist_head tasks[4];
	struct upid numbers[1];
};

struct pid_namespace {
	struct idr idr;
	unsigned int pid_allocated;
	unsigned int level;
	struct task_struct *child_reaper;
};

extern struct pid_namespace init_pid_ns __data;
