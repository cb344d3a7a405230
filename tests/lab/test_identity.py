"""Who the kernel is, from its memory alone and with one source after another damaged: nothing is refused, nothing is wrong."""

import contextlib
import json
import mmap
import re
import subprocess

import pytest
from lab.guest import GIB, image_arguments
from test_costs import wipe_trampoline

PAGE = 0x1000
SLOT = 2 << 20
LINKED_TEXT = 0xFFFFFFFF81000000
HEADER = 0x18
NOTE_NAME = b"VMCOREINFO\0\0"
BANNER = b"Linux version "

# With the trampoline in place. Two slides that contradict each other are settled by boot_params, which is searched for.
MAX_REQUESTS = 1000
MAX_TO_SETTLE = 40_000

# Found without one, all that is damaged being a note.
SAME = ["release", "banner", "distribution", "build_id", "text", "text_phys", "phys_base", "slide", "root", "levels",
        "page_offset_base", "vmalloc_base", "vmemmap_base", "sme_mask", "init_task", "ram"]


class Image:
    """A guest's RAM that may be written to; `changed` takes every change back."""

    def __init__(self, path, ram):
        self.path, self.ram = path, ram
        self._file = path.open("r+b")
        self.bytes = mmap.mmap(self._file.fileno(), 0)

    def close(self):
        self.bytes.close()
        self._file.close()

    def pages_that_begin(self, start: bytes, skip: int = 0) -> list[int]:
        found, at = [], self.bytes.find(start)
        while at >= 0:
            if (at - skip) % PAGE == 0:
                found.append(at - skip)
            at = self.bytes.find(start, at + 1)
        return found

    def notes(self) -> list[int]:
        return self.pages_that_begin(NOTE_NAME, 0xC)

    def texts(self) -> list[int]:
        return self.pages_that_begin(b"OSRELEASE=")

    @contextlib.contextmanager
    def changed(self, *changes):
        """Applies changes, each a function of the image that yields (offset, bytes)."""
        undo = []
        try:
            for change in changes:
                for at, new in list(change(self)):
                    undo.append((at, self.bytes[at:at + len(new)]))
                    self.bytes[at:at + len(new)] = new
            assert undo, "nothing was damaged"
            yield
        finally:
            for at, old in reversed(undo):
                self.bytes[at:at + len(old)] = old


@pytest.fixture(scope="module")
def image(at_rest, tmp_path_factory):
    rest = at_rest(GIB)
    copy = tmp_path_factory.mktemp("identity") / "ram"
    subprocess.run(["cp", "--sparse=always", rest.ram_file, copy], check=True)
    image = Image(copy, rest.ram)
    yield image
    image.close()
    copy.unlink()


def info(binary, image, *options) -> tuple[dict, int]:
    """What `info` says, and the requests it took."""
    command = [binary, "info", "--json", "--stats", *image_arguments(image.path, image.ram), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), int(re.search(r"attach: (\d+) requests", done.stderr)[1])


@pytest.fixture(scope="module")
def whole(image, binary) -> dict:
    return info(binary, image)[0]


def dropped(found: dict, what: str) -> list[str]:
    return [line["detail"] for line in found["evidence"] if line["what"] == what and line["confidence"] == "dropped"]


def line_of(found: dict, what: str) -> dict:
    [line] = [line for line in found["evidence"] if line["what"] == what and line["confidence"] != "dropped"]
    return line


def test_every_value_is_right_and_has_its_evidence(whole, at_rest, kernel):
    rest = at_rest(GIB)
    build_id = re.search(r"Build ID: ([0-9a-f]{40})", run_readelf(kernel.vmlinux))[1]
    assert whole["release"] == kernel.release
    assert whole["build_id"] == build_id
    assert whole["distribution"] == "Debian"
    assert int(whole["text"], 16) == rest.symbols["_text"]
    assert int(whole["text_phys"], 16) == rest.code[0]
    assert int(whole["slide"], 16) == rest.symbols["_text"] - LINKED_TEXT
    assert int(whole["init_task"], 16) == rest.symbols["init_task"]
    names = {"build_id": "build id", "text_phys": "phys_base"}
    for key in SAME:
        line = line_of(whole, names.get(key, key))
        assert line["method"] and line["detail"] and line["confidence"] in ("proved", "found"), key


def run_readelf(vmlinux) -> str:
    return subprocess.run(["readelf", "-n", vmlinux], capture_output=True, text=True, check=True).stdout


def value(key: str, new: str):
    """The value of `key` in every copy, its length kept."""
    def change(image):
        for page in image.notes() + image.texts():
            at = image.bytes.find(f"\n{key}=".encode(), page, page + PAGE)
            at = at + 1 if at >= 0 else image.bytes.find(f"{key}=".encode(), page, page + PAGE)
            assert at >= 0, key
            start, end = at + len(key) + 1, image.bytes.find(b"\n", at)
            yield start, new.encode().ljust(end - start, b"0")[:end - start]
    return change


def header(at: int, word: int):
    def change(image):
        for page in image.notes():
            yield page + at, word.to_bytes(4, "little")
        yield from wiped_texts(image)
    return change


def wiped_texts(image):
    for page in image.texts():
        yield page, bytes(PAGE)


def wiped_notes(image):
    for page in image.notes():
        yield page, bytes(PAGE)


def cut_short(image):
    for page in image.notes():
        length = int.from_bytes(image.bytes[page + 4:page + 8], "little")
        yield page + 4, (length - 5).to_bytes(4, "little")
    yield from wiped_texts(image)


def half_wiped(image):
    for start in [page + HEADER for page in image.notes()] + image.texts():
        middle = image.bytes.find(b"=", start + 1500)
        yield middle, bytes(PAGE - HEADER - (middle - start))


def without_newlines(image):
    for start in [page + HEADER for page in image.notes()] + image.texts():
        end = image.bytes.find(b"\0", start)
        yield start, image.bytes[start:end].replace(b"\n", b" ")


def huge_line(image):
    for start in [page + HEADER for page in image.notes()] + image.texts():
        yield start, image.bytes[start:start + 1000].replace(b"\n", b" ")


def wiped_banners(image):
    """What read-only data begins with."""
    for slot in range(0, len(image.bytes), SLOT):
        at = image.bytes.find(BANNER, slot, slot + PAGE)
        if at >= 0:
            yield at, bytes(len(BANNER))


DAMAGES = {
    "wiped": (wiped_notes, "it is wiped"),
    "release": (value("OSRELEASE", "5.4.99"), "it says 5.4.99"),
    "phys_base": (value("NUMBER(phys_base)", "12345"), "its phys_base is"),
    "slide of another boot": (value("KERNELOFFSET", "200000"), "its KERNELOFFSET is"),
    "impossible slide": (value("KERNELOFFSET", "fffffff"), "KERNELOFFSET"),
    "page table": (value("SYMBOL(swapper_pg_dir)", "ffffffff81001"), "its swapper_pg_dir"),
    "text": (value("SYMBOL(_stext)", "ffffffffbff"), "its _stext is"),
    "depth": (value("NUMBER(pgtable_l5_enabled)", "7"), "its pgtable_l5_enabled is"),
    "encryption": (value("NUMBER(sme_mask)", "8"), "its sme_mask is"),
    "name length": (header(0, 3), "its note header"),
    "text length": (header(4, 0xFFFFFFFF), "its note header"),
    "note type": (header(8, 3), "its note header"),
    "cut short": (cut_short, "its last line does not end"),
    "half wiped": (half_wiped, "its last line does not end"),
    "no newlines": (without_newlines, "its last line does not end"),
    "huge line": (huge_line, "it has a line of"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_note_is_dropped_with_a_sentence(damage, image, whole, binary, figure):
    change, sentence = DAMAGES[damage]
    with image.changed(change):
        found, requests = info(binary, image)
    assert {key: found[key] for key in SAME} == {key: whole[key] for key in SAME}
    said = dropped(found, "VMCOREINFO")
    assert any(sentence in line for line in said), said
    assert requests <= (MAX_TO_SETTLE if "slide of" in damage or "impossible" in damage else MAX_REQUESTS)
    figure(f"info, 1 GiB guest, VMCOREINFO damaged ({damage}): {requests} requests")


def test_without_vmcoreinfo_it_stays_cheap(image, whole, binary, figure):
    with image.changed(wiped_notes, wiped_texts):
        found, requests = info(binary, image)
    assert {key: found[key] for key in SAME} == {key: whole[key] for key in SAME}
    assert line_of(found, "slide")["confidence"] == "guessed"
    assert requests <= MAX_REQUESTS
    figure(f"info, 1 GiB guest, no VMCOREINFO: {requests} requests")


def test_a_garbage_build_id_loses_against_the_notes(image, whole, binary):
    with image.changed(value("BUILD-ID", "deadbeef" * 5)):
        found, _ = info(binary, image)
    assert {key: found[key] for key in SAME} == {key: whole[key] for key in SAME}
    assert line_of(found, "build id")["method"] == ".notes"
    assert any("is not what .notes has" in line for line in dropped(found, "build id"))


@pytest.mark.parametrize(
    ("method", "changes"),
    [
        ("banner at 2 MiB", ()),
        ("banner at 2 MiB", (wiped_notes, wiped_texts)),
        ("VMCOREINFO", (wiped_banners,)),
        ("VMCOREINFO", (wiped_banners, wiped_notes)),
        ("page tables", (wiped_banners, wiped_notes, wiped_texts)),
        ("page tables", (wiped_banners, value("NUMBER(phys_base)", "12345"))),
        ("page tables", (wiped_banners, without_newlines)),
    ],
)
def test_without_the_trampoline(method, changes, image, whole, binary, figure):
    """And without types or symbols: RAM's ranges are all that is known."""
    low = image.bytes[:0xA0000]
    try:
        assert wipe_trampoline(image.path) > 0
        with image.changed(*changes) if changes else contextlib.nullcontext():
            found, requests = info(binary, image)
    finally:
        image.bytes[:0xA0000] = low
    assert line_of(found, "text")["method"] == method
    assert {key: found[key] for key in SAME} == {key: whole[key] for key in SAME}
    figure(f"info, 1 GiB guest, no trampoline, {method}: {requests} requests")
