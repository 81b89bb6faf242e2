"""Reading what people write after options."""

from __future__ import annotations

from argparse import ArgumentTypeError

import pytest

from nbray.jupyter.kernel import options


@pytest.mark.parametrize(
    ("word", "size_bytes"),
    [
        ("1048576", 1 << 20),
        ("200MB", 200_000_000),
        ("1GiB", 1 << 30),
        ("1.5GB", 1_500_000_000),
        ("2tib", 2 << 40),
        ("64 KiB", 64 << 10),
        ("'200 MB'", 200_000_000),
        ("10b", 10),
    ],
)
def test_sizes_are_decimal_or_binary_as_their_unit_says(word: str, size_bytes: int) -> None:
    assert options.size_bytes(word) == size_bytes


@pytest.mark.parametrize("word", ["", "MB", "-1MB", "1G", "1e9", "1 MBit", "nan", "1,5GB", "1GiB2"])
def test_a_size_that_could_mean_anything_is_refused_with_an_example(word: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a size; write for example 200MB"):
        options.size_bytes(word)


@pytest.mark.parametrize(("word", "number"), [("4", 4), ("0", 0), ('"16"', 16)])
def test_counts_are_whole(word: str, number: int) -> None:
    assert options.count(word) == number


@pytest.mark.parametrize("word", ["", "-1", "1.5", "four", "²"])
def test_what_is_not_a_count_is_refused(word: str) -> None:
    with pytest.raises(ArgumentTypeError, match="is not a whole number"):
        options.count(word)


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("accel=2", {"accel": 2}),
        ("'accel=2, licence=0.5'", {"accel": 2, "licence": 0.5}),
        ("node:a=1", {"node:a": 1}),
    ],
)
def test_resources_are_names_with_numbers(word: str, found: dict[str, float]) -> None:
    assert options.quantities(word) == found


@pytest.mark.parametrize(
    ("word", "complaint"),
    [
        ("accel", "'accel' is not NAME=NUMBER"),
        ("", "is not NAME=NUMBER"),
        ("a=1,", "is not NAME=NUMBER"),
        ("=1", "'=1' is not NAME=NUMBER"),
        ("a=1,a=2", "'a' is named twice"),
        ("a=many", "the quantity of 'a' is not a number: 'many'"),
        ("a=inf", "the quantity of 'a' is not a number: 'inf'"),
        ("a=1=2", "not a number"),
    ],
)
def test_a_resource_without_sense_is_refused_by_name(word: str, complaint: str) -> None:
    with pytest.raises(ArgumentTypeError, match=complaint):
        options.quantities(word)


@pytest.mark.parametrize(
    ("word", "text"), [("a", "a"), ("'a b'", "a b"), ('"a"', "a"), ("'", "'"), ("'a\"", "'a\"")]
)
def test_only_a_pair_of_quotes_is_taken_off(word: str, text: str) -> None:
    assert options.text(word) == text
