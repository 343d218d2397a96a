"""Many sites seen from one place: the examples' configurations with two real Prometheus servers."""

from __future__ import annotations

import http.server
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from rung.control.metrics import Metrics
from rung_devcluster.tools import ensure_tools
from servers.ports import free_port
from servers.prometheus import Prometheus

pytestmark = pytest.mark.cluster

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "sites"


@dataclass
class Operator:
    """The operator's own page of metrics, and one line that stays at its site."""

    metrics: Metrics
    port: int


@pytest.fixture
def operator() -> Iterator[Operator]:
    metrics = Metrics()

    class Page(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            from prometheus_client import generate_latest  # noqa: PLC0415 - the test's own

            body = generate_latest(metrics.registry) + b"nv_inference_request_success 5\n"
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Operator(metrics, server.server_port)
    server.shutdown()
    server.server_close()


class Configured(Prometheus):
    """A Prometheus with a configuration and flags of its own."""

    def __init__(self, folder: Path, configuration: Mapping[str, object], *flags: str) -> None:
        super().__init__(folder, free_port())
        self.configuration, self.flags = configuration, flags

    def start(self) -> Prometheus:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "own.yml").write_text(yaml.safe_dump(dict(self.configuration)))
        with (self.folder / "prometheus.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    str(ensure_tools(["prometheus"])["prometheus"]), f"--config.file={self.folder / 'own.yml'}",
                    f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address=127.0.0.1:{self.port}",
                    *self.flags,
                ],
                stdout=log, stderr=log, cwd=self.folder,
            )  # fmt: skip
        self.wait_until(self._is_ready, "it is ready")
        return self


def test_what_rung_says_of_a_site_comes_to_the_centre_also_what_it_said_while_the_line_was_cut(
    operator: Operator, tmp_path: Path
) -> None:
    rules = {"rule_files": [str(EXAMPLES / "rules.yml")], "global": {"evaluation_interval": "1s"}}
    centre = Configured(tmp_path / "centre", rules, "--web.enable-remote-write-receiver")
    text = (EXAMPLES / "site.yml").read_text().replace("SITE", "harbour").replace("CENTRE", centre.url)
    configuration = yaml.safe_load(text)
    targets = [{"targets": [f"127.0.0.1:{operator.port}"]}]
    configuration["scrape_configs"] = [{"job_name": "rung-operator", "static_configs": targets}]
    site = Configured(tmp_path / "site", configuration)
    accuracy = operator.metrics.normalized_accuracy.labels("edge/pool", "digits", "triton-0")
    operator.metrics.last_pass.labels("edge/pool").set(time.time())
    try:
        accuracy.set(0.97)
        centre.start()
        site.start()

        def seen(expression: str) -> list[dict[str, object]]:
            return centre.query(expression)

        centre.wait_until(lambda: bool(seen('rung_normalized_accuracy{site="harbour"} == 0.97')), "it is heard")
        centre.wait_until(lambda: bool(seen('site:rung_normalized_accuracy:mean{site="harbour"} == 0.97')), "the rule")
        site.wait_until(lambda: bool(site.query("nv_inference_request_success")), "the site scrapes requests")
        assert seen("nv_inference_request_success") == [], "they stay at the site"
        assert seen('ALERTS{alertname="RungSilent",alertstate="firing"}') == []
        # The line is cut; what happens meanwhile is heard when it is back.
        centre.kill()
        accuracy.set(0.80)
        site.wait_until(lambda: bool(site.query("rung_normalized_accuracy == 0.8")), "the site knows")
        accuracy.set(0.97)
        site.wait_until(lambda: bool(site.query("rung_normalized_accuracy == 0.97")), "and it is over")
        centre.start()
        centre.wait_until(
            lambda: bool(seen('min_over_time(rung_normalized_accuracy{site="harbour"}[10m]) == 0.8')),
            "the centre hears what it missed",
        )
    finally:
        site.stop()
        centre.stop()


def test_every_series_that_the_examples_name_is_one_of_the_operator() -> None:
    exported = {
        f"{family.name}{'_total' if family.type == 'counter' else ''}" for family in Metrics().registry.collect()
    }
    (write,) = yaml.safe_load((EXAMPLES / "site.yml").read_text())["remote_write"]
    (rule,) = write["write_relabel_configs"]
    named = {f"rung_{name}" for name in rule["regex"].removeprefix("rung_(").removesuffix(")").split("|")}
    assert named <= exported
    used = (EXAMPLES / "rules.yml").read_text()
    assert all(name in named or name not in used for name in exported)
