"""Two drivers at once, in one directory: neither knows of the other."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.drivers import driver, is_stopped, recorded, remains
from tests.support.waiting import until

pytestmark = pytest.mark.integration

SCRIPT = """
import numpy as np
nbray.init(num_cpus=1, temp_dir=os.environ["FOLDER"])
@nbray.remote
def work(path):
    while not os.path.exists(path):
        time.sleep(0.002)
    return 7
kept = nbray.put(np.full(200_000, float(os.environ["NUMBER"])))
running = work.remote(os.environ["FOLDER"] + "/go")
data = nbray.status().to_dict()
tell([data["session_dir"], data["processes"]])
hear()
tell([nbray.get(running, timeout=10), float(nbray.get(kept).mean())])
tell(nbray.get(work.remote(os.environ["FOLDER"] + "/go"), timeout=10))
give_up_s = time.monotonic() + 10
while not (redis := nbray.status().to_dict()["redis"])["connected"] and time.monotonic() < give_up_s:
    time.sleep(0.01)
tell(redis)
"""


@pytest.mark.parametrize("ending", ["kill -9 of the driver", "kill -9 of its daemon", "shutdown"])
def test_the_end_of_one_leaves_the_other_working(folder: Path, ending: str) -> None:
    with (
        driver(SCRIPT, env={"FOLDER": str(folder), "NUMBER": "1"}) as one,
        driver(SCRIPT, env={"FOLDER": str(folder), "NUMBER": "2"}) as other,
    ):
        one_dir, pids = one.told()
        other_dir, _ = other.told()
        assert one_dir != other_dir
        before = recorded([pids["daemon"], pids["zygote"], pids["redis"], *pids["workers"]])

        if ending == "kill -9 of the driver":
            one.kill()
        elif ending == "kill -9 of its daemon":
            os.kill(pids["daemon"], signal.SIGKILL)
        else:
            (folder / "go").touch()
            one.say()
            assert one.ended() == 0
        with_directory = "daemon" not in ending  # that one is the living driver's to remove
        until(
            lambda: is_stopped(one_dir, before, with_directory=with_directory), remains(one_dir, before), 2.0
        )

        (folder / "go").touch()
        other.say()
        assert other.told() == [7, 2.0]
        assert other.told() == 7
        redis = other.told()
        assert (redis["connected"], redis["restarts"]) == (True, 0)
        assert other.ended() == 0


def test_a_session_started_inside_a_task_is_one_of_its_own(folder: Path) -> None:
    script = """
        nbray.init(num_cpus=1, temp_dir=os.environ["FOLDER"])
        @nbray.remote
        def inner():
            code = ("import nbray\\n"
                    "nbray.init(num_cpus=1, log_to_driver=False)\\n"
                    "print(nbray.get(nbray.remote(lambda: 42).remote(), timeout=10))\\n")
            return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
        tell(nbray.get(inner.remote(), timeout=20))
        tell(nbray.get(nbray.remote(lambda: 7).remote(), timeout=10))
    """
    with driver(script, env={"FOLDER": str(folder)}) as running:
        assert running.told() == "42\n"
        assert running.told() == 7
        assert running.ended() == 0
