"""Ways to damage a file: its bytes, or what it says, so that it still parses and its values are what nobody foresaw."""

import random
from collections.abc import Iterator
from typing import Any

PIECES = (
    b"", b"\x00", b"\xff\xfe", b"\xed\xa0\x80", b"NaN", b"1e999", b"-1", b"null", b"[" * 3000, b'{"a":' * 3000, b"\t",
    b"\n", b'"', b"\\", b"9" * 5000, b"{}", b"[]", b"../../etc/passwd", b"\xe2\x80\xa8", b"true", b"!!python/object:os",
    b"&a [*a, *a]", b"x" * 300, b"!!bool x", b"!!timestamp x", b"!!float x", b"!!int x", b"<<: 1", b"? {a: 1}",
    b"9" * 400 + b":5.0", b"*a",
)  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 2, 1.5, 1e308, -1e-308, float("nan"), float("inf"), 10**30, 10**400, 2**63, 2**31,
    10**9, "", "x" * 300, "1", "auto", "\ud800", "\x00", "\n", "../../etc/passwd", "/etc/passwd", [], {}, [None],
    {"": {}}, [[[[]]]], ["linear"], {"rope_type": "yarn"},
)  # fmt: skip


def flipped(seed: bytes, generator: random.Random) -> bytes:
    """A file with one to four places changed, cut, doubled or spliced in."""
    data = bytearray(seed)
    for _ in range(generator.randint(1, 4)):
        at = generator.randrange(len(data) + 1)
        length = generator.choice((0, 1, 2, 8, 40))
        kind = generator.randrange(4)
        if kind == 0 and at < len(data):
            data[at] = generator.randrange(256)
        elif kind == 1:
            data[at : at + length] = generator.choice(PIECES)
        elif kind == 2:
            del data[at : at + length * 4]
        else:
            data[at:at] = data[at : at + length * 4]
    return bytes(data)


def twisted(seed: Any, generator: random.Random) -> Any:
    """A copy of a tree of dictionaries and lists with one or two places deleted, renamed, wrapped or replaced."""
    tree = [_copy(seed)]
    for _ in range(generator.choice((1, 1, 2))):
        holders = list(_holders(tree))
        at = generator.choice(holders)
        holder, key = at
        kind = generator.randrange(8)
        if kind == 0 and holder is not tree:
            del holder[key]
        elif kind == 1 and isinstance(holder, dict):
            holder[generator.choice(("", "a", f"{key}_", "x" * 50, "\ud800"))] = holder.pop(key)
        elif kind == 2:
            holder[key] = [holder[key]]
        elif kind == 3:
            other, place = generator.choice(holders)
            holder[key] = _copy(other[place])
        else:
            holder[key] = _copy(generator.choice(VALUES))
    return tree[0]


def _holders(tree: Any) -> Iterator[tuple[Any, Any]]:
    """Every place of a tree: what holds it, and its key there."""
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        if isinstance(tree[key], dict | list):
            yield from _holders(tree[key])


def _copy(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: _copy(value) for key, value in tree.items()}
    return [_copy(value) for value in tree] if isinstance(tree, list) else tree
