"""Statuses and events on their way to a real API server: the newest counts, and one that is away loses nothing."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from rung.adapters.kubernetes import connect
from rung.control.metrics import Metrics
from rung.control.publish import NUMBERS_EVERY_SECONDS, Note, ObjectKey, Publisher
from servers.apiserver import ApiServer
from servers.manifests import manifest

pytestmark = pytest.mark.cluster

KIND = "InferenceTask"


@asynccontextmanager
async def publishing(api_server: ApiServer, deadline_seconds: float = 5.0) -> AsyncIterator[Publisher]:
    async with connect(api_server.kubeconfig, deadline_seconds=deadline_seconds) as cluster:
        publisher = Publisher(cluster, Metrics())
        writer = asyncio.create_task(publisher.run())
        try:
            yield publisher
        finally:
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)


def make(api_server: ApiServer, namespace: str, name: str = "one") -> ObjectKey:
    api_server.kubectl("apply", "-f", "-", manifest=manifest(KIND, namespace, name))
    return ObjectKey(KIND, namespace, name, read(api_server, namespace, name)["metadata"]["uid"])


def read(api_server: ApiServer, namespace: str, name: str = "one") -> dict[str, Any]:
    path = f"/apis/rung.dev/v1alpha1/namespaces/{namespace}/inferencetasks/{name}"
    return api_server.send("GET", path)[1]


def active(api_server: ApiServer, namespace: str, name: str = "one") -> object:
    return read(api_server, namespace, name).get("status", {}).get("activeVersion")


async def until(condition: Callable[[], bool], what: str, seconds: float = 30.0) -> float:
    began = time.monotonic()
    while not await asyncio.to_thread(condition):
        assert time.monotonic() - began < seconds, what
        await asyncio.sleep(0.05)
    return time.monotonic() - began


async def test_what_matters_is_written_at_once_and_numbers_now_and_then(api_server: ApiServer, namespace: str) -> None:
    key = make(api_server, namespace)

    def demand() -> object:
        return read(api_server, namespace).get("status", {}).get("demand")

    async with publishing(api_server) as publisher:
        publisher.status(key, {"activeVersion": 1, "demand": 1.0})
        await until(lambda: demand() == 1.0, "the first status")
        written = time.monotonic()
        for moved in (2.0, 3.0, 4.0):
            publisher.status(key, {"activeVersion": 1, "demand": moved})
        await until(lambda: demand() != 1.0, "the numbers")
        assert demand() == 4.0, "only the newest was written"
        assert time.monotonic() - written > NUMBERS_EVERY_SECONDS - 1.0
        publisher.status(key, {"activeVersion": 2, "demand": 5.0})
        took = await until(lambda: demand() == 5.0, "the version", NUMBERS_EVERY_SECONDS)
        assert took < NUMBERS_EVERY_SECONDS


async def test_an_api_server_that_hangs_gets_the_newest_status_and_every_event_later(
    api_server: ApiServer, namespace: str
) -> None:
    key = make(api_server, namespace)
    async with publishing(api_server, deadline_seconds=1.0) as publisher:
        api_server.pause()
        try:
            publisher.status(key, {"activeVersion": 1})
            publisher.note(Note(key, "StepDown", "it stepped down"))
            failures = "rung_status_failures_total"
            await until(
                lambda: (publisher._metrics.registry.get_sample_value(failures) or 0) > 0, "an attempt that failed"
            )
            publisher.status(key, {"activeVersion": 2})
        finally:
            api_server.resume()
        await until(lambda: active(api_server, namespace) == 2, "the newest")

        def events() -> list[str]:
            listed = json.loads(api_server.kubectl("-n", namespace, "get", "events.events.k8s.io", "-o", "json"))
            return [event["reason"] for event in listed["items"]]

        await until(lambda: events() == ["StepDown"], "the event")


async def test_an_object_that_is_gone_or_was_made_again_is_let_go(api_server: ApiServer, namespace: str) -> None:
    old = make(api_server, namespace)
    api_server.kubectl("-n", namespace, "delete", "itask", "one")
    async with publishing(api_server) as publisher:
        publisher.status(old, {"activeVersion": 1})
        await until(lambda: not publisher._told, "it is let go")
        new = make(api_server, namespace)
        publisher.status(old, {"activeVersion": 1})
        publisher.status(new, {"activeVersion": 2})
        await until(lambda: active(api_server, namespace) == 2, "its own status")
        await until(lambda: publisher._told.keys() == {new}, "the old one is let go")


async def test_a_status_that_is_refused_holds_nothing_up(api_server: ApiServer, namespace: str) -> None:
    bad, good = make(api_server, namespace), make(api_server, namespace, "two")
    async with publishing(api_server) as publisher:
        publisher.status(bad, {"activeVersion": "three"})
        publisher.status(good, {"activeVersion": 3})
        await until(lambda: active(api_server, namespace, "two") == 3, "the other one")
        publisher.status(bad, {"activeVersion": 3})
        await until(lambda: active(api_server, namespace) == 3, "mended, it is written")


async def test_a_stop_writes_what_waits(api_server: ApiServer, namespace: str) -> None:
    key = make(api_server, namespace)
    async with connect(api_server.kubeconfig) as cluster:
        publisher = Publisher(cluster, Metrics())
        publisher.status(key, {"activeVersion": 1, "demand": 1.0})
        await publisher.flush(10.0)
        publisher.status(key, {"activeVersion": 1, "demand": 2.0})
        await publisher.flush(10.0)
    assert (await asyncio.to_thread(read, api_server, namespace))["status"]["demand"] == 2.0
