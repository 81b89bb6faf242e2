"""Numbers in words."""

from __future__ import annotations

import pytest

from nbray.observe.wording import counted, headline, redis_origin, size


@pytest.mark.parametrize(
    ("nodes", "resources", "line"),
    [
        (1, {"CPU": 40_000}, "nbray: 1 node, 4 CPUs"),
        (2, {"CPU": 10_000}, "nbray: 2 nodes, 1 CPU"),
        (1, {}, "nbray: 1 node, 0 CPUs"),
        (1, {"CPU": 5_000}, "nbray: 1 node, 0.5 CPUs"),
        (
            3,
            {"CPU": 12_000_000, "GPU": 80_000, "node:127.0.0.1": 10_000},
            "nbray: 3 nodes, 1,200 CPUs, 8 GPUs",
        ),
    ],
)
def test_the_headline_holds_counts_only(nodes: int, resources: dict[str, int], line: str) -> None:
    assert headline(nodes, resources) == line


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1024, "1 KiB"),
        (1536, "1.5 KiB"),
        (200_000_000, "190.7 MiB"),
        (1 << 30, "1 GiB"),
        (3 << 40, "3 TiB"),
    ],
)
def test_sizes_have_binary_units(size_bytes: int, words: str) -> None:
    assert size(size_bytes) == words


def test_one_is_singular() -> None:
    assert counted(1, "node") == "1 node"
    assert counted(1.5, "node") == "1.5 nodes"


def test_an_origin_that_is_not_known_is_shown_as_it_is() -> None:
    assert redis_origin("path") == "server found on PATH"
    assert redis_origin("mars") == "mars"
