"""The `rung-agent` command."""

from __future__ import annotations

import asyncio
import logging
import signal
from pathlib import Path

import click

from rung.agent.mirror import RetryDelays
from rung.agent.options import Address, Duration, Size
from rung.agent.runtime import Agent, Settings


@click.command(
    context_settings={"auto_envvar_prefix": "RUNG_AGENT", "show_default": True, "help_option_names": ["-h", "--help"]},
    epilog="""Credentials come from the usual environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
    AWS_REGION, web identity), never from the command line.

    \b
    Try it beside a Triton on this machine:
      rung-agent --repository s3://models/demo --endpoint http://localhost:7070 \\
                 --models-dir ./models --listen 127.0.0.1:8090
      curl -s localhost:8090/v1/inventory
    """,
)
@click.option("--repository", required=True, show_envvar=True, help="Model repository: s3://BUCKET/PREFIX.")
@click.option("--endpoint", show_envvar=True, help="An S3 that is not AWS: http(s)://HOST:PORT.")
@click.option(
    "--models-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/models"),
    show_envvar=True,
    help="Where the mirror goes: the folder that Triton has as --model-repository.",
)
@click.option(
    "--disk-budget", type=Size(), default="2Gi", show_envvar=True, help="What all versions together may take."
)
@click.option("--listen", type=Address(), default="0.0.0.0:8090", show_envvar=True, help="Address of the HTTP API.")
@click.option(
    "--triton",
    type=Address(),
    default="localhost:8001",
    show_envvar=True,
    help="Triton's gRPC API, asked before anything is evicted: what Triton has loaded stays.",
)
@click.option(
    "--triton-metrics",
    type=Address(),
    default="127.0.0.1:8002",
    show_envvar=True,
    help="Triton's metrics: /metrics passes on its request counters, so that Prometheus has one port to scrape.",
)
@click.option(
    "--triton-process",
    default="tritonserver",
    show_envvar=True,
    help="Name of Triton's process; its CPU time is found through the pod's shared process namespace.",
)
@click.option(
    "--triton-memory-limit",
    type=Size(),
    show_envvar=True,
    help="Memory limit of the Triton container (from the downward API; the agent can't see it).",
)
@click.option(
    "--gate-file",
    type=click.Path(dir_okay=False, path_type=Path),
    show_envvar=True,
    help="Where the gate beside Triton reads its tasks; without it there is no gate.",
)
@click.option(
    "--gate-metrics",
    type=Address(),
    default="127.0.0.1:8102",
    show_envvar=True,
    help="The gate's metrics, where there is a gate: /metrics passes them on.",
)
@click.option("--poll-interval", type=Duration(), default="10s", show_envvar=True, help="Between two listings.")
@click.option("--retry-first", type=Duration(), default="5s", show_envvar=True, help="Wait after a failed download.")
@click.option("--retry-longest", type=Duration(), default="5m", show_envvar=True, help="The wait doubles up to this.")
@click.option("--deadline", type=Duration(), default="10s", show_envvar=True, help="For each call to the repository.")
@click.option("--log-level", type=click.Choice(["debug", "info", "warning", "error"]), default="info", show_envvar=True)
def main(
    *,
    repository: str,
    endpoint: str | None,
    models_dir: Path,
    disk_budget: int,
    listen: tuple[str, int],
    triton: tuple[str, int],
    triton_metrics: tuple[str, int],
    triton_process: str,
    triton_memory_limit: int | None,
    gate_file: Path | None,
    gate_metrics: tuple[str, int],
    poll_interval: float,
    retry_first: float,
    retry_longest: float,
    deadline: float,
    log_level: str,
) -> None:
    """The sidecar beside one Triton: mirrors model versions from S3, and reports Triton's CPU time every second.

    Versions appear under the models folder only whole and verified by sha256; what can't be verified is reported by
    name in /v1/inventory. With the repository away it goes on with what it has. It runs as the same user as Triton,
    needs no capability, and writes nowhere but in the models folder.
    """
    logging.basicConfig(level=log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings = Settings(
        repository=repository,
        endpoint=endpoint,
        models_dir=models_dir,
        disk_budget_bytes=disk_budget,
        listen=listen,
        triton=triton,
        triton_metrics=triton_metrics,
        triton_process=triton_process,
        triton_memory_limit_bytes=triton_memory_limit,
        gate_file=gate_file,
        gate_metrics=gate_metrics,
        poll_seconds=poll_interval,
        retry=RetryDelays(retry_first, retry_longest),
        deadline_seconds=deadline,
    )
    try:
        agent = Agent(settings)
    except ValueError as error:
        raise click.UsageError(str(error)) from None
    try:
        asyncio.run(_run(agent))
    except OSError as error:
        raise click.ClickException(f"can't start: {error}") from None


async def _run(agent: Agent) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await agent.run(stop)


if __name__ == "__main__":
    main()
