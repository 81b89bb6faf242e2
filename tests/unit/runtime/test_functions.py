"""Functions on their way to workers: pickled once a session, with what they need, told of once."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nbray.model.errors import SerializationError
from nbray.runtime import custom_serializers, functions
from nbray.runtime.call_limit import CallLimit
from nbray.runtime.functions import Definition, Exports, Imports
from nbray.wire.messages import DefineFunction


@pytest.fixture(autouse=True)
def _forgotten() -> Iterator[None]:
    yield
    custom_serializers.forget_all()


class Plain:
    def __init__(self, number: int) -> None:
        self.number = number


def loaded(exports: Exports, key: bytes) -> Any:
    imports = Imports()
    imports.define(exports.messages[key])
    return imports.load(key)


def test_a_definition_is_pickled_once_whatever_its_globals_become() -> None:
    factor = 1
    exports, definition = Exports(), Definition(lambda: factor, "f")
    key, _ = exports.export(definition, 0)
    factor = 2

    assert exports.export(definition, 0) == (key, None)
    assert loaded(exports, key)() == 1

    next_session = Exports()
    assert loaded(next_session, next_session.export(definition, 0)[0])() == 2


def test_code_is_told_once_and_each_definition_of_it_is_counted() -> None:
    exports = Exports()
    one, other = (Definition(lambda: 1, "f") for _ in range(2))

    first, again = exports.export(one, 0)[1], exports.export(other, 0)[1]

    assert first is not None
    assert again is not None
    assert first.pickled
    assert not again.pickled
    assert first.place == again.place != ""
    assert first.function_id == again.function_id


def test_what_came_in_a_pickle_is_exported_but_not_counted() -> None:
    definition = Definition(lambda: 1, "f", was_received=True)

    told = Exports().export(definition, 0)[1]

    assert told is not None
    assert told.place == ""


def test_functions_of_c_are_not_counted() -> None:
    assert Definition(len, "len").place == ""


def test_a_limit_of_calls_travels_around_the_same_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CallLimit, "reached", False)
    value = 1
    exports, definition = Exports(), Definition(lambda: value, "f")
    unlimited, _ = exports.export(definition, 0)
    value = 2
    limited, _ = exports.export(definition, 1)

    assert limited != unlimited
    assert loaded(exports, limited)() == 1
    assert CallLimit.reached


def test_registrations_travel_around_the_same_pickle() -> None:
    value = 1
    exports, definition = Exports(), Definition(lambda: value, "f")
    before, _ = exports.export(definition, 0)
    custom_serializers.register(Plain, lambda plain: plain.number, Plain)
    records = custom_serializers.records()
    value = 2
    after, _ = exports.export(definition, 0)
    custom_serializers.forget_all()

    assert after != before
    assert loaded(exports, after)() == 1
    assert custom_serializers.records() == records


def test_a_function_that_is_too_large_to_send_is_refused_and_names_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(functions, "_FUNCTION_MAX_BYTES", 1_000)
    data = bytes(2_000_000)

    with pytest.raises(SerializationError, match=r"The code of f .*2 MB.*nbray\.put"):
        Exports().export(Definition(lambda: data, "f"), 0)


def test_what_cannot_be_imported_says_so_each_time() -> None:
    imports = Imports()
    imports.define(DefineFunction(b"key", "f", b"cnot_there\nf\n."))

    for _ in range(2):
        with pytest.raises(SerializationError, match=r"f was not imported properly.*named 'not_there'"):
            imports.load(b"key")


def test_a_call_of_a_function_whose_code_never_came_is_a_typed_error() -> None:
    with pytest.raises(SerializationError, match="never came to this worker"):
        Imports().load(b"k" * 16)
