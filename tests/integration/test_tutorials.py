"""The programs that the classic tutorials teach, written by us, each checked against a sequential run."""

from __future__ import annotations

import html.parser
import itertools
import random
import sqlite3
import time
import urllib.parse
import urllib.request
import xml.etree.ElementTree as ET
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbray as ray
from tests.support.sessions import session
from tests.support.spans import Span, overlap

pytestmark = pytest.mark.integration
LEAKS_CHECKED_PER = "module"


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    with session(num_cpus=2):
        yield


# --- the first steps ------------------------------------------------------------------------------------


@pytest.fixture
def _two_workers(folder: Path) -> None:
    """Two workers are up: whoever asks for both gets them, however slowly this machine starts one."""

    @ray.remote
    def meet(me: int) -> None:
        (folder / str(me)).touch()
        while not (folder / str(1 - me)).exists():
            time.sleep(0.002)

    ray.get([meet.remote(0), meet.remote(1)], timeout=30)


@pytest.mark.usefixtures("_two_workers")
def test_functions_that_sleep_do_so_side_by_side() -> None:
    @ray.remote
    def slow_function(number: int) -> tuple[int, Span]:
        began = time.monotonic()
        time.sleep(0.05)
        return number, (began, time.monotonic())

    results = ray.get([slow_function.remote(number) for number in range(6)])

    assert [number for number, _ in results] == list(range(6))
    assert overlap([span for _, span in results]) == 2, "two CPUs, two at a time"


def test_tasks_are_chained_by_their_references() -> None:
    def load(number: int) -> Any:
        return np.random.default_rng(number).normal(size=(200, 4))

    def normalise(data: Any) -> Any:
        return (data - data.mean(axis=0)) / data.std(axis=0)

    def features(data: Any) -> Any:
        return np.hstack([data, data**2])

    def loss(data: Any, *others: Any) -> float:
        return float(sum(np.abs(each).sum() for each in (data, *others)))

    r_load, r_normalise, r_features, r_loss = map(ray.remote, (load, normalise, features, loss))

    parts = [r_features.remote(r_normalise.remote(r_load.remote(n))) for n in range(8)]
    losses = [r_loss.remote(part) for part in parts]
    total = r_loss.remote(*parts)

    expected = [features(normalise(load(n))) for n in range(8)]
    assert ray.get(losses) == [loss(part) for part in expected]
    assert ray.get(total) == loss(*expected)


def test_numbers_are_added_in_a_tree() -> None:
    @ray.remote
    def add(a: int, b: int) -> int:
        return a + b

    numbers = random.Random(7).sample(range(10**6), 100)
    left: deque[Any] = deque(numbers)
    depth: dict[Any, int] = dict.fromkeys(numbers, 0)
    while len(left) > 1:
        a, b = left.popleft(), left.popleft()
        left.append(add.remote(a, b))
        depth[left[-1]] = 1 + max(depth[a], depth[b])

    assert ray.get(left[0]) == sum(numbers)
    assert depth[left[0]] == 7, "not a chain of 99"


def test_reduction_of_arrays_in_a_tree_inside_tasks() -> None:
    @ray.remote
    def make(number: int) -> Any:
        return np.full(20_000, number, dtype=np.int64)

    @ray.remote
    def reduce(references: list[Any]) -> Any:
        if len(references) == 1:
            return ray.get(references[0])
        half = len(references) // 2
        return sum(ray.get([reduce.remote(references[:half]), reduce.remote(references[half:])]))

    total = ray.get(reduce.remote([make.remote(number) for number in range(16)]))

    assert (total == sum(range(16))).all()


# --- sampling and searching -------------------------------------------------------------------------------


def test_pi_by_monte_carlo() -> None:
    def inside(seed: int, samples: int) -> int:
        points = np.random.default_rng(seed).random((samples, 2))
        return int((np.square(points).sum(axis=1) <= 1.0).sum())

    sample = ray.remote(inside)
    seeds, each = range(20), 20_000

    hits = sum(ray.get([sample.remote(seed, each) for seed in seeds]))

    assert hits == sum(inside(seed, each) for seed in seeds)
    assert 4 * hits / (each * len(seeds)) == pytest.approx(np.pi, abs=0.02)


def ridge_loss(data: Any, targets: Any, strength: float, degree: int) -> float:
    """Of a polynomial that was fitted to two thirds of the data, on the last third."""
    columns = np.vander(data, degree + 1)
    cut = 2 * len(data) // 3
    left, right = columns[:cut], columns[cut:]
    weights = np.linalg.solve(left.T @ left + strength * np.eye(degree + 1), left.T @ targets[:cut])
    return float(np.mean((right @ weights - targets[cut:]) ** 2))


def test_hyper_parameters_are_searched_and_results_taken_as_they_come() -> None:
    rng = np.random.default_rng(3)
    data = rng.uniform(-1, 1, 300)
    targets = np.sin(3 * data) + rng.normal(scale=0.1, size=300)
    choices = list(itertools.product([0.001, 0.01, 0.1, 1.0, 10.0], [1, 2, 3, 5, 8]))
    evaluate = ray.remote(ridge_loss)
    data_ref, targets_ref = ray.put(data), ray.put(targets)

    running = {evaluate.remote(data_ref, targets_ref, *choice): choice for choice in choices}
    found: dict[tuple[float, int], float] = {}
    while running:
        (ready,), _ = ray.wait(list(running))
        found[running.pop(ready)] = ray.get(ready)

    alone = {choice: ridge_loss(data, targets, *choice) for choice in choices}
    assert found == pytest.approx(alone, rel=1e-9)
    assert min(found, key=lambda choice: found[choice])[1] >= 3


@pytest.mark.usefixtures("_two_workers")
def test_wait_keeps_a_pipeline_full_and_the_number_of_open_tasks_bounded() -> None:
    @ray.remote
    def preprocess(number: int) -> tuple[int, Span]:
        began = time.monotonic()
        time.sleep(random.Random(number).uniform(0.001, 0.01))
        return number * number, (began, time.monotonic())

    numbers = iter(range(40))
    open_tasks = [preprocess.remote(number) for number in itertools.islice(numbers, 4)]
    done: list[tuple[int, Span]] = []
    most_open = 0
    while open_tasks:
        most_open = max(most_open, len(open_tasks))
        ready, open_tasks = ray.wait(open_tasks, num_returns=1)
        done += ray.get(ready)
        open_tasks += [preprocess.remote(number) for number in itertools.islice(numbers, len(ready))]

    assert sorted(value for value, _ in done) == [number * number for number in range(40)]
    assert most_open == 4
    assert overlap([span for _, span in done]) == 2


# --- batch L-BFGS -----------------------------------------------------------------------------------------


def batch_loss(weights: Any, images: Any, labels: Any) -> float:
    scores = images @ weights.reshape(-1, 3)
    scores -= scores.max(axis=1, keepdims=True)
    likelihood = scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))
    return float(-likelihood[np.arange(len(labels)), labels].sum())


def batch_gradient(weights: Any, images: Any, labels: Any) -> Any:
    scores = images @ weights.reshape(-1, 3)
    chances = np.exp(scores - scores.max(axis=1, keepdims=True))
    chances /= chances.sum(axis=1, keepdims=True)
    chances[np.arange(len(labels)), labels] -= 1
    return (images.T @ chances).ravel()


def test_l_bfgs_over_batches_finds_what_it_finds_alone() -> None:
    from scipy.optimize import fmin_l_bfgs_b

    rng = np.random.default_rng(5)
    centres = rng.normal(scale=2, size=(3, 6))
    labels = rng.integers(3, size=600)
    images = centres[labels] + rng.normal(size=(600, 6))
    batches = list(zip(np.split(images, 6), np.split(labels, 6), strict=True))

    remote_loss, remote_gradient = ray.remote(batch_loss), ray.remote(batch_gradient)
    batch_refs = [(ray.put(some), ray.put(of_them)) for some, of_them in batches]

    def full_loss(weights: Any) -> float:
        weights_ref = ray.put(weights)
        return float(sum(ray.get([remote_loss.remote(weights_ref, *refs) for refs in batch_refs])))

    def full_gradient(weights: Any) -> Any:
        weights_ref = ray.put(weights)
        return sum(ray.get([remote_gradient.remote(weights_ref, *refs) for refs in batch_refs]))

    start = np.zeros(18)
    together, loss_together, _ = fmin_l_bfgs_b(full_loss, start, fprime=full_gradient, maxiter=15)
    alone, loss_alone, _ = fmin_l_bfgs_b(
        lambda weights: sum(batch_loss(weights, *batch) for batch in batches),
        start,
        fprime=lambda weights: sum(batch_gradient(weights, *batch) for batch in batches),
        maxiter=15,
    )

    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert loss_together == pytest.approx(loss_alone)
    assert loss_alone < full_loss(start) / 3


# --- a news reader ----------------------------------------------------------------------------------------

FEEDS = 6
ITEMS = 4


@pytest.fixture
def site(tmp_path: Path) -> str:
    """A folder of feeds, pages and links between them, as the URL of its index."""
    for feed in range(FEEDS):
        items = "".join(
            f"<item><title>Übung {feed}.{n}</title><link>page{feed}-{n}.html</link></item>"
            for n in range(ITEMS)
        )
        (tmp_path / f"feed{feed}.xml").write_text(f"<rss><channel>{items}</channel></rss>", "utf-8")
        for n in range(ITEMS):
            other = f"page{(feed + 1) % FEEDS}-{n}.html"
            (tmp_path / f"page{feed}-{n}.html").write_text(
                f"<html><body><p>{'word ' * (feed + n + 1)}</p><a href='{other}'>next</a>"
                f"<a href='nowhere{feed}.html'>gone</a></body></html>",
                "utf-8",
            )
    (tmp_path / "index.txt").write_text("\n".join(f"feed{feed}.xml" for feed in range(FEEDS)), "utf-8")
    return (tmp_path / "index.txt").as_uri()


def fetch(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        text: str = answer.read().decode("utf-8")
    return text


def read_feed(url: str) -> list[tuple[str, str]]:
    """Titles and links of a feed."""
    items = ET.fromstring(fetch(url)).iter("item")
    return [
        (item.findtext("title", ""), urllib.parse.urljoin(url, item.findtext("link", ""))) for item in items
    ]


class Page(html.parser.HTMLParser):
    """The words and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.words = 0
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value for name, value in attrs if (tag, name) == ("a", "href") and value]

    def handle_data(self, data: str) -> None:
        self.words += data.count("word")


def read_page(url: str) -> tuple[str, int, list[str]]:
    page = Page()
    page.feed(fetch(url))
    return url, page.words, [urllib.parse.urljoin(url, link) for link in page.links]


def test_news_reader_crawls_feeds_and_pages_into_a_database(site: str, tmp_path: Path) -> None:
    r_feed, r_page = ray.remote(read_feed), ray.remote(read_page)
    database = sqlite3.connect(tmp_path / "news.db")
    database.execute("create table title (url text primary key, title text)")
    database.execute("create table page (url text primary key, words integer)")
    database.execute("create table broken (url text primary key)")

    seen: set[str] = set()
    running = {r_feed.remote(urllib.parse.urljoin(site, name)): "" for name in fetch(site).split()}
    while running:
        ready, _ = ray.wait(list(running), num_returns=1)
        url = running.pop(ready[0])
        try:
            found = ray.get(ready[0])
        except OSError:  # a link that leads nowhere is no reason to stop
            database.execute("insert into broken values (?)", (url,))
            continue
        if url:
            _, words, links = found
            database.execute("insert into page values (?, ?)", (url, words))
        else:  # maybe after a page of it, to which another page has linked
            database.executemany("insert into title (title, url) values (?, ?)", found)
            links = [link for _, link in found]
        for link in links:
            if link not in seen:
                seen.add(link)
                running[r_page.remote(link)] = link

    stored = database.execute(
        "select title, words from page join title using (url) order by title"
    ).fetchall()
    broken = database.execute("select url from broken").fetchall()
    database.close()
    assert stored == [(f"Übung {feed}.{n}", feed + n + 1) for feed in range(FEEDS) for n in range(ITEMS)]
    assert sorted(url.rpartition("/")[2] for (url,) in broken) == [f"nowhere{f}.html" for f in range(FEEDS)]
