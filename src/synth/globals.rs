//! Well-known variables and their types, which BTF does not tell: up to 7.2 it has the per-CPU ones at most.
//!
//! The table names what debugger scripts read (the kernel's own `scripts/gdb`, ours, drgn's helpers). An entry whose
//! symbol or type a kernel does not have is left out; of two entries with one name the first whose type exists counts,
//! so a type that changed is listed twice. Source: the declarations in the kernel trees 5.10 to 7.2.

/// A variable. Its type is a C name as BTF has it (`struct page`, `long unsigned int`), or `struct { a b }` for the one
/// without a name that has these members; then pointers to it, and an array of those.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Global {
    pub(super) name: &'static str,
    pub(super) ty: &'static str,
    pub(super) pointers: u32,
    pub(super) array: Array,
    /// Struct and member without which the entry does not count.
    pub(super) needs: Option<(&'static str, &'static str)>,
}

/// Whether the variable is an array of its type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Array {
    /// It is not.
    No,
    /// As many as the symbol has room for.
    Open,
    /// One for each possible CPU (`NR_CPUS`).
    PerCpu,
    /// So many in every kernel, where padding would be taken for more.
    Of(u64),
    /// As many as this enumerator of this enum says.
    Enum(&'static str, &'static str),
    /// As many as the symbol has room for, or a pointer to the first where that is one or a few.
    OrPointer,
}

const fn of(name: &'static str, ty: &'static str) -> Global {
    Global { name, ty, pointers: 0, array: Array::No, needs: None }
}

const fn pointer(name: &'static str, ty: &'static str) -> Global {
    Global { pointers: 1, ..of(name, ty) }
}

const fn array(name: &'static str, ty: &'static str) -> Global {
    Global { array: Array::Open, ..of(name, ty) }
}

const fn counters(name: &'static str, of_enum: &'static str, last: &'static str) -> Global {
    Global { array: Array::Enum(of_enum, last), ..of(name, "atomic_long_t") }
}

const LONG: &str = "long unsigned int";
const INT: &str = "int";
const UINT: &str = "unsigned int";

pub(super) const GLOBALS: &[Global] = &[
    // Tasks, namespaces, identity.
    of("init_task", "struct task_struct"),
    of("init_mm", "struct mm_struct"),
    of("init_pid_ns", "struct pid_namespace"),
    of("init_uts_ns", "struct uts_namespace"),
    of("init_user_ns", "struct user_namespace"),
    of("init_nsproxy", "struct nsproxy"),
    of("init_net", "struct net"),
    of("init_cred", "struct cred"),
    of("init_signals", "struct signal_struct"),
    of("init_sighand", "struct sighand_struct"),
    of("init_files", "struct files_struct"),
    of("init_fs", "struct fs_struct"),
    of("init_thread_union", "union thread_union"),
    of("root_task_group", "struct task_group"),
    of("init_css_set", "struct css_set"),
    of("cgrp_dfl_root", "struct cgroup_root"),
    Global { array: Array::Of(9), ..pointer("task_state_array", "const char") },
    of("pid_max", INT),
    of("nr_threads", INT),
    of("total_forks", LONG),
    array("linux_banner", "const char"),
    array("linux_proc_banner", "const char"),
    array("boot_command_line", "char"),
    pointer("saved_command_line", "char"),
    // The log.
    pointer("prb", "struct printk_ringbuffer"),
    of("printk_rb_static", "struct printk_ringbuffer"),
    pointer("log_buf", "char"),
    of("log_buf_len", "u32"),
    of("log_first_idx", "u32"),
    of("log_next_idx", "u32"),
    of("clear_seq", "struct latched_seq"),
    pointer("console_drivers", "struct console"),
    of("console_list", "struct hlist_head"),
    // CPUs.
    Global { array: Array::PerCpu, ..of("__per_cpu_offset", LONG) },
    of("__cpu_possible_mask", "struct cpumask"),
    of("__cpu_present_mask", "struct cpumask"),
    of("__cpu_online_mask", "struct cpumask"),
    of("__cpu_active_mask", "struct cpumask"),
    of("__cpu_dying_mask", "struct cpumask"),
    of("nr_cpu_ids", UINT),
    of("nr_node_ids", UINT),
    of("__num_online_cpus", "atomic_t"),
    of("boot_cpu_data", "struct cpuinfo_x86"),
    array("idt_table", "gate_desc"),
    of("panic_cpu", "atomic_t"),
    of("crash_kexec_post_notifiers", "bool"),
    // Modules and symbols.
    of("modules", "struct list_head"),
    of("mod_tree", "struct mod_tree_root"),
    pointer("module_kset", "struct kset"),
    of("bpf_kallsyms", "struct list_head"),
    of("prog_idr", "struct idr"),
    of("map_idr", "struct idr"),
    // Memory.
    of("page_offset_base", LONG),
    of("vmalloc_base", LONG),
    of("vmemmap_base", LONG),
    of("phys_base", LONG),
    of("sme_me_mask", "u64"),
    of("physical_mask", "phys_addr_t"),
    of("__default_kernel_pte_mask", "pteval_t"),
    of("pgdir_shift", UINT),
    of("ptrs_per_p4d", UINT),
    of("__pgtable_l5_enabled", UINT),
    array("init_top_pgt", "pgd_t"),
    of("max_pfn", LONG),
    of("min_low_pfn", LONG),
    of("max_low_pfn", LONG),
    pointer("high_memory", "void"),
    of("_totalram_pages", "atomic_long_t"),
    of("memblock", "struct memblock"),
    pointer("e820_table", "struct e820_table"),
    Global { array: Array::Open, ..pointer("node_data", "pg_data_t") },
    of("contig_page_data", "struct pglist_data"),
    array("node_states", "nodemask_t"),
    Global { pointers: 2, ..of("mem_section", "struct mem_section") },
    of("slab_caches", "struct list_head"),
    pointer("kmem_cache", "struct kmem_cache"),
    of("vmap_area_list", "struct list_head"),
    of("vmap_area_root", "struct rb_root"),
    pointer("vmap_nodes", "struct vmap_node"),
    of("nr_vmap_nodes", UINT),
    counters("vm_node_stat", "node_stat_item", "NR_VM_NODE_STAT_ITEMS"),
    counters("vm_zone_stat", "zone_stat_item", "NR_VM_ZONE_STAT_ITEMS"),
    Global { array: Array::Open, ..pointer("swap_info", "struct swap_info_struct") },
    of("nr_swapfiles", UINT),
    of("page_ext_size", LONG),
    Global { array: Array::OrPointer, ..pointer("stack_pools", "void") },
    of("pools_num", INT),
    of("stack_depot_disabled", "bool"),
    // Resources, devices, interrupts.
    of("iomem_resource", "struct resource"),
    of("ioport_resource", "struct resource"),
    of("sparse_irqs", "struct maple_tree"),
    of("irq_desc_tree", "struct xarray"),
    of("irq_desc_tree", "struct radix_tree_root"),
    of("nr_irqs", INT),
    array("irq_stat_info", "struct irq_stat_info"),
    array("irq_stat_count_show", LONG),
    of("irq_proc_constraints", "struct irq_proc_constraints"),
    of("total_nr_irqs", UINT),
    of("irq_err_count", "atomic_t"),
    of("irq_mis_count", "atomic_t"),
    of("platform_bus", "struct device"),
    pointer("bus_kset", "struct kset"),
    pointer("class_kset", "struct kset"),
    pointer("devices_kset", "struct kset"),
    of("clk_root_list", "struct hlist_head"),
    of("clk_orphan_list", "struct hlist_head"),
    of("gpd_list", "struct list_head"),
    of("pci_root_buses", "struct list_head"),
    of("block_class", "struct class"),
    // Time.
    of("jiffies_64", "u64"),
    of("jiffies", "volatile long unsigned int"),
    of("tk_core", "struct tk_data"),
    of("tk_core", "struct { seq timekeeper }"),
    array("timekeeper_data", "struct tk_data"),
    of("hrtimer_resolution", UINT),
    of("tick_broadcast_device", "struct tick_device"),
    of("tick_broadcast_oneshot_mask", "cpumask_var_t"),
    of("tick_broadcast_mask", "cpumask_var_t"),
    of("nohz_full_running", "bool"),
    pointer("curr_clocksource", "struct clocksource"),
    // Files.
    of("super_blocks", "struct list_head"),
    Global { needs: Some(("file_system_type", "list")), ..of("file_systems", "struct hlist_head") },
    Global {
        needs: Some(("file_system_type", "next")),
        ..pointer("file_systems", "struct file_system_type")
    },
    pointer("mount_hashtable", "struct hlist_head"),
    pointer("dentry_hashtable", "struct hlist_bl_head"),
    pointer("inode_hashtable", "struct hlist_head"),
    pointer("sysfs_root_kn", "struct kernfs_node"),
    // Network.
    of("net_namespace_list", "struct list_head"),
    of("tcp_hashinfo", "struct inet_hashinfo"),
    // Work.
    of("workqueues", "struct list_head"),
    of("worker_pool_idr", "struct idr"),
    pointer("system_wq", "struct workqueue_struct"),
    of("kthread_create_list", "struct list_head"),
    pointer("kthreadd_task", "struct task_struct"),
    // Per-CPU ones, for a BTF that leaves them out (5.10 as some distributions built it).
    of("runqueues", "struct rq"),
    pointer("current_task", "struct task_struct"),
    of("pcpu_hot", "struct pcpu_hot"),
    of("cpu_number", INT),
    of("cpu_info", "struct cpuinfo_x86"),
    of("cpu_tlbstate", "struct tlb_state"),
    of("irq_stat", "irq_cpustat_t"),
    of("process_counts", LONG),
    of("tick_cpu_device", "struct tick_device"),
    of("hrtimer_bases", "struct hrtimer_cpu_base"),
];

/// Variables that scripts ask for as those of a file, such as `'printk.c'::prb`: a unit of that name has them.
pub(super) const FILES: &[(&str, &[&str])] = &[(
    "kernel/printk/printk.c",
    &["prb", "printk_rb_static", "log_buf", "log_buf_len", "log_first_idx", "log_next_idx", "clear_seq"],
)];
