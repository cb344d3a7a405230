"""`ps`, `dmesg` and `info` against the guest and against drgn."""

import json

import truth
from drgn.helpers.linux.mm import page_size  # noqa: F401  (fails early where drgn has no Linux helpers)
from drgn.helpers.linux.cpumask import for_each_online_cpu
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.sched import cpu_curr, task_cpu, task_state_to_char
from test_gdb import compare

KERNEL_MAP = 0xFFFF_FFFF_8000_0000
LINKED_TEXT = 0xFFFF_FFFF_8100_0000
MASK = (1 << 64) - 1


def objects(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_ps_lists_exactly_the_guests_tasks(said):
    listed = [(task["pid"], task["comm"]) for task in objects(said.ps)]
    assert set(listed) == said.tasks
    assert len(listed) == len(said.tasks)


def test_dmesg_is_the_guests_dmesg(said):
    shown = [
        truth.Line(record["ts_nsec"] // 1000, line)
        for record in objects(said.dmesg)
        for line in record["text"].split("\n")
    ]
    assert truth.same_log(shown, said.log), compare(shown, said.log)


def test_ps_equals_drgn(at_one_moment):
    lab, program = at_one_moment
    ours = {
        (int(task["addr"], 16), task["pid"], task["tgid"], task["ppid"], task["comm"], task["state"], task["cpu"])
        for task in objects(lab.bench.run("ps", "--threads", "--json"))
    }
    theirs = {
        (
            task.value_(), task.pid.value_(), task.tgid.value_(), task.real_parent.tgid.value_(),
            task.comm.string_().decode(), task_state_to_char(task), task_cpu(task),
        )
        for task in [program["init_task"].address_of_(), *for_each_task(program)]
    }
    assert ours == theirs


def test_ps_without_threads_lists_processes(at_one_moment):
    lab, program = at_one_moment
    ours = {task["pid"] for task in objects(lab.bench.run("ps", "--json"))}
    assert ours == {0} | {task.pid.value_() for task in for_each_task(program) if task.pid == task.tgid}


def test_info_equals_drgn_and_kallsyms(at_one_moment):
    lab, program = at_one_moment
    [info] = objects(lab.bench.run("info", "--json"))
    number = {key: int(value, 16) for key, value in info.items() if isinstance(value, str) and value.startswith("0x")}

    assert info["release"] == lab.kernel.release
    assert info["banner"].strip() == program["linux_banner"].string_().decode().strip()
    assert info["build_id"] == program.main_module().build_id.hex()
    assert info["levels"] == (4 if lab.name == "kaslr-4level" else 5)

    assert number["text"] == lab.symbols["_text"]
    assert number["init_task"] == lab.symbols["init_task"]
    assert number["slide"] == lab.symbols["_text"] - LINKED_TEXT
    assert (number["slide"] == 0) == (lab.name == "nokaslr")

    phys_base = program["phys_base"].value_()
    assert number["phys_base"] == phys_base
    assert number["text_phys"] == lab.code[0]
    assert number["root"] == (lab.symbols["init_top_pgt"] - KERNEL_MAP + phys_base) & MASK
    for name in ("page_offset_base", "vmalloc_base", "vmemmap_base"):
        assert number[name] == program[name].value_(), name

    assert [(int(start, 16), int(end, 16)) for start, end in info["ram"]] == lab.ram

    online = set(for_each_online_cpu(program))
    per_cpu_offset = program["__per_cpu_offset"]
    for cpu in info["cpus"]:
        assert cpu["online"] == (cpu["cpu"] in online)
        assert int(cpu["per_cpu_offset"], 16) == per_cpu_offset[cpu["cpu"]].value_()
        assert int(cpu["current"], 16) == cpu_curr(program, cpu["cpu"]).value_()
    assert len(info["cpus"]) == lab.guest.machine.cpus
