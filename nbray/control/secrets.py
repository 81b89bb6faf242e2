"""What is derived from the session token for Redis: its password, and tags on stored values.

Called by:  control.client, control.tables, node.
Imports:    the standard library.
Never:      sends, stores or prints the token itself; compares tags other than in constant time.

A sealed value is ``tag: 32 bytes | epoch: u64 | value``. The tag covers the key that the value
lies under, so that a value moved to another key is refused like a changed one.
"""

from __future__ import annotations

import hashlib
import hmac

from nbray.control.errors import TamperedRecordError

_HASH = "sha256"
_HASH_BYTES = 32
_EPOCH_BYTES = 8
_SEALED_HEADER_BYTES = _HASH_BYTES + _EPOCH_BYTES


def hkdf_sha256(key_material: bytes, *, salt: bytes = b"", info: bytes = b"", size_bytes: int = 32) -> bytes:
    """Derive a key from a secret: extract, then expand.

    Raises:
        ValueError: more than 255 * 32 bytes were asked for.

    Source: RFC 5869, H. Krawczyk and P. Eronen, HMAC-based Extract-and-Expand Key Derivation
    Function (HKDF), sections 2.2 and 2.3.
    """
    if not 0 < size_bytes <= 255 * _HASH_BYTES:
        raise ValueError(f"HKDF-SHA256 gives 1 to {255 * _HASH_BYTES} bytes, not {size_bytes}.")
    pseudorandom_key = hmac.digest(salt or bytes(_HASH_BYTES), key_material, _HASH)
    block, output, counter = b"", b"", 0
    while len(output) < size_bytes:
        counter += 1
        block = hmac.digest(pseudorandom_key, block + info + bytes([counter]), _HASH)
        output += block
    return output[:size_bytes]


def derive_key(token: bytes, purpose: str) -> bytes:
    """A 32-byte key for one purpose; keys of different purposes tell nothing about each other."""
    return hkdf_sha256(token, info=b"nbray/v1/" + purpose.encode())


def redis_password(token: bytes) -> str:
    """The password of the ACL user ``nbray``, as 64 hex digits."""
    return derive_key(token, "redis").hex()


def redis_values_key(token: bytes) -> bytes:
    """The key of the tags on values that somebody unpickles one day."""
    return derive_key(token, "redis/values")


def seal(values_key: bytes, name: str, epoch: int, value: bytes) -> bytes:
    """``value`` with a tag that only holders of the token can make.

    Args:
        values_key: from :func:`redis_values_key`.
        name: the Redis key that the value will lie under.
        epoch: the cluster epoch of the writer.
        value: what is to be stored.
    """
    stamped = epoch.to_bytes(_EPOCH_BYTES, "big") + value
    return _tag(values_key, name, stamped) + stamped


def open_sealed(values_key: bytes, name: str, sealed: bytes) -> tuple[int, bytes]:
    """The epoch and the value, after the tag was found right.

    Raises:
        TamperedRecordError: the value is not what a member of this cluster stored under ``name``.
    """
    stamped = sealed[_HASH_BYTES:]
    is_whole = len(sealed) >= _SEALED_HEADER_BYTES
    if not is_whole or not hmac.compare_digest(sealed[:_HASH_BYTES], _tag(values_key, name, stamped)):
        raise TamperedRecordError(
            f"The value under {name} in Redis was not written by this cluster, or was changed since; it was "
            "not used. Look for another program that writes to this Redis, and start a new session."
        )
    return int.from_bytes(stamped[:_EPOCH_BYTES], "big"), stamped[_EPOCH_BYTES:]


def _tag(values_key: bytes, name: str, stamped: bytes) -> bytes:
    # The length in front keeps (name, value) pairs apart that would join to the same bytes.
    named = name.encode("utf-8", "surrogateescape")
    mac = hmac.new(values_key, len(named).to_bytes(4, "big"), hashlib.sha256)
    mac.update(named)
    mac.update(stamped)
    return mac.digest()
