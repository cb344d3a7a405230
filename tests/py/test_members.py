"""Member look-up over the part of `gdb.Type` that it uses."""

from types import SimpleNamespace

import pytest

from nettlp_gdb.core import members


class Type:
    def __init__(self, sizeof, fields=None):
        self.sizeof = sizeof
        self._fields = fields

    def strip_typedefs(self):
        return self

    def fields(self):
        if self._fields is None:
            raise TypeError("not a structure")
        return self._fields


def field(name, kind, offset, bitsize=0):
    return SimpleNamespace(name=name, type=kind, bitpos=offset * 8, bitsize=bitsize)


INT, POINTER = Type(4), Type(8)
LIST = Type(16, [field("next", POINTER, 0), field("prev", POINTER, 8)])
ANONYMOUS = Type(16, [field("mnt_list", LIST, 0), field("flags", INT, 0)])
MOUNT = Type(64, [field("id", INT, 0), field("bits", INT, 4, bitsize=3), field(None, ANONYMOUS, 16),
                  field("", Type(8, [field("last", POINTER, 0)]), 40)])


@pytest.mark.parametrize("path, place", [
    ("id", (0, 4)),
    ("mnt_list", (16, 16)),
    ("mnt_list.prev", (24, 8)),
    ("last", (40, 8)),
])
def test_found(path, place):
    assert members.find(MOUNT, [path]) == {path: place}


@pytest.mark.parametrize("path", ["bits", "prev", "mnt_list.gone", "id.counter"])
def test_not_found(path):
    assert members.find(MOUNT, [path]) == {}
