"""`ps`, `dmesg` and `info` against the guest and against drgn."""

import json

import truth
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


def test_ps_equals_drgn(said):
    keys = ("pid", "tgid", "ppid", "comm", "state", "cpu")
    ours = {(int(task["addr"], 16), *(task[key] for key in keys)) for task in objects(said.moment.ps)}
    assert ours == said.moment.drgn_tasks


def test_ps_without_threads_lists_processes(said):
    ours = {task["pid"] for task in objects(said.moment.leaders)}
    assert ours == {pid for _, pid, tgid, *_ in said.moment.drgn_tasks if pid == tgid}
    assert len(ours) < len(said.moment.drgn_tasks)


def test_info_equals_drgn_and_kallsyms(said, observed):
    [info] = objects(said.moment.info)
    expected = said.moment.drgn_info
    number = {key: int(value, 16) for key, value in info.items() if isinstance(value, str) and value.startswith("0x")}

    assert info["release"] == observed.release
    assert info["banner"].strip() == expected["banner"].strip()
    assert info["build_id"] == expected["build_id"]
    assert info["levels"] == (4 if observed.name == "kaslr-4level" else 5)

    assert number["text"] == observed.symbols["_text"]
    assert number["init_task"] == observed.symbols["init_task"]
    assert number["slide"] == observed.symbols["_text"] - LINKED_TEXT
    assert (number["slide"] == 0) == (observed.name == "nokaslr")

    assert number["text_phys"] == observed.code[0]
    assert number["root"] == (observed.symbols["init_top_pgt"] - KERNEL_MAP + expected["phys_base"]) & MASK
    for name in ("phys_base", "page_offset_base", "vmalloc_base", "vmemmap_base"):
        assert number[name] == expected[name], name


def test_info_knows_the_guests_ram(said, observed):
    [info] = objects(said.moment.info)
    assert [(int(start, 16), int(end, 16)) for start, end in info["ram"]] == observed.ram


def test_info_knows_the_guests_cpus(said, observed):
    [info] = objects(said.moment.info)
    cpus = {
        cpu["cpu"]: (cpu["online"], int(cpu["per_cpu_offset"], 16), int(cpu["current"], 16)) for cpu in info["cpus"]
    }
    assert cpus == said.moment.drgn_info["cpus"]
    assert len(cpus) == observed.cpus
