"""The adapter against a real Prometheus, and against servers that mean it no good."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio
from click.testing import CliRunner
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from rung.adapters.prometheus import CpuSource, MetricsUnavailable, Prometheus
from rung.cli import main as rung
from rung.core.signals import age_seconds, demand_samples, utilization_samples
from servers.ports import free_port
from servers.prometheus import Prometheus as Server
from servers.prometheus import Target

pytestmark = [pytest.mark.cluster, pytest.mark.paced]
NAMESPACE = "edge"
STRANGE = 'a.b+c|d"e\\f'
"""A name that no pod can have, and that would break a careless query."""


class Exporter:
    """A target with the metrics of a Triton pod, its agent and cAdvisor; it counts on while it lives."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        labels = ("model", "version")
        self.cpu = Counter("rung_agent_triton_cpu_seconds", "", registry=registry)
        self.cadvisor = Counter("container_cpu_usage_seconds", "", ("container",), registry=registry)
        # Triton does not end its counters in `_total`, which this library's counters must.
        self.success = Gauge("nv_inference_request_success", "", labels, registry=registry)
        self.pending = Gauge("nv_inference_pending_request_count", "", labels, registry=registry)
        self.server, self.thread = start_http_server(0, "127.0.0.1", registry)
        self.address = f"127.0.0.1:{self.server.server_address[1]}"
        self._stop = threading.Event()
        self._counting = threading.Thread(target=self._count, daemon=True)
        self._counting.start()

    def _count(self) -> None:
        started = last = time.monotonic()
        while not self._stop.wait(0.02):
            now = time.monotonic()
            self.cpu.inc(0.5 * (now - last))
            self.cadvisor.labels("triton").inc(0.25 * (now - last))
            self.cadvisor.labels("agent").inc(9 * (now - last))
            self.success.labels("digits", "1").inc(10 * (now - last))
            self.pending.labels("digits", "1").set(min(3.0, now - started))
            last = now

    def stop(self) -> None:
        self._stop.set()
        self._counting.join()
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()


@pytest.fixture(scope="module")
def exporter() -> Iterator[Exporter]:
    exporter = Exporter()
    yield exporter
    exporter.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, exporter: Exporter) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("prometheus"))
    try:
        server.scrape(
            Target(exporter.address, {"namespace": NAMESPACE, "pod": "triton-0"}),
            Target(exporter.address, {"namespace": NAMESPACE, "pod": STRANGE}),
            Target(exporter.address, {"namespace": "other", "pod": "triton-0"}),
            Target(exporter.address, {"namespace": NAMESPACE, "pod": "triton-01"}),
        ).start()
        # Prometheus spreads first scrapes over an interval: wait until every one has six samples.
        server.wait_until(
            lambda: len(server.query("count_over_time(up[1m]) > 5")) == 4, "every target was scraped six times"
        )
        yield server
    finally:
        server.stop()


@pytest_asyncio.fixture
async def connect() -> AsyncIterator[Callable[..., Prometheus]]:
    made: list[Prometheus] = []

    def make(url: str, **options: object) -> Prometheus:
        made.append(Prometheus(url, **{"deadline_seconds": 10.0, **options}))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for one in made:
        await one.close()


async def test_fresh_samples_become_the_signals(server: Server, connect: Callable[..., Prometheus]) -> None:
    found = await connect(server.url).read(NAMESPACE, ["triton-0", STRANGE, "not-there"])

    assert set(found.cpu_seconds) == set(found.success) == {"triton-0", STRANGE}
    assert found.failure == {}
    utilization = utilization_samples(found.cpu_seconds["triton-0"], 1.0)
    assert len(utilization) >= 4
    assert sum(s.value for s in utilization) / len(utilization) == pytest.approx(0.5, rel=0.3)
    demand = demand_samples(found.success["triton-0"], (), found.pending["triton-0"])["digits"]
    assert sum(s.value for s in demand) / len(demand) == pytest.approx(10, rel=0.4)
    age = age_seconds(utilization, time.time())
    assert age is not None
    assert age < 10


async def test_cadvisor_is_read_for_the_container_triton(server: Server, connect: Callable[..., Prometheus]) -> None:
    found = await connect(server.url, cpu_source=CpuSource.CADVISOR).read(NAMESPACE, ["triton-0"])
    (series,) = found.cpu_seconds["triton-0"]
    assert series.labels["container"] == "triton"


async def test_no_pods_no_query(connect: Callable[..., Prometheus]) -> None:
    found = await connect(f"http://127.0.0.1:{free_port()}").read(NAMESPACE, [])
    assert found.cpu_seconds == {}


async def test_target_that_is_down_grows_old(
    server: Server, exporter: Exporter, connect: Callable[..., Prometheus], tmp_path: object
) -> None:
    victim = Exporter()
    targets = server._targets
    prometheus = connect(server.url)
    try:
        server.scrape(*targets, Target(victim.address, {"namespace": NAMESPACE, "pod": "victim"}))
        server.wait_until(lambda: len(server.query('up{pod="victim"} == 1')) == 1, "the victim is scraped")
        victim.stop()
        server.wait_until(lambda: len(server.query('up{pod="victim"} == 0')) == 1, "the victim is down")
        found = await prometheus.read(NAMESPACE, ["victim", "triton-0"])
        newest = max(s.time_seconds for s in found.cpu_seconds["victim"][0].samples)
        fresh = max(s.time_seconds for s in found.cpu_seconds["triton-0"][0].samples)
        # The last samples are still there, with their times; Prometheus' mark of staleness is none of them.
        assert newest < fresh
    finally:
        server.scrape(*targets)


async def test_hung_prometheus_is_given_up_and_found_again(server: Server, connect: Callable[..., Prometheus]) -> None:
    prometheus = connect(server.url, deadline_seconds=1.0)
    server.pause()
    try:
        for _ in range(2):
            with pytest.raises(MetricsUnavailable, match=r"did not answer within 1 s|still has not answered"):
                await asyncio.wait_for(prometheus.read(NAMESPACE, ["triton-0"]), 30)
    finally:
        server.resume()

    async def back() -> None:
        while True:
            try:
                assert (await prometheus.read(NAMESPACE, ["triton-0"])).cpu_seconds
            except MetricsUnavailable:
                await asyncio.sleep(0.1)
            else:
                return

    await asyncio.wait_for(back(), 60)


async def test_refused_query_is_told(server: Server, connect: Callable[..., Prometheus]) -> None:
    with pytest.raises(MetricsUnavailable, match="refused the query"):
        await connect(server.url, range_seconds=-1).read(NAMESPACE, ["triton-0"])


async def test_wrong_address(connect: Callable[..., Prometheus]) -> None:
    url = f"http://user:secret@127.0.0.1:{free_port()}"
    with pytest.raises(MetricsUnavailable, match="Connection refused") as caught:
        await connect(url).read(NAMESPACE, ["triton-0"])
    assert "secret" not in str(caught.value)
    with pytest.raises(ValueError, match="http"):
        Prometheus("ftp://example.org")
    with pytest.raises(MetricsUnavailable, match="no-such-host"):
        await connect("http://no-such-host.invalid").read(NAMESPACE, ["triton-0"])


@contextmanager
def hostile(behave: Callable[[socket.socket], None]) -> Iterator[str]:
    """A server that reads a request and then does as it likes."""
    ended = threading.Event()

    def talk(connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                behave(connection)
            except OSError:
                pass

    def accept() -> None:
        while not ended.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                continue
            thread = threading.Thread(target=talk, args=(connection,), daemon=True)
            thread.start()
            threads.append(thread)

    threads: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            ended.set()
            thread.join()
            for thread in threads:
                thread.join(10)


def says(body: bytes, *headers: str, status: str = "200 OK") -> Callable[[socket.socket], None]:
    head = "\r\n".join([f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""])
    return lambda connection: connection.sendall(head.encode() + body)


def result(text: str) -> bytes:
    return f'{{"status":"success","data":{{"result":{text}}}}}'.encode()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"<html>", "is no JSON"),
        (b"", "is no JSON"),
        (b"\xff\xfe\x00", "is no JSON|unknown shape"),
        (b"[]", "unknown shape"),
        (b"null", "unknown shape"),
        (b'{"data":{}}', "unknown shape"),
        (result("{}"), "unknown shape"),
        (result("[1]"), "unknown shape"),
        (result('[{"metric":{"pod":7},"values":[]}]'), "unknown shape"),
        (result('[{"metric":{},"values":[[1]]}]'), "unknown shape"),
        (result('[{"metric":{},"values":[[1,"many"]]}]'), "unknown shape"),
        (result('[{"metric":{},"values":[[1,{}]]}]'), "unknown shape"),
        (result(f'[{{"metric":{{}},"values":[[{"9" * 400},"1"]]}}]'), "unknown shape"),
        (b"[" * 200_000, "unknown shape|is no JSON"),
    ],
)
async def test_malformed_answers(connect: Callable[..., Prometheus], body: bytes, words: str) -> None:
    with hostile(says(body)) as url, pytest.raises(MetricsUnavailable, match=words):
        await connect(url).read(NAMESPACE, ["triton-0"])


async def test_other_ill_will(connect: Callable[..., Prometheus]) -> None:
    cases: list[tuple[Callable[[socket.socket], None], str]] = [
        (says(b"x" * 5000), "larger than 1000 bytes"),
        (says(gzip.compress(b"x"), "Content-Encoding: gzip"), "compressed"),
        (says(b"", "Location: http://127.0.0.1:1/", status="302 Found"), "can't be read"),
        (says(b"busy", status="503 Service Unavailable"), "refused the query: HTTP Status Code 503"),
        (lambda connection: connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"), "can't be read"),
        (lambda connection: None, "can't be read"),
    ]
    for behave, words in cases:
        with hostile(behave) as url, pytest.raises(MetricsUnavailable, match=words):
            await connect(url, max_response_bytes=1000).read(NAMESPACE, ["triton-0"])


@pytest.mark.parametrize("head", [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
async def test_trickle_is_cut_off(connect: Callable[..., Prometheus], head: bytes) -> None:
    """Neither a byte of a header nor one of the body now and then holds the operator, or a thread of it."""

    def trickle(connection: socket.socket) -> None:
        connection.sendall(head)
        ends = time.monotonic() + 60
        while time.monotonic() < ends:
            connection.sendall(b"x")
            time.sleep(0.05)

    with hostile(trickle) as url:
        prometheus = connect(url, deadline_seconds=0.5)
        with pytest.raises(MetricsUnavailable, match="did not answer within"):
            await asyncio.wait_for(prometheus.read(NAMESPACE, ["triton-0"]), 30)

        async def threads_ended() -> None:
            while any(line.busy for line in prometheus._lines.values()):  # noqa: ASYNC110 - threads set no event
                await asyncio.sleep(0.05)

        await asyncio.wait_for(threads_ended(), 30)


# ----------------------------------------------------------------------------------------------------- `rung record`


def recorded(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(rung, ["record", *arguments])
    return done.exit_code, done.output


def test_record_writes_what_all_servers_of_a_namespace_were_asked(server: Server, tmp_path: Path) -> None:
    status, said = recorded(
        "digits", "--prometheus", server.url, "-n", "other", "--last", "60s", "--out", str(tmp_path)
    )
    assert status == 0, said
    rates = [float(line) for line in (tmp_path / "digits.txt").read_text().splitlines()]
    assert len(rates) == 60
    assert "60 s, " in said
    assert "of them are not known and count as 0" in said, "Prometheus has not run for a minute"
    known = [rate for rate in rates if rate > 0]
    assert sum(known[2:-2]) / len(known[2:-2]) == pytest.approx(10, rel=0.3)
    # In the other namespace three pods serve the same model.
    status, said = recorded(
        "digits", "--prometheus", server.url, "-n", NAMESPACE, "--last", "60s", "--out", str(tmp_path)
    )
    assert status == 0, said
    several = [rate for line in (tmp_path / "digits.txt").read_text().splitlines() if (rate := float(line)) > 0]
    assert sum(several[2:-2]) / len(several[2:-2]) == pytest.approx(30, rel=0.3)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nobody"], "knows nothing of a model nobody in the namespace edge in the last 1h"),
        (["digits", "--last", "1y"], "--last: "),
        (["digits", "--last", "169h"], "from 1s to 168h (a week) can be recorded"),
        (["digits", "--prometheus", "ftp://x"], "must start with http://"),
        (["digits", "--prometheus", "http://127.0.0.1:1"], "can't be read"),
        (["digits", "--out", "/dev/null/x"], "can't be written"),
    ],
)
def test_record_says_what_is_wrong(server: Server, arguments: list[str], sentence: str) -> None:
    status, said = recorded("--prometheus", server.url, "-n", NAMESPACE, "--deadline", "3", *arguments)
    assert status == 1
    assert sentence in said
