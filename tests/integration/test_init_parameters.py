"""What ``init`` was asked for shows in the session; what it refuses starts nothing."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import nbray as ray
from nbray.api import modes
from nbray.cluster.session import living
from tests.support.drivers import driver

pytestmark = pytest.mark.integration

REFUSED = ray.SessionStartError


@pytest.fixture(autouse=True)
def no_session_stays(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("RAY_ADDRESS", "NBRAY_ADDRESS"):
        monkeypatch.delenv(name, raising=False)
    yield
    ray.shutdown()


@ray.remote
def double(x: int) -> int:
    return 2 * x


@ray.remote
def who_am_i() -> Any:
    worker = ray.worker.global_worker
    return worker.mode, worker.current_job_id, worker.current_task_id, worker.node_ip_address, os.getpid()


# --- what init returns -----------------------------------------------------------------------------------


def test_the_address_info_has_the_keys_of_both_eras_and_they_are_true() -> None:
    info = ray.init(num_cpus=1)

    assert set(info) >= {
        "node_ip_address", "raylet_ip_address", "redis_address", "address", "object_store_address",
        "raylet_socket_name", "webui_url", "session_dir", "object_store_addresses",
        "local_scheduler_socket_names",
    }  # fmt: skip
    assert info["address"] == info["redis_address"]
    assert info["node_ip_address"] == info["raylet_ip_address"] == "127.0.0.1"
    kind, path = info["redis_address"].split("://")
    assert kind == "unix"
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(path)
    assert Path(path).parent == Path(info["session_dir"])
    assert living([Path(info["session_dir"]).parent]).count(Path(info["session_dir"])) == 1
    assert info["webui_url"] is None


def test_init_takes_all_that_the_first_releases_had() -> None:
    ray.init(
        num_workers=3, num_cpus=2, num_custom_resource=0, driver_mode=ray.SCRIPT_MODE, redirect_output=True,
        redirect_worker_output=True, include_webui=False, object_id_seed=0, resources={"licence": 2},
        num_redis_shards=None, object_store_memory=100 << 20, _internal_config="{}", use_pickle=True,
    )  # fmt: skip

    assert ray.get([double.remote(i) for i in range(20)]) == [2 * i for i in range(20)]
    (node,) = ray.status().to_dict()["nodes"]
    assert node["resources"] == {"CPU": 20_000, "licence": 20_000, "node:127.0.0.1": 10_000}


def test_a_node_is_called_by_the_address_it_was_given() -> None:
    info = ray.init(num_cpus=1, node_ip_address="127.0.0.7")

    assert info["node_ip_address"] == "127.0.0.7"
    assert ray.get(double.options(resources={"node:127.0.0.7": 0.5}).remote(4), timeout=10) == 8
    assert ray.get(who_am_i.remote(), timeout=10)[3] == "127.0.0.7"


def test_memory_and_gpus_are_resources_of_the_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    ray.init(num_cpus=1, memory=200 << 20, num_gpus=2)

    (node,) = ray.status().to_dict()["nodes"]
    assert node["resources"]["memory"] == 4 * 10_000
    assert node["resources"]["GPU"] == 2 * 10_000
    assert "0 B of 200 MiB memory used" in ray.status().describe()


def test_the_job_has_the_id_that_it_was_given() -> None:
    ray.init(num_cpus=1, job_id=ray.JobID.from_int(77))

    assert ray.worker.global_worker.current_job_id == ray.JobID.from_int(77)
    assert ray.get(who_am_i.remote(), timeout=10)[1] == ray.JobID.from_int(77)


def test_what_has_no_effect_is_logged_and_the_session_starts(caplog: pytest.LogCaptureFixture) -> None:
    ray.init(num_cpus=1, include_java=True, redis_password="secret")

    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    assert "include_java" in caplog.text
    assert "secret" not in caplog.text
    assert ray.get(double.remote(1), timeout=10) == 2


def test_silent_mode_says_nothing_about_work_that_cannot_run(recwarn: pytest.WarningsRecorder) -> None:
    ray.init(num_cpus=1, driver_mode=ray.SILENT_MODE)

    ref = double.options(resources={"unobtainium": 1}).remote(1)
    with pytest.raises(ray.RayTimeoutError):
        ray.get(ref, timeout=0.3)

    assert ray.worker.global_worker.mode == modes.SILENT_MODE
    assert [str(w.message) for w in recwarn if "unobtainium" in str(w.message)] == []


# --- joining ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["address", "redis_address"])
def test_joining_is_refused_by_a_typed_error_and_the_parameters_are_checked_before(name: str) -> None:
    address: dict[str, Any] = {name: "127.0.0.1:6379"}

    with pytest.raises(REFUSED, match=r"Joining a running cluster .*127\.0\.0\.1:6379.* is not possible yet"):
        ray.init(**address)
    with pytest.raises(ValueError, match=r"^num_cpus cannot be chosen when joining"):
        ray.init(**address, num_cpus=1)
    with pytest.raises(ValueError, match="must be between 1024 and 65535"):
        ray.init(**{**address, name: "127.0.0.1:80"})

    assert not ray.is_initialized()


def test_the_address_is_the_positional_argument() -> None:
    with pytest.raises(REFUSED, match=r"127\.0\.0\.1:6379"):
        ray.init("127.0.0.1:6379")


def test_the_environment_names_a_cluster_to_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6379")

    with pytest.raises(REFUSED, match=r"127\.0\.0\.1:6379"):
        ray.init()
    with pytest.raises(RuntimeError, match="RAY_ADDRESS"):
        ray.init("127.0.0.1:6380")
    ray.init(local_mode=True)  # joins nothing

    assert ray.get(double.remote(2)) == 4


def test_the_address_of_another_drivers_session_is_understood(folder: Path) -> None:
    script = "tell(nbray.init(num_cpus=1)['redis_address']); hear()"
    with driver(script, env={"XDG_RUNTIME_DIR": str(folder)}) as other:
        address = other.told()
        with pytest.raises(REFUSED, match="not possible yet"):
            ray.init(address)


# --- twice, and again --------------------------------------------------------------------------------------


def test_init_shutdown_init_runs_functions_that_were_defined_before_the_first() -> None:
    @ray.remote
    def local(x: int) -> int:
        return ray.get(double.remote(x)) + 1  # type: ignore[no-any-return]

    seen = set()
    for _ in range(3):
        info = ray.init(num_cpus=1)
        seen.add(info["session_dir"])
        assert ray.get(local.remote(20), timeout=20) == 41
        assert ray.get(who_am_i.remote(), timeout=20)[0] == ray.WORKER_MODE
        ray.worker.cleanup(worker=ray.worker.global_worker)
        assert not ray.is_initialized()

    assert len(seen) == 3


def test_init_in_a_task_is_refused_and_the_task_goes_on() -> None:
    @ray.remote
    def init_again() -> Any:
        with pytest.raises(RuntimeError, match="belongs to a session already"):
            ray.init()
        info = ray.init(ignore_reinit_error=True)
        ray.shutdown()  # ends nothing: it has started nothing
        return info, ray.get(double.remote(4))

    ray.init(num_cpus=1)

    assert ray.get(init_again.remote(), timeout=20) == (None, 8)


# --- the classic worker ----------------------------------------------------------------------------------


def test_the_global_worker_says_what_this_process_is() -> None:
    worker = ray.worker.global_worker
    assert worker.mode is None
    assert not worker.connected
    with pytest.raises(ray.RayConnectionError):
        worker.check_connected()

    ray.init(num_cpus=1)

    worker.check_connected()
    assert worker.connected
    assert worker.mode == ray.worker.SCRIPT_MODE == 0
    assert ray.WorkerID(worker.worker_id).binary() == worker.worker_id
    ref = who_am_i.remote()
    mode, job_id, task_id, _ip, pid = ray.get(ref, timeout=10)
    assert (mode, job_id, task_id) == (ray.WORKER_MODE, worker.current_job_id, ref.task_id())
    assert pid != os.getpid()
    with pytest.raises(ray.NbrayError, match="no web UI yet"):
        ray.get_webui_url()


def test_the_classic_worker_is_found_in_each_way_and_loads_nothing_of_the_workers() -> None:
    code = """if True:
        import sys
        import nbray as ray
        import nbray.worker as by_import
        from nbray.worker import SCRIPT_MODE, cleanup, global_worker
        assert by_import is ray.worker
        assert ray.worker.global_worker is global_worker
        assert not hasattr(ray.worker, "no_such_name")
        print(sorted(m for m in sys.modules if m.startswith("nbray.worker")))
    """

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert result.stdout.strip() == "['nbray.worker']"


# --- leaving -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "busy",
    ["time.sleep(30)", "nbray.get(slow.remote())", "[nbray.get(quick.remote()) for _ in iter(int, 1)]"],
)
def test_sigterm_runs_what_the_program_wants_to_do_at_its_end(busy: str) -> None:
    script = f"""
        import atexit
        atexit.register(lambda: tell("at exit"))
        nbray.init(num_cpus=1)

        @nbray.remote
        def slow():
            time.sleep(30)

        @nbray.remote
        def quick():
            pass

        try:
            tell("ready")
            {busy}
        finally:
            tell("finally")
    """
    with driver(script) as running:
        assert running.told() == "ready"
        running.kill(15)

        assert running.told() == "finally"
        assert running.told() == "at exit"
        assert running.ended() == 128 + 15


def test_a_sigterm_handler_of_the_programs_own_stays_and_a_forked_child_dies_as_ever() -> None:
    script = """
        import multiprocessing
        nbray.init(num_cpus=1)
        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(30,))
        child.start()
        child.terminate()
        child.join()
        tell(child.exitcode)
        nbray.shutdown()
        tell(signal.getsignal(signal.SIGTERM) == signal.SIG_DFL)
        signal.signal(signal.SIGTERM, lambda *_: tell("mine"))
        nbray.init(num_cpus=1)
        os.kill(os.getpid(), 15)
        nbray.shutdown()
        os.kill(os.getpid(), 15)
    """
    with driver(script) as running:
        assert running.told() == -15
        assert running.told() is True
        assert [running.told(), running.told()] == ["mine", "mine"]
        assert running.ended() == 0
