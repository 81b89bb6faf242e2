"""Keys derived from the token, and tags on values."""

from __future__ import annotations

import pytest

from nbray.control.errors import TamperedRecordError
from nbray.control.secrets import (
    derive_key,
    hkdf_sha256,
    open_sealed,
    redis_password,
    redis_values_key,
    seal,
)

TOKEN = bytes(range(32))
KEY = redis_values_key(TOKEN)


@pytest.mark.parametrize(
    ("key_material", "salt", "info", "size_bytes", "expected"),
    [  # RFC 5869, appendix A, the test cases for SHA-256
        (
            "0b" * 22, "000102030405060708090a0b0c", "f0f1f2f3f4f5f6f7f8f9", 42,
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
        ),
        (
            bytes(range(0x50)).hex(), bytes(range(0x60, 0xB0)).hex(), bytes(range(0xB0, 0x100)).hex(), 82,
            (
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c"
                "59045a99cac7827271cb41c65e590e09da3275600c2f09b8367793a9aca3db71"
                "cc30c58179ec3e87c14c01d5c1f3434f1d87"
            ),
        ),
        (
            "0b" * 22, "", "", 42,
            "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
        ),
    ],
)  # fmt: skip
def test_hkdf_gives_the_vectors_of_its_standard(
    key_material: str, salt: str, info: str, size_bytes: int, expected: str
) -> None:
    output = hkdf_sha256(
        bytes.fromhex(key_material), salt=bytes.fromhex(salt), info=bytes.fromhex(info), size_bytes=size_bytes
    )

    assert output.hex() == expected


@pytest.mark.parametrize("size_bytes", [0, -1, 255 * 32 + 1])
def test_hkdf_refuses_sizes_that_it_cannot_give(size_bytes: int) -> None:
    with pytest.raises(ValueError, match="HKDF"):
        hkdf_sha256(TOKEN, size_bytes=size_bytes)


def test_each_purpose_has_its_own_key() -> None:
    assert len({derive_key(TOKEN, "redis"), KEY, derive_key(TOKEN, "auth"), TOKEN}) == 4
    assert redis_password(TOKEN) == derive_key(TOKEN, "redis").hex()


def test_a_sealed_value_opens_under_its_own_key() -> None:
    sealed = seal(KEY, "nbray:c:function:00", 7, b"code")

    assert open_sealed(KEY, "nbray:c:function:00", sealed) == (7, b"code")


def test_any_changed_byte_is_refused() -> None:
    sealed = seal(KEY, "name", 7, b"code")

    for at in range(len(sealed)):
        changed = bytearray(sealed)
        changed[at] ^= 1
        with pytest.raises(TamperedRecordError, match="under name"):
            open_sealed(KEY, "name", bytes(changed))


@pytest.mark.parametrize("size_bytes", [0, 1, 31, 32, 39, 43])
def test_a_value_that_was_cut_is_refused(size_bytes: int) -> None:
    with pytest.raises(TamperedRecordError):
        open_sealed(KEY, "name", seal(KEY, "name", 7, b"code")[:size_bytes])


def test_a_value_of_another_key_or_another_cluster_is_refused() -> None:
    sealed = seal(KEY, "name", 7, b"code")

    with pytest.raises(TamperedRecordError):
        open_sealed(KEY, "other", sealed)
    with pytest.raises(TamperedRecordError):
        open_sealed(redis_values_key(b"another token"), "name", sealed)


def test_bytes_cannot_move_between_name_and_value() -> None:
    sealed = seal(KEY, "ab", 0, b"c")

    assert seal(KEY, "a", 0, b"bc")[:32] != sealed[:32]
