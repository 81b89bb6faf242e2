"""Definitions that come again and again are told of, once."""

from __future__ import annotations

from nbray.core.definitions import EXPORTS_WORTH_A_WORD, Definitions


def test_the_hundredth_export_of_one_place_is_worth_a_word_and_no_other() -> None:
    definitions = Definitions()

    advices = [definitions.exported("cell.py:3:f", "f") for _ in range(3 * EXPORTS_WORTH_A_WORD)]

    told = [number for number, advice in enumerate(advices, 1) if advice]
    assert told == [EXPORTS_WORTH_A_WORD]
    assert "f has been exported 100 times" in str(advices[EXPORTS_WORTH_A_WORD - 1])


def test_places_are_counted_apart_and_no_place_is_not_counted() -> None:
    definitions = Definitions()

    for number in range(EXPORTS_WORTH_A_WORD - 1):
        assert definitions.exported("one", "f") is None
        assert definitions.exported(f"another {number}", "f") is None
        assert definitions.exported("", "f") is None
        assert definitions.exported("", "g") is None

    assert definitions.exported("one", "f")
