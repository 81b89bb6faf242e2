"""The tab key behind a magic."""

from __future__ import annotations

import pytest
from IPython.core.completer import provisionalcompleter
from IPython.core.interactiveshell import InteractiveShell


def offers(shell: InteractiveShell, typed: str) -> list[str]:
    """What the tab key offers at the end of a line, as a kernel asks; IPython adds names of its own."""
    with provisionalcompleter():
        return [completion.text for completion in shell.Completer.completions(typed, len(typed))]


@pytest.mark.parametrize(
    ("typed", "options"),
    [
        ("%ray_init --num", ["--num-cpus"]),
        ("ray_init --num", ["--num-cpus"]),
        ("%ray_init --num-cpus 4 --re", ["--renderer", "--resources"]),
        ("%ray_status ", ["--json"]),
        ("%ray_status --", ["--json"]),
        ("%ray_objects --", ["--drop", "--holders", "--json", "--leaks"]),
        ("%ray_objects --leaks --h", ["--holders"]),
        ("%ray_shutdown ", []),
    ],
)
def test_the_options_that_fit_are_offered(shell: InteractiveShell, typed: str, options: list[str]) -> None:
    matches = offers(shell, typed)

    assert [match for match in matches if match.startswith("-")] == options


@pytest.mark.parametrize(
    ("typed", "choices"),
    [("%ray_init --renderer ", {"auto", "html", "text"}), ("%ray_init --num-cpus 4 --renderer t", {"text"})],
)
def test_the_choices_of_an_option_are_offered(shell: InteractiveShell, typed: str, choices: set[str]) -> None:
    matches = offers(shell, typed)

    assert choices <= set(matches)


def test_an_option_that_is_there_already_is_not_offered_again(shell: InteractiveShell) -> None:
    typed = "%ray_init --quiet --"

    matches = offers(shell, typed)

    assert "--quiet" not in matches
    assert "--num-cpus" in matches


def test_where_a_value_belongs_no_option_is_offered(shell: InteractiveShell) -> None:
    typed = "%ray_init --num-cpus --"

    matches = offers(shell, typed)

    assert not [match for match in matches if match.startswith("--")]
