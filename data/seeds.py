"""Seeds made of several integers."""

import hashlib


def hash_seed(*parts: int) -> int:
    """A 63-bit seed from several integers; near seeds give unrelated streams."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:8], "big") >> 1
