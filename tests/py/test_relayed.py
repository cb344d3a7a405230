import pytest

from nettlp_gdb.core import relayed
from nettlp_gdb.core.errors import TargetError

MAPS = "00400000-00401000 r--p 00000000 00:02 24                                 /bin/busybox\n"
FILES = "   FD RW     FLAGS        POS PATH\n    0 rw        02          0 /dev/null\n"


def test_a_process_is_named_by_its_number():
    assert relayed.command("maps", "871") == "maps 871"
    for wrong in ("", "-1", "1 2", "0x10", "init", "1\nquit"):
        with pytest.raises(TargetError, match="Provide a PID as integer value"):
            relayed.command("files", wrong)


def test_tables_are_passed_on_as_they_are():
    assert relayed.answer("maps", MAPS) == MAPS
    assert relayed.answer("files", FILES) == FILES
    torn = MAPS + "the list is incomplete: reading a maple tree at 0x10: damaged\n"
    assert relayed.answer("maps", torn) == torn


@pytest.mark.parametrize("name", ["maps", "files"])
@pytest.mark.parametrize("text, said", [
    ("there is no task with pid 5: `ps`, with threads, lists them all\n", "there is no task with pid 5"),
    ("pid 2 has no address space: it is a kernel thread, or has ended\n", "pid 2 has no address space"),
    ("refused: `memory.policy = \"kernel-only\"` of the profile keeps it\n", "refused: `memory.policy"),
    ("cannot read 8 bytes\n", "cannot read 8 bytes"),
    ("", "the server says nothing"),
])
def test_a_sentence_is_an_error(name, text, said):
    with pytest.raises(TargetError, match=said):
        relayed.answer(name, text)


def test_another_server_is_said_to_be_one():
    with pytest.raises(TargetError, match="this server has no `monitor maps`"):
        relayed.answer("maps", "there is no `monitor maps 1`; `monitor help` lists what there is\n")
