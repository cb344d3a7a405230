"""The lab's own arithmetic: RAM maps, the cache, processes. Needs no guest."""

import sys

import pytest
from lab import bench_link, bench_symbols, cache, fetch, process, written
from lab.guest import GIB, MIB, Segment, image_arguments, q35_ram, ram_arguments

PARTS = ["vmlinuz", "vmlinux", "config"]


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (GIB, [Segment(0, 0, GIB)]),
        (2815 * MIB, [Segment(0, 0, 2815 * MIB)]),
        (2816 * MIB, [Segment(0, 0, 2 * GIB), Segment(4 * GIB, 2 * GIB, 768 * MIB)]),
        (8 * GIB, [Segment(0, 0, 2 * GIB), Segment(4 * GIB, 2 * GIB, 6 * GIB)]),
    ],
)
def test_q35_splits_ram_at_its_limit(size, expected):
    assert q35_ram(size) == expected


def test_arguments_describe_every_segment(tmp_path):
    small, large = q35_ram(GIB), q35_ram(8 * GIB)
    assert image_arguments(tmp_path / "ram", small) == ["--image", f"{tmp_path}/ram@0x0"]
    assert image_arguments(tmp_path / "ram", large) == [
        "--image", f"{tmp_path}/ram@0x0,offset=0x0,len=0x80000000",
        "--image", f"{tmp_path}/ram@0x100000000,offset=0x80000000,len=0x180000000",
    ]
    assert ram_arguments(large) == ["--ram", "0x0-0x80000000", "--ram", "0x100000000-0x280000000"]


def test_a_cache_entry_is_complete_or_absent(tmp_path):
    entry = tmp_path / "kernels" / "6.1"
    with pytest.raises(RuntimeError):
        with cache.fill(entry) as directory:
            (directory / "half").touch()
            raise RuntimeError
    assert list(entry.parent.iterdir()) == []
    with cache.fill(entry) as directory:
        (directory / "whole").touch()
    assert [path.name for path in entry.iterdir()] == ["whole"]
    with cache.fill(entry):
        pass
    assert [path.name for path in entry.iterdir()] == ["whole"]


def test_the_cache_is_where_the_user_wants_it(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("NETTLP_GDB_CACHE", raising=False)
    assert cache.root() == tmp_path / "nettlp-gdb"
    monkeypatch.setenv("NETTLP_GDB_CACHE", str(tmp_path / "elsewhere"))
    assert cache.root() == tmp_path / "elsewhere"


def test_without_network_the_last_system_kernel_serves(monkeypatch, tmp_path, capsys):
    def offline(update):
        raise fetch.FetchError("apt is offline")

    monkeypatch.setenv("NETTLP_GDB_CACHE", str(tmp_path))
    monkeypatch.setattr(fetch, "current_release", offline)
    with pytest.raises(fetch.FetchError, match="offline"):
        fetch.kernel()
    # One that apt named and whose download broke, one that was whole, and one of another suite.
    for release, parts in (("6.1.0-2", ["vmlinuz"]), ("6.1.0-1", PARTS), ("6.12.0-1", PARTS)):
        directory = tmp_path / "kernels" / release
        directory.mkdir(parents=True)
        for part in parts:
            (directory / f"{part}-{release}").touch()
    mark = tmp_path / "kernels" / ".system"
    mark.write_text("6.1.0-2")
    with pytest.raises(fetch.FetchError, match="offline"):
        fetch.kernel()
    mark.write_text("6.1.0-1")
    assert fetch.kernel().release == "6.1.0-1"
    assert "offline" in capsys.readouterr().err


def test_a_process_that_ends_early_is_told_with_its_words(tmp_path):
    log = tmp_path / "log"
    child = process.start([sys.executable, "-c", "print('no such adapter'); raise SystemExit(3)"], log)
    with pytest.raises(process.ProcessError, match="no such adapter"):
        process.wait_bound(child, log, "tcp", ("127.0.0.1", 1), 30)
    assert process.stop(child) == 3


def test_a_listening_process_is_seen_without_connecting(tmp_path):
    log, port = tmp_path / "log", process.free_port()
    program = f"import socket, time; s = socket.create_server(('127.0.0.1', {port})); s.settimeout(60); s.accept(); print('seen')"
    child = process.start([sys.executable, "-c", program], log)
    process.wait_bound(child, log, "tcp", ("127.0.0.1", port), 30)
    assert process.stop(child) == -15
    assert log.read_text() == ""


def test_the_table_of_figures_is_replaced_and_nothing_else(tmp_path):
    rows = [bench_link.Row(12, "dump", "MiB/s", 71.32, "one read at a time", 3.91, 18.24), bench_link.Row(12, "attach", "ms", 44.4, "drgn", 5299.0, 119.4, "a note")]
    part = written.Part(tmp_path / "performance.md", "scripts/bench")
    before = bench_link.FIGURES.document.read_text()
    part.document.write_text(before)
    part.write(bench_link.page(rows, "On a machine."))
    table = part.read()
    assert "| 12 | dump, MiB/s | 71.3 | one read at a time | 3.91 | 18.2 |\n| 12 | attach, ms | 44.4 | drgn | 5299 | 119.4 |" in table
    assert "On a machine." in table and "* attach at 12 us: a note." in table
    assert part.document.read_text() == before.replace(bench_link.FIGURES.read(), table)


def test_each_side_of_the_symbols_table_is_its_median():
    memory = [bench_symbols.Took(answered, cpu) for answered, cpu in ((0.7, 0.5), (0.6, 0.4), (9.0, 9.0))]
    distribution = [bench_symbols.Took(1.4, 10.0)]
    assert bench_symbols.row("6.1", memory, distribution) == "| 6.1 | 0.50 | 10.00 | 20.0 | 0.70 | 1.40 | 2.0 |"
    assert bench_symbols.FIGURES.read()
