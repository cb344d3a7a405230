//! A target whose structures are damaged, or written to mislead: every walk ends, and says where.

use std::{process::Command, sync::Arc};

use nettlp_gdb::{
    addr::VirtAddr,
    kernel::{
        dmesg, module,
        task::{Scope, TaskList, Tasks},
    },
    machine::{Description, Machine, Printk},
    mem::PhysWrite,
    session::Session,
};

use crate::recording::{attach, images};

/// The demonstration machine, attached to, to be damaged afterwards.
struct Victim {
    machine: Machine,
    session: Session,
}

impl Victim {
    fn new() -> Self {
        let machine = Machine::demo().unwrap();
        let session = attach(&machine);
        Self { machine, session }
    }

    fn write(&self, addr: VirtAddr, value: u64) {
        let phys = self.session.kernel.memory.translate(addr).unwrap().phys;
        self.machine.memory().write(phys, &value.to_le_bytes()).unwrap();
        self.session.refresh();
    }

    fn offset(&self, structure: &str, path: &str) -> u64 {
        self.session.kernel.types.as_deref().unwrap().field(structure, path).unwrap().offset
    }

    fn tasks(&self, scope: Scope) -> TaskList {
        let kernel = &self.session.kernel;
        Tasks::resolve(kernel).unwrap().list(kernel, scope).unwrap()
    }

    /// Makes the `tasks` list of the third process lead to `target`, and lists.
    fn with_third_leading_to(&self, target: VirtAddr) -> TaskList {
        let third = self.tasks(Scope::Processes).tasks[2].addr;
        self.write(third.wrapping_add(self.offset("task_struct", "tasks.next")), target.raw());
        self.tasks(Scope::Processes)
    }
}

#[test]
fn a_task_list_that_leads_back_into_itself_ends() {
    let victim = Victim::new();
    let second = victim.tasks(Scope::Processes).tasks[1].addr;
    let list = victim.with_third_leading_to(second.wrapping_add(victim.offset("task_struct", "tasks")));
    assert_eq!(list.tasks.len(), 3, "what was met before the circle is kept");
    assert!(list.torn.unwrap().to_string().contains("leads back into itself"));
}

#[test]
fn a_task_list_into_nowhere_names_the_address() {
    for poison in [0, 0xdead_0000_0000_0100, u64::MAX] {
        let victim = Victim::new();
        let list = victim.with_third_leading_to(VirtAddr::new(poison));
        assert_eq!(list.tasks.len(), 3);
        let said = list.torn.unwrap().to_string();
        assert!(said.starts_with("walking the task list: cannot read") && said.contains("0x"), "{said}");
    }
}

#[test]
fn a_thread_met_twice_is_told() {
    let victim = Victim::new();
    let threads = victim.tasks(Scope::Threads).tasks;
    let thread = threads.iter().find(|task| Some(task.pid) != task.tgid).expect("the machine has threads");
    let node = thread.addr.wrapping_add(victim.offset("task_struct", "thread_node"));
    victim.write(node, node.raw());
    let list = victim.tasks(Scope::Threads);
    assert!(list.torn.unwrap().to_string().contains("met twice"));
}

#[test]
fn a_module_list_that_leads_back_into_itself_is_an_error() {
    let victim = Victim::new();
    let kernel = Arc::clone(&victim.session.kernel);
    let modules = module::list(&kernel).unwrap();
    let list = victim.offset("module", "list");
    victim.write(modules.last().unwrap().addr.wrapping_add(list), modules[0].addr.wrapping_add(list).raw());
    let said = module::list(&kernel).unwrap_err().to_string();
    assert!(said.contains("leads back into itself"), "{said}");
}

#[test]
fn a_log_of_impossible_size_is_refused() {
    let victim = Victim::new();
    let prb = victim.machine.symbol("prb").unwrap();
    let ring = victim.session.kernel.memory.read_ptr(prb).unwrap();
    for path in ["desc_ring.count_bits", "text_data_ring.size_bits"] {
        let victim = Victim::new();
        victim.write(ring.wrapping_add(victim.offset("printk_ringbuffer", path)), 0x3f);
        let said = dmesg::read(&victim.session.kernel).unwrap_err().to_string();
        assert!(said.contains(&format!("{path} is")), "{said}");
    }
}

/// `log_buf_len=64M`: the log stands where it stood, at the end of a ring that goes further down.
#[test]
fn a_log_of_64_mebibytes_is_read() {
    let victim = Victim::new();
    let whole = dmesg::read(&victim.session.kernel).unwrap();
    let memory = &victim.session.kernel.memory;
    let ring = memory.read_ptr(victim.machine.symbol("prb").unwrap()).unwrap();
    let at = |path| ring.wrapping_add(victim.offset("printk_ringbuffer", path));
    let (bits, data) = (at("text_data_ring.size_bits"), at("text_data_ring.data"));
    let (len, start) = (1 << memory.read_u32(bits).unwrap(), memory.read_u64(data).unwrap());
    victim.write(data, start - ((64 << 20) - len));
    victim.write(bits, 26);
    assert_eq!(dmesg::read(&victim.session.kernel).unwrap(), whole);
}

/// What an NMI printed on a CPU that never took the interrupt which moves it to the log.
#[test]
fn what_is_not_in_the_log_yet_is_shown_behind_it() {
    let printk = Printk::Records { buffer_bits: 12 };
    let machine = Machine::build(&Description { printk, ..Description::demo() }).unwrap();
    let victim = Victim { session: attach(&machine), machine };
    let offset = |member| victim.offset("printk_safe_seq_buf", member);
    let cpu = victim.machine.truth().cpus[1].per_cpu_offset;
    let symbols = victim.session.kernel.symbols.as_ref().unwrap();
    let buffer = symbols.find("nmi_print_seq").unwrap().wrapping_add(cpu);
    victim.write(buffer.wrapping_add(offset("buffer")), u64::from_le_bytes(*b"\x010LOCKUP"));
    assert!(dmesg::read(&victim.session.kernel).unwrap().unlogged.is_empty());
    victim.write(buffer.wrapping_add(offset("len")), 8);

    let log = dmesg::read(&victim.session.kernel).unwrap();
    let mut text = String::new();
    nettlp_gdb::render::dmesg(&mut text, log.messages()).unwrap();
    assert_eq!(text.lines().last(), Some("[CPU 1, not in the log yet] LOCKUP"));
    assert_eq!(text.lines().count(), victim.machine.truth().log.len() + 1);
    let json = serde_json::to_string(&log.messages().last().unwrap()).unwrap();
    assert_eq!(json, r#"{"unlogged_on_cpu":1,"level":0,"text":"LOCKUP"}"#);
    // More than the buffer holds is damage: what it holds is shown.
    victim.write(buffer.wrapping_add(offset("len")), 0xffff_fff0);
    assert!(dmesg::read(&victim.session.kernel).unwrap().unlogged[0].text.starts_with("LOCKUP\0"));
}

#[test]
fn a_damaged_message_is_missed() {
    let victim = Victim::new();
    let whole = dmesg::read(&victim.session.kernel).unwrap();
    assert_eq!((whole.lost, whole.loss()), (0, None));
    victim.write(victim.machine.symbol("__log_buf").unwrap(), 0xbad);
    let damaged = dmesg::read(&victim.session.kernel).unwrap();
    assert_eq!((damaged.records.len(), damaged.lost), (whole.records.len() - 1, 1));

    let directory = tempfile::tempdir().unwrap();
    let vmlinux = directory.path().join("vmlinux");
    std::fs::write(&vmlinux, victim.machine.vmlinux().unwrap()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_nettlp-gdb"));
    command.env_remove("RUST_LOG").args(["dmesg", "--json", "--vmlinux"]).arg(vmlinux);
    let output = command.args(images(&victim.machine, &directory)).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("1 message of the kernel log is damaged"), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap().lines().count();
    assert_eq!(lines, damaged.records.len());
}
