"""Nobody else can reach a session, whatever the umask; no secret lies in the open; nothing listens on TCP."""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray
from nbray.control.secrets import redis_password, redis_values_key
from tests.support import procfs
from tests.support.waiting import until

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"

#: A secret that the user has in the environment; it is for the driver alone.
STRAY = "c2VjcmV0"


@pytest.fixture(scope="module", params=[0o000, 0o022, 0o077], ids=lambda mask: f"umask {mask:03o}")
def session(request: pytest.FixtureRequest, _module_leaves_nothing_behind: None) -> Iterator[Path]:
    """A session of a driver with that umask, in which every kind of process has worked; its directory."""
    before = os.umask(request.param)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setenv("NBRAY_TOKEN", STRAY)
    with tempfile.TemporaryDirectory(prefix="nb-") as folder:
        nbray.init(num_cpus=2, temp_dir=folder, log_to_driver=False)
        yield worked(Path(folder))
        nbray.shutdown()
    monkeypatch.undo()
    os.umask(before)


def worked(folder: Path) -> Path:
    @nbray.remote
    def prints(x: int) -> int:
        import sys

        print("out", x)  # noqa: T201
        print("err", x, file=sys.stderr)  # noqa: T201
        os.write(2, b"from C\n")
        return int(nbray.get(nbray.remote(lambda: x).remote()))

    assert nbray.get([prints.remote(i) for i in range(4)], timeout=10) == [0, 1, 2, 3]
    until(lambda: status()["redis"]["connected"], "Redis is in use")
    directory = Path(status()["session_dir"])
    assert directory.parent == folder
    until(lambda: len(list((directory / "logs").iterdir())) >= 3, "workers have written logs")
    return directory


def status() -> dict[str, Any]:
    return nbray.status().to_dict()


def all_pids() -> list[int]:
    processes = status()["processes"]
    return [
        os.getpid(), processes["daemon"], processes["zygote"], processes["redis"], *processes["workers"],
        *(p.pid for p in procfs.descendants(os.getpid())),
    ]  # fmt: skip


def test_everything_in_the_session_directory_is_private(session: Path) -> None:
    modes = {path: stat.S_IMODE(path.lstat().st_mode) for path in [session, *session.rglob("*")]}
    kinds = {path.name: path.lstat().st_mode for path in modes}

    for path, mode in modes.items():
        assert mode == (0o700 if path.is_dir() else 0o600), f"{path} has mode {mode:o}"
    assert {"token", "lock", "redis.sock", "logs", "daemon.log", "redis.log"} <= set(kinds)
    assert [name for name, kind in kinds.items() if name.startswith("w-") and stat.S_ISSOCK(kind)]


def test_nothing_is_made_in_any_other_place(session: Path) -> None:
    mine = {
        link
        for pid in set(all_pids()) - {os.getpid()}
        for link in procfs.open_fds(pid).values()
        if link.startswith("/") and not link.startswith(("/dev/", "/memfd:", "/proc/"))
    }

    assert {link for link in mine if not link.startswith(f"{session}/") and _is_new(link, session)} == set()
    assert list(session.parent.iterdir()) == [session]
    assert not [name for name in os.listdir("/dev/shm") if "nbray" in name]


def _is_new(link: str, session: Path) -> bool:
    """Made since the session began; what was open before (pytest's capture files) is none of its."""
    try:
        return os.stat(link).st_ctime >= (session / "token").stat().st_ctime
    except OSError:
        return False


def test_no_socket_lies_outside_the_directory(session: Path) -> None:
    # Unix sockets outside the directory would be abstract ones, which any user can reach.
    inodes = {
        link[8:-1] for pid in all_pids() for link in procfs.open_fds(pid).values() if "socket:[" in link
    }
    names = procfs.sockets()

    assert not [names[inode] for inode in inodes if "@" in names.get(inode, "")]


def test_no_process_listens_on_tcp(session: Path) -> None:
    assert {pid: procfs.tcp_listeners(pid) for pid in all_pids() if procfs.tcp_listeners(pid)} == {}


def test_no_secret_is_in_an_argument_or_environment(session: Path) -> None:
    token = (session / "token").read_bytes()
    values = {
        "token": token,
        "password": redis_password(token).encode(),
        "key of values": redis_values_key(token),
    }
    secrets = values | {f"{name} in hex": value.hex().encode() for name, value in values.items()}

    for pid in all_pids():
        seen = b"".join(_bytes(f"/proc/{pid}/{part}") for part in ("cmdline", "environ"))
        assert not [name for name, form in secrets.items() if form in seen], f"pid {pid}"
    for log in (session / "logs").iterdir():
        assert not [name for name, form in secrets.items() if form in log.read_bytes()], log.name


def test_a_token_in_the_drivers_environment_does_not_reach_its_children(session: Path) -> None:
    for pid in set(all_pids()) - {os.getpid()}:
        assert STRAY.encode() not in _bytes(f"/proc/{pid}/environ"), f"pid {pid}"


def _bytes(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""
