"""The embedded Redis, real: how it is locked up, what ends it, what comes back after it was ended."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from nbray.control.client import ControlClient
from nbray.control.config import USER
from nbray.control.errors import (
    RedisRefusedError,
    RedisStartError,
    RedisUnavailableError,
    TamperedRecordError,
)
from nbray.control.records import EventRecord, FunctionRecord, JobRecord, NodeRecord, StampSource
from nbray.control.secrets import redis_password, redis_values_key
from nbray.control.server import EmbeddedRedis
from nbray.control.source import locate
from nbray.control.supervisor import RedisSupervisor, RestartBudget, wait_until_ready
from nbray.control.tables import ControlTables
from tests.support import procfs

pytestmark = pytest.mark.integration

TOKEN = bytes(range(32))
PASSWORD = redis_password(TOKEN)
CLUSTER = "c1"
PREFIX = f"nbray:{CLUSTER}:"
NODE = NodeRecord(b"\x01" * 16, 1, "/s/daemon.sock", "here", 42, {"CPU": 20_000}, 1 << 30)
JOB = JobRecord(b"\x02" * 16, 43, "notebook.ipynb", NODE.node_id, "running", 1_700_000_000_000)


@pytest.fixture
def session() -> Iterator[Path]:
    """A session directory with a short path: those of sockets are limited."""
    folder = Path(tempfile.mkdtemp(prefix="nbray-t-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def redis(session: Path) -> Iterator[EmbeddedRedis]:
    server = embedded(session)
    server.start()
    asyncio.run(wait_until_ready(server))
    yield server
    assert server.stop()


def embedded(session: Path, binary: str = "") -> EmbeddedRedis:
    path = binary or locate().location
    return EmbeddedRedis(path, session_dir=str(session), cluster_id=CLUSTER, password=PASSWORD)


@contextlib.asynccontextmanager
async def connected(
    redis: EmbeddedRedis, *, check_interval_s: float | None = None
) -> AsyncIterator[ControlClient]:
    """A client whose ``run`` lives as long as the block."""
    client = ControlClient(
        redis.socket_path, username=USER, password=PASSWORD, marker_key=f"{PREFIX}marker",
        check_interval_s=check_interval_s,
    )  # fmt: skip
    async with running(client):
        await client.connect(10)
        yield client


@contextlib.asynccontextmanager
async def running(part: ControlClient | RedisSupervisor) -> AsyncIterator[None]:
    task = asyncio.get_running_loop().create_task(part.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def tables_of(client: ControlClient, *, incarnation: int = 1, token: bytes = TOKEN) -> ControlTables:
    stamps = StampSource(cluster_epoch=1, node_incarnation=incarnation)
    return ControlTables(client, CLUSTER, values_key=redis_values_key(token), stamps=stamps)


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a fact that another process brings about."""
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, f"not within 10 s: {what}"
        await asyncio.sleep(0.005)


def raw(socket_path: str, *commands: str) -> list[str]:
    """Send lines as a stranger would, without any client library; one answer line for each."""
    import socket

    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(socket_path)
        answers = connection.makefile("rb")
        found = []
        for command in commands:
            connection.sendall(command.encode() + b"\r\n")
            found.append(answers.readline().decode().strip())
        answers.close()
        return found


# --- locked up -------------------------------------------------------------------------------------


def test_it_has_no_tcp_listener(redis: EmbeddedRedis) -> None:
    assert procfs.tcp_listeners(redis.pid) == []


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_its_files_are_private_whatever_the_umask(session: Path, umask: int) -> None:
    before = os.umask(umask)
    server = embedded(session)
    try:
        server.start()
        asyncio.run(wait_until_ready(server))

        assert mode(session) == 0o700
        assert mode(session / "redis.sock") == 0o600
        assert mode(session / "logs") == 0o700
        assert mode(session / "logs" / "redis.log") == 0o600
    finally:
        server.stop()
        os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_strangers_are_refused(redis: EmbeddedRedis) -> None:
    answers = raw(redis.socket_path, "PING", "AUTH wrong", "AUTH nbray wrong", f"AUTH {PASSWORD}", "INFO")

    assert [answer.split()[0] for answer in answers] == [
        "-NOAUTH", "-WRONGPASS", "-WRONGPASS", "-WRONGPASS", "-NOAUTH",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "command",
    [
        ("SET", "elsewhere", "v"),
        ("GET", "nbray:c2:nodes"),
        ("CONFIG", "GET", "*"),
        ("CONFIG", "SET", "dir", "/"),
        ("FLUSHALL",),
        ("FLUSHDB",),
        ("KEYS", "*"),
        ("MODULE", "LIST"),
        ("DEBUG", "SLEEP", "0"),
        ("SCRIPT", "FLUSH"),
        ("ACL", "LIST"),
        ("SHUTDOWN",),
        ("SAVE",),
        ("REPLICAOF", "127.0.0.1", "6379"),
        ("PUBLISH", "elsewhere", "v"),
        ("EVAL", "return redis.call('SET', 'elsewhere', 'v')", "0"),
    ],
    ids=" ".join,
)
def test_the_clusters_user_may_not(redis: EmbeddedRedis, command: tuple[str, ...]) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            with pytest.raises(RedisRefusedError, match=r"(?i)permission|can.t access|not allowed"):
                await client.execute(*command)

            assert await client.execute("SET", f"{PREFIX}mine", b"v") == b"OK"

    asyncio.run(story())


def test_the_password_is_on_no_command_line_in_no_environment_and_no_file(
    session: Path, redis: EmbeddedRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc = Path(f"/proc/{redis.pid}")

    seen = (proc / "cmdline").read_bytes() + (proc / "environ").read_bytes()
    files = [path for path in session.rglob("*") if path.is_file()]

    assert PASSWORD.encode() not in seen
    assert TOKEN not in seen
    assert [path.name for path in files] == ["redis.log"]
    assert PASSWORD.encode() not in files[0].read_bytes()


def test_a_token_in_the_environment_is_not_handed_on(session: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NBRAY_TOKEN", TOKEN.hex())
    server = embedded(session)
    server.start()
    try:
        asyncio.run(wait_until_ready(server))

        assert TOKEN.hex().encode() not in Path(f"/proc/{server.pid}/environ").read_bytes()
    finally:
        server.stop()


def test_a_session_path_with_blanks_and_quotes_works(session: Path) -> None:
    folder = session / 'a "b" \\c é'
    folder.mkdir(mode=0o700)
    server = embedded(folder)
    server.start()
    try:
        asyncio.run(wait_until_ready(server))

        async def story() -> None:
            async with connected(server) as client:
                assert await client.execute("PING") == b"PONG"

        asyncio.run(story())
    finally:
        server.stop()


# --- starting and ending ---------------------------------------------------------------------------


def test_stop_leaves_nothing_and_may_be_repeated(session: Path) -> None:
    server = embedded(session)
    server.start()
    asyncio.run(wait_until_ready(server))

    assert server.stop()
    assert server.stop()

    assert procfs.process(server.pid) is None
    assert not (session / "redis.sock").exists()
    assert server.pidfd == -1


def test_a_program_that_is_no_redis_is_told_with_its_last_words(session: Path) -> None:
    fake = session / "fake"
    fake.write_text("#!/bin/sh\ncat >/dev/null\necho 'cannot: no such luck' >&2\nexit 3\n")
    fake.chmod(0o755)
    server = embedded(session, str(fake))
    server.start()

    with pytest.raises(RedisStartError, match=r"(?s)exit code 3.*no such luck"):
        asyncio.run(wait_until_ready(server))

    server.stop()


def test_a_program_that_cannot_be_run_is_told_at_once(session: Path) -> None:
    broken = session / "broken"
    broken.write_bytes(b"\x7fELF nonsense")
    broken.chmod(0o755)

    with pytest.raises(RedisStartError, match="cannot be run"):
        embedded(session, str(broken)).start()


def test_a_path_too_long_for_a_socket_is_told_before_anything_starts(session: Path) -> None:
    folder = session / ("x" * 120)
    folder.mkdir()

    with pytest.raises(RedisStartError, match="shorter temp_dir"):
        embedded(folder).start()


def older(session: Path, version: str, unknown: str) -> str:
    """A stand-in for an older server: it refuses one word in its configuration, else is the real one."""
    script = session / "older"
    script.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable}
        import os, sys, tempfile
        if sys.argv[1] == "--version":
            print("Redis server v={version} sha=0:0 malloc=libc bits=64")
            raise SystemExit
        config = sys.stdin.read()
        if "{unknown}" in config:
            sys.exit("*** FATAL CONFIG FILE ERROR ***\\n" + config)
        with tempfile.TemporaryFile("w+") as text:
            text.write(config)
            text.seek(0)
            os.dup2(text.fileno(), 0)
            os.execv({locate().location!r}, ["redis-server", "-"])
        """)
    )
    script.chmod(0o755)
    return str(script)


def test_redis_6_0_runs_without_the_rule_for_channels_that_it_does_not_know(session: Path) -> None:
    server = embedded(session, older(session, "6.0.16", unknown="&nbray"))
    server.start()
    try:
        asyncio.run(wait_until_ready(server))

        assert raw(server.socket_path, "PING") == ["-NOAUTH Authentication required."]
    finally:
        server.stop()


def test_redis_5_is_refused_by_its_version(session: Path) -> None:
    server = embedded(session, older(session, "5.0.7", unknown="user"))
    server.start()

    with pytest.raises(RedisStartError, match=r"is Redis 5\.0; nbray needs 6\.0"):
        asyncio.run(wait_until_ready(server))

    server.stop()


def test_the_hash_of_the_password_is_not_in_an_error(session: Path) -> None:
    server = embedded(session, older(session, "7.0.0", unknown="user"))
    server.start()

    with pytest.raises(RedisStartError) as caught:
        asyncio.run(wait_until_ready(server))

    assert "user nbray on #*** ~nbray" in str(caught.value)
    server.stop()


def test_it_dies_with_the_process_that_started_it(session: Path) -> None:
    code = textwrap.dedent(f"""
        import sys
        from nbray.control.server import EmbeddedRedis
        binary, session = {locate().location!r}, {str(session)!r}
        redis = EmbeddedRedis(binary, session_dir=session, cluster_id="c", password="p")
        redis.start()
        print(redis.pid, flush=True)
        sys.stdin.read()
    """)
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        pidfd = os.pidfd_open(int(parent.stdout.readline()))

        parent.send_signal(signal.SIGKILL)

        asyncio.run(asyncio.wait_for(readable(pidfd), 2))
        os.close(pidfd)


async def readable(fd: int) -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().add_reader(fd, event.set)
    await event.wait()
    asyncio.get_running_loop().remove_reader(fd)


def test_only_the_main_thread_may_start_it(session: Path) -> None:
    async def story() -> None:
        with pytest.raises(RuntimeError, match="main thread"):
            await asyncio.to_thread(embedded(session).start)

    asyncio.run(story())


# --- killed and restarted ---------------------------------------------------------------------------


def test_a_killed_server_comes_back_with_its_soft_state(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            tables = tables_of(client)
            tables.nodes.publish(NODE)
            tables.jobs.publish(JOB)
            reconnected = asyncio.Event()
            client.on_reconnect(reconnected.set)
            supervisor = RedisSupervisor(redis, on_restart=client.reconnect_now, on_give_up=pytest.fail)
            async with running(supervisor):
                first = redis.pid
                os.kill(first, signal.SIGKILL)
                await asyncio.wait_for(reconnected.wait(), 5)

                assert redis.pid != first
                assert supervisor.restarts == 1
                assert await tables.nodes.list() == [NODE]
                assert await tables.jobs.get(JOB.job_id) == JOB

    asyncio.run(story())


def test_it_accepts_again_within_a_tenth_of_a_second(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        back = asyncio.Event()
        took_s = []
        for _ in range(3):
            supervisor = RedisSupervisor(redis, on_restart=back.set, on_give_up=pytest.fail)
            async with running(supervisor):
                back.clear()
                start_s = time.monotonic()
                os.kill(redis.pid, signal.SIGKILL)
                await asyncio.wait_for(back.wait(), 5)
                took_s.append(time.monotonic() - start_s)
        assert min(took_s) < 0.1, took_s

    asyncio.run(story())


def test_a_daemon_that_reaps_all_its_children_does_not_confuse_the_supervisor(redis: EmbeddedRedis) -> None:
    first = redis.pid
    os.kill(first, signal.SIGKILL)
    os.waitpid(first, 0)

    async def story() -> None:
        back = asyncio.Event()
        async with running(RedisSupervisor(redis, on_restart=back.set, on_give_up=pytest.fail)):
            await asyncio.wait_for(back.wait(), 5)

        assert redis.pid != first
        assert redis.poll() is None

    asyncio.run(story())


def test_a_hard_write_waits_for_the_new_server(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            os.kill(redis.pid, signal.SIGKILL)
            await until(lambda: redis.poll() is not None, "the server is dead")
            put = asyncio.get_running_loop().create_task(tables_of(client).kv.put("k", b"v"))
            await until(lambda: not client.is_connected, "the client noticed")

            redis.start()

            assert await put is True
            assert await tables_of(client).kv.get("k") == b"v"

    asyncio.run(story())


def test_without_a_server_hard_writes_end_at_their_deadline_and_soft_ones_wait(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            redis.stop()

            with pytest.raises(RedisUnavailableError):
                await client.execute("GET", f"{PREFIX}k", timeout_s=0.1)
            for number in range(5):
                client.publish_soft("slot", ("SET", f"{PREFIX}k", str(number)))
            redis.start()

            assert await client.execute("GET", f"{PREFIX}k", timeout_s=10) == b"4"

    asyncio.run(story())


def test_a_frozen_server_does_not_hold_a_command_beyond_its_deadline(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            os.kill(redis.pid, signal.SIGSTOP)
            try:
                with pytest.raises(RedisUnavailableError, match=r"within 0\.1 s"):
                    await client.execute("PING", timeout_s=0.1)
            finally:
                os.kill(redis.pid, signal.SIGCONT)

            assert await client.execute("PING") == b"PONG"

    asyncio.run(story())


def test_a_server_that_somebody_emptied_gets_its_soft_state_back(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis, check_interval_s=0.01) as client:
            tables = tables_of(client)
            tables.nodes.publish(NODE)
            reconnected = asyncio.Event()
            client.on_reconnect(reconnected.set)

            await client.pipeline([("DEL", key) for key in await all_keys(client)])

            await asyncio.wait_for(reconnected.wait(), 5)
            assert await tables.nodes.list() == [NODE]

    asyncio.run(story())


async def all_keys(client: ControlClient) -> list[bytes]:
    _, keys = await client.execute("SCAN", "0", "MATCH", f"{PREFIX}*", "COUNT", 1000)
    assert keys
    return list(keys)


def test_after_the_budget_is_spent_it_gives_up_and_says_why(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        back, gave_up = asyncio.Event(), asyncio.Event()
        texts: list[str] = []

        def give_up(text: str) -> None:
            texts.append(text)
            gave_up.set()

        supervisor = RedisSupervisor(
            redis, on_restart=back.set, on_give_up=give_up, budget=RestartBudget(3, 30.0), clock=lambda: 1.0
        )
        async with running(supervisor):
            for _ in range(3):
                os.kill(redis.pid, signal.SIGKILL)
                await asyncio.wait_for(back.wait(), 5)
                back.clear()
            os.kill(redis.pid, signal.SIGKILL)
            await asyncio.wait_for(gave_up.wait(), 5)

        assert supervisor.restarts == 3
        assert "3 times within 30 s" in texts[0]
        assert "signal 9" in texts[0]

    asyncio.run(story())


def test_a_wrong_password_ends_in_a_typed_error_that_names_it(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        client = ControlClient(redis.socket_path, username=USER, password="wrong")
        async with running(client):
            with pytest.raises(RedisUnavailableError, match=r"(?i)wrongpass|invalid username-password"):
                await client.connect(0.5)

    asyncio.run(story())


# --- tables ------------------------------------------------------------------------------------------


def test_nodes_are_listed_until_they_are_removed(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            nodes = tables_of(client).nodes
            nodes.publish(NODE)
            await until(lambda: not client.soft.has_pending, "it was sent")

            assert await nodes.list() == [NODE]
            await nodes.remove(NODE.node_id)
            assert await nodes.list() == []

    asyncio.run(story())


def test_an_older_record_is_not_believed_after_a_newer_one(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            reader, zombie = tables_of(client, incarnation=2), tables_of(client, incarnation=1)
            reader.nodes.publish(NODE)
            await flushed(client)
            assert await reader.nodes.list() == [NODE]

            zombie.nodes.publish(NODE)
            await flushed(client)

            assert await reader.nodes.list() == []
            assert reader.nodes.refused == 1

    asyncio.run(story())


async def flushed(client: ControlClient) -> None:
    """A soft write that was taken is in flight; a marker behind it tells that it arrived."""
    marker = f"{PREFIX}flushed:{time.monotonic_ns()}"
    client.publish_soft(marker, ("SET", marker, b"1"))
    deadline_s = time.monotonic() + 10
    while await client.execute("EXISTS", marker) != 1:
        assert time.monotonic() < deadline_s
        await asyncio.sleep(0.001)


def test_an_unknown_job_is_none(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            assert await tables_of(client).jobs.get(b"\x09" * 16) is None

    asyncio.run(story())


def test_function_code_comes_back_as_it_was_stored(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            functions = tables_of(client).functions
            record = FunctionRecord("train", b"\x80\x05code\x00\r\n")

            await functions.put(b"\x01" * 16, record)

            assert await functions.get(b"\x01" * 16) == record
            assert await functions.get(b"\x02" * 16) is None

    asyncio.run(story())


@pytest.mark.parametrize("at", [0, 31, 39, 60, -1])
def test_function_code_that_was_changed_is_not_handed_out(redis: EmbeddedRedis, at: int) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            functions = tables_of(client).functions
            await functions.put(b"\x01" * 16, FunctionRecord("train", b"code" * 20))
            key = f"{PREFIX}function:{'01' * 16}"
            changed = bytearray(await client.execute("GET", key))
            changed[at] ^= 1
            await client.execute("SET", key, bytes(changed))

            with pytest.raises(TamperedRecordError, match=f"function:{'01' * 16}"):
                await functions.get(b"\x01" * 16)

    asyncio.run(story())


def test_function_code_of_another_key_or_another_token_is_not_handed_out(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            tables = tables_of(client)
            await tables.functions.put(b"\x01" * 16, FunctionRecord("train", b"code"))
            stored = await client.execute("GET", f"{PREFIX}function:{'01' * 16}")
            await client.execute("SET", f"{PREFIX}function:{'02' * 16}", stored)

            with pytest.raises(TamperedRecordError):
                await tables.functions.get(b"\x02" * 16)
            with pytest.raises(TamperedRecordError):
                await tables_of(client, token=b"another").functions.get(b"\x01" * 16)

    asyncio.run(story())


def test_a_record_of_another_shape_is_refused_with_its_key(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            await client.execute("SET", f"{PREFIX}job:{'02' * 16}", b"\x93\x01\x02\x03")

            with pytest.raises(TamperedRecordError, match="is no JobRecord"):
                await tables_of(client).jobs.get(JOB.job_id)

    asyncio.run(story())


def test_events_are_read_in_order_from_a_position_on(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            events = tables_of(client).events
            for number in range(3):
                events.append(EventRecord(b"\x03" * 16, 0, [["task", number]]))
            await flushed(client)

            read = await events.read()
            later = await events.read(after=read[0][0])

            assert [record.rows for _, _, record in read] == [[["task", n]] for n in range(3)]
            assert [stamp.sequence for _, stamp, _ in read] == [1, 2, 3]
            assert later == read[1:]

    asyncio.run(story())


def test_values_are_kept_by_namespace_and_name(redis: EmbeddedRedis) -> None:
    async def story() -> None:
        async with connected(redis) as client:
            kv = tables_of(client).kv
            assert await kv.put("b:c", b"1", namespace="a")
            assert await kv.put("c", b"2", namespace="a:b")
            assert await kv.put("c*[x]", b"3")
            assert await kv.put("cx", b"4")

            assert await kv.get("b:c", namespace="a") == b"1"
            assert await kv.get("c", namespace="a:b") == b"2"
            assert await kv.get("b:c") is None
            assert await kv.keys("c*[") == ["c*[x]"]
            assert await kv.keys() == ["c*[x]", "cx"]
            assert not await kv.put("cx", b"5", overwrite=False)
            assert await kv.get("cx") == b"4"
            assert await kv.delete("cx")
            assert not await kv.delete("cx")

    asyncio.run(story())
