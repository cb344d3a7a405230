"""Members by name, through anonymous structures and unions.

Works on anything shaped like a `gdb.Type`: `fields()` with `name`, `type`, `bitpos` and `bitsize`, `sizeof` and
`strip_typedefs()`.
"""

from typing import Any, Optional

from .layout import Member


def find(record: Any, path: str) -> Optional[Member]:
    """The member `path` (names joined by dots) of the structure `record`, `None` if it has none such."""
    offset = 0
    for name in path.split("."):
        field = _field(record, name)
        if field is None:
            return None
        bits, record = field
        offset += bits // 8
    return Member(offset, record.sizeof)


def _field(record: Any, name: str) -> Any:
    """Bit position and type of the member `name`, looked for inside anonymous members too."""
    record = record.strip_typedefs()
    try:
        fields = record.fields()
    except TypeError:  # an integer or a pointer has no members
        return None
    for field in fields:
        if field.name == name and not field.bitsize:
            return field.bitpos, field.type
        if not field.name:
            inner = _field(field.type, name)
            if inner is not None:
                return field.bitpos + inner[0], inner[1]
    return None
