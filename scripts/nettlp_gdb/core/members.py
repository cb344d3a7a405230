"""Members by name, through anonymous structures and unions.

Works on anything shaped like a `gdb.Type`: `fields()` with `name`, `type`, `bitpos` and `bitsize`, `sizeof` and
`strip_typedefs()`.
"""

from typing import Any, Dict, Iterable, Tuple

from .layout import Member

#: bits from the beginning of the structure, and type
_Field = Tuple[int, Any]


def find(record: Any, paths: Iterable[str]) -> Dict[str, Member]:
    """Those of the members `paths` (names joined by dots) that the structure `record` has.

    GDB makes an object of each member when it is asked for them: hundreds for a `task_struct`, so it is asked once."""
    fields = _fields(record)
    found = {}
    for path in paths:
        name, _, rest = path.partition(".")
        if name not in fields:
            continue
        bits, kind = fields[name]
        inner = find(kind, (rest,)) if rest else {"": Member(0, kind.sizeof)}
        for member in inner.values():
            found[path] = Member(bits // 8 + member.offset, member.size)
    return found


def _fields(record: Any) -> Dict[str, _Field]:
    """The members of a structure by name, those of its anonymous members too; without bit-fields."""
    record = record.strip_typedefs()
    try:
        fields = record.fields()
    except TypeError:  # an integer or a pointer has no members
        return {}
    named: Dict[str, _Field] = {}
    for field in fields:
        if not field.name:
            for name, (bits, kind) in _fields(field.type).items():
                named.setdefault(name, (field.bitpos + bits, kind))
        elif not field.bitsize:
            named.setdefault(field.name, (field.bitpos, field.type))
    return named
