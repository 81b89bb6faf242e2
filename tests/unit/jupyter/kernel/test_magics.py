"""The magics: what a line asks for, what it returns, what it says when it is wrong."""

from __future__ import annotations

from typing import Any

import pytest
from IPython.core.error import UsageError
from IPython.core.interactiveshell import InteractiveShell

from nbray.observe import renderer
from nbray.observe.cards import SessionInfo, Stopped
from nbray.observe.memory import Memory
from nbray.observe.status import ClusterStatus
from tests.unit.jupyter.conftest import FakeSession

DEFAULTS: dict[str, Any] = {
    "address": None,
    "num_cpus": None,
    "resources": None,
    "object_store_memory": None,
    "namespace": None,
    "log_to_driver": True,
}


def run(shell: InteractiveShell, line: str) -> Any:
    magic, _, rest = line.partition(" ")
    return shell.run_line_magic(magic.removeprefix("%"), rest)


def test_without_options_the_session_has_its_defaults(shell: InteractiveShell, fake: FakeSession) -> None:
    info = run(shell, "%ray_init")

    assert fake.asked == [DEFAULTS]
    assert isinstance(info, SessionInfo)
    assert repr(info) == "nbray: 1 node, 2 CPUs"


def test_every_option_reaches_init(shell: InteractiveShell, fake: FakeSession) -> None:
    run(
        shell,
        "%ray_init --num-cpus 4 --object-store 200MB --address unix:/x --namespace 'my team' "
        "--resources 'accel=2, licence=0.5' --no-logs",
    )

    assert fake.asked == [
        {
            "address": "unix:/x",
            "num_cpus": 4,
            "resources": {"accel": 2, "licence": 0.5},
            "object_store_memory": 200_000_000,
            "namespace": "my team",
            "log_to_driver": False,
        }
    ]


def test_options_can_hold_variables_of_the_notebook(shell: InteractiveShell, fake: FakeSession) -> None:
    shell.user_ns["wanted"] = 3
    run(shell, "%ray_init --num-cpus {wanted}")

    assert fake.asked[0]["num_cpus"] == 3


def test_the_same_line_again_returns_the_same_session(shell: InteractiveShell, fake: FakeSession) -> None:
    first = run(shell, "%ray_init --num-cpus 4 --resources a=1")

    again = run(shell, "%ray_init --num-cpus 4 --resources a=1")

    assert again is first
    assert len(fake.asked) == 1


def test_a_line_without_settings_returns_whatever_session_there_is(
    shell: InteractiveShell, fake: FakeSession
) -> None:
    info = fake.init(**{**DEFAULTS, "num_cpus": 8})

    assert run(shell, "%ray_init") is info
    assert run(shell, "%ray_init --renderer html") is info


def test_other_settings_say_what_differs_and_what_to_do(shell: InteractiveShell, fake: FakeSession) -> None:
    run(shell, "%ray_init --num-cpus 4 --namespace a")

    with pytest.raises(UsageError) as caught:
        run(shell, "%ray_init --num-cpus 8 --no-logs")

    assert str(caught.value) == (
        "A session with other settings is running: --num-cpus (4 now, 8 asked for); "
        "--namespace ('a' now, default asked for); --no-logs (True now, False asked for). "
        "Run %ray_shutdown, then this line again; it ends running tasks and drops stored objects."
    )
    assert len(fake.asked) == 1


def test_after_a_shutdown_other_settings_are_welcome(shell: InteractiveShell, fake: FakeSession) -> None:
    run(shell, "%ray_init --num-cpus 4")
    run(shell, "%ray_shutdown")

    assert repr(run(shell, "%ray_init --num-cpus 8")) == "nbray: 1 node, 8 CPUs"


def test_a_session_that_was_lost_is_started_again(shell: InteractiveShell, fake: FakeSession) -> None:
    first = run(shell, "%ray_init --num-cpus 4")
    fake.lost = True

    again = run(shell, "%ray_init --num-cpus 4")

    assert again is not first
    assert len(fake.asked) == 2


def test_a_quiet_start_shows_nothing(shell: InteractiveShell, fake: FakeSession) -> None:
    assert run(shell, "%ray_init --quiet") is None
    assert len(fake.asked) == 1


def test_the_renderer_is_chosen_by_an_option_at_any_time(shell: InteractiveShell) -> None:
    info = run(shell, "%ray_init")
    assert info._repr_html_()

    run(shell, "%ray_init --renderer text")

    assert info._repr_html_() is None
    assert not renderer.wants_html()


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("%ray_init --cpus 4", "unrecognized arguments: --cpus 4"),
        ("%ray_init 4", "unrecognized arguments: 4"),
        ("%ray_init --num-cpus", "--num-cpus: expected one argument"),
        ("%ray_init --num-cpus many", "--num-cpus: 'many' is not a whole number"),
        ("%ray_init --object-store 1G", "--object-store: '1G' is not a size"),
        ("%ray_init --resources a", "--resources: 'a' is not NAME=NUMBER"),
        ("%ray_init --renderer hologram", "--renderer: invalid choice: 'hologram'"),
        ("%ray_init --object-store 1", "at least 75 MiB"),
        ("%ray_status --jason", "unrecognized arguments: --jason"),
        ("%ray_objects --leeks", "unrecognized arguments: --leeks"),
        ("%ray_objects --drop", "--drop: expected at least one argument"),
        ("%ray_objects --drop nothing", "There is nothing to drop by the name 'nothing'"),
        ("%ray_shutdown now", "unrecognized arguments: now"),
    ],
)
def test_a_wrong_line_is_a_usage_error_that_names_the_mistake(
    shell: InteractiveShell, line: str, complaint: str
) -> None:
    with pytest.raises(UsageError, match=complaint):
        run(shell, line)


def test_a_wrong_line_starts_and_stops_nothing(shell: InteractiveShell, fake: FakeSession) -> None:
    info = fake.init(**DEFAULTS)

    with pytest.raises(UsageError):
        run(shell, "%ray_shutdown --please")

    assert fake.info is info


def test_status_is_a_value(shell: InteractiveShell, fake: FakeSession) -> None:
    run(shell, "%ray_init --num-cpus 4")

    status = run(shell, "%ray_status")

    assert isinstance(status, ClusterStatus)
    assert repr(status) == "nbray: 1 node, 4 CPUs"


def test_status_before_init_says_that_nothing_runs(shell: InteractiveShell) -> None:
    assert repr(run(shell, "%ray_status")) == "nbray: not running"
    assert run(shell, "%ray_status --json") == {}


def test_status_as_json_is_plain_data(shell: InteractiveShell) -> None:
    run(shell, "%ray_init --num-cpus 4")

    assert run(shell, "%ray_status --json") == {"nodes": [{"name": "demo", "resources": {"CPU": 40_000}}]}


def test_shutdown_is_a_count(shell: InteractiveShell) -> None:
    run(shell, "%ray_init")

    stopped = run(shell, "%ray_shutdown")

    assert isinstance(stopped, Stopped)
    assert stopped == 5
    assert run(shell, "%ray_shutdown") == 0


def test_objects_are_a_table(shell: InteractiveShell, fake: FakeSession) -> None:
    run(shell, "%ray_init")

    table = run(shell, "%ray_objects")

    assert isinstance(table, Memory)
    assert len(table.rows) == 2
    assert "Out[3]" in repr(table)


def test_leaks_are_the_part_of_the_table_that_may_go(shell: InteractiveShell, fake: FakeSession) -> None:
    run(shell, "%ray_init")

    leaks = run(shell, "%ray_objects --leaks --holders")

    assert [row["leak"] for row in leaks.rows] == ["output"]
    assert "%ray_objects --drop Out[3]" in repr(leaks)
    assert run(shell, "%ray_objects --leaks --json") == {"objects": leaks.rows}


def test_objects_before_init_are_none(shell: InteractiveShell) -> None:
    assert repr(run(shell, "%ray_objects")) == "nbray: no objects"
    assert run(shell, "%ray_objects --json") == {"objects": []}


def test_names_that_are_dropped_are_those_of_the_line(shell: InteractiveShell, fake: FakeSession) -> None:
    dropped = run(shell, "%ray_objects --drop Out[3] _ 'traceback' x")

    assert fake.dropped == [("Out[3]", "_", "traceback", "x")]
    assert dropped == 1 << 20


def test_actors_are_a_table(shell: InteractiveShell, fake: FakeSession) -> None:
    run(shell, "%ray_init")

    shown, plain = run(shell, "%ray_actors"), run(shell, "%ray_actors --json")

    assert repr(shown).startswith("nbray: 1 actor\n")
    assert type(plain) is dict
    assert plain == shown


def test_actors_before_init_are_none(shell: InteractiveShell) -> None:
    assert repr(run(shell, "%ray_actors")) == "nbray: 0 actors"


def test_the_actor_that_is_killed_is_the_one_of_the_line(shell: InteractiveShell, fake: FakeSession) -> None:
    killed = run(shell, "%ray_actors --kill 'my model'")

    assert fake.killed == ["my model"]
    assert repr(killed) == "nbray: my model is killed"
    with pytest.raises(UsageError, match="No living actor"):
        run(shell, "%ray_actors --kill nobody")


@pytest.mark.parametrize("line", ["%ray_init", "%ray_status", "%ray_objects", "%ray_actors", "%ray_shutdown"])
def test_magics_return_and_never_print(
    shell: InteractiveShell, capsys: pytest.CaptureFixture[str], line: str
) -> None:
    run(shell, line)

    assert capsys.readouterr() == ("", "")


def test_what_a_notebook_saves_in_text_mode_is_one_fixed_line(
    shell: InteractiveShell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBRAY_RENDERER", "text")
    assert shell.display_formatter is not None

    saved = [shell.display_formatter.format(run(shell, line))[0] for line in ("%ray_init", "%ray_shutdown")]

    assert saved == [{"text/plain": "nbray: 1 node, 2 CPUs"}, {"text/plain": "nbray: stopped"}]


def test_otherwise_the_card_stands_beside_the_fixed_line(shell: InteractiveShell) -> None:
    assert shell.display_formatter is not None

    bundle, _ = shell.display_formatter.format(run(shell, "%ray_init"))

    assert bundle["text/plain"] == "nbray: 1 node, 2 CPUs"
    assert bundle["text/html"].startswith("<table")


@pytest.mark.parametrize(
    ("magic", "words"),
    [
        (
            "ray_init",
            [
                "--num-cpus",
                "--object-store",
                "--address",
                "--namespace",
                "--resources",
                "--no-logs",
                "--renderer",
            ],
        ),
        ("ray_status", ["--json", "s = %ray_status"]),
        ("ray_objects", ["--holders", "--leaks", "--drop", "--json", "NAME", "%ray_objects --leaks"]),
        ("ray_actors", ["--kill", "--json", "ACTOR", "%ray_actors --kill parameter_server"]),
        ("ray_shutdown", ["%ray_shutdown", "End the session"]),
    ],
)
def test_help_names_every_option(shell: InteractiveShell, magic: str, words: list[str]) -> None:
    help_text = shell.find_line_magic(magic).__doc__

    for word in words:
        assert word in help_text
