"""This module holds what agent and controller need to export metrics to Prometheus."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, Self, TypeVar

from prometheus_client import CollectorRegistry, Counter, Metric, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from kubeballoon import __version__

disable_created_metrics()  # they double the series of every counter, and nobody queries them

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""The buckets of all histograms, seconds: from a libvirt call that is answered at once to one that misses its
deadline."""

Sample = tuple[tuple[str, ...], float | None]
"""The values of a metric's labels, and the metric's value; a value of None is unknown and is not exported."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """A Gauge describes one metric whose values are collected when Prometheus scrapes them.

    An object that is gone by then is not exported, so that series do not pile up.
    """

    name: str
    about: str
    labels: tuple[str, ...] = ()

    def family(self, samples: Iterable[Sample]) -> Metric:
        """Build the metric from its present values."""
        family = GaugeMetricFamily(self.name, self.about, labels=self.labels)
        for labels, value in samples:
            if value is not None:
                family.add_metric(labels, value)
        return family


class Result(StrEnum):
    """A Result is what became of something that is counted: a value of the label ``result``.

    Each counter has a subclass of its own, which lists all of its results.

    Attributes:
        meaning: what the word means, for people; empty where the word says it.
    """

    meaning: str

    def __new__(cls, value: str, meaning: str = "") -> Self:
        """Make a member of its word and its meaning."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.meaning = meaning
        return member


def describe_results(about: str, results: type[Result]) -> str:
    """Say what a counter counts, and name all its results: "Pages, by result: found or missing (no such page)."."""
    texts = [f"{result} ({result.meaning})" if result.meaning else str(result) for result in results]
    return f"{about}, by result: {', '.join(texts[:-1])} or {texts[-1]}."


R = TypeVar("R", bound=Result)


class ResultCounter(Generic[R]):
    """A ResultCounter counts things by what became of them."""

    def __init__(self, name: str, about: str, results: type[R], registry: CollectorRegistry) -> None:
        """Export a counter of ``about``; each result is exported from the start, so that its first increase is seen."""
        self._counter = Counter(name, describe_results(about, results), ("result",), registry=registry)
        for result in results:
            self._counter.labels(result)

    def count(self, result: R) -> None:
        """Count one thing by what became of it."""
        self._counter.labels(result).inc()


def new_registry(component: str) -> CollectorRegistry:
    """Make a registry with the process's own metrics; none is global, so a process, or a test, may have several.

    Args:
        component: which part of kubeballoon the process is, as in the chart's labels, such as ``agent``.
    """
    registry = CollectorRegistry(auto_describe=False)  # describing would collect from parts that do not run yet
    ProcessCollector(registry=registry)
    build = Gauge(
        "kubeballoon_build_info", "1, with the version of the component that is scraped.", ("component", "version")
    )
    registry.register(_Constant(build.family([((component, __version__), 1.0)])))
    return registry


class _Constant(Collector):
    """A _Constant is a metric that never changes."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


async def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Write all metrics as text.

    Each is collected in the event loop, where none of its values changes meanwhile. Between two of them other work goes
    on, and a thread writes the text: with ten thousand VMs all of that takes too long.

    Args:
        registry: the metrics.
        accept: the scraper's Accept header.

    Returns:
        The text and its content type.
    """
    encode, content_type = choose_encoder(accept)
    metrics = []
    for metric in registry.collect():
        metrics.append(metric)
        await asyncio.sleep(0)
    text: bytes = await asyncio.to_thread(encode, _CollectedMetrics(metrics))
    return text, content_type


class _CollectedMetrics(CollectorRegistry):
    """_CollectedMetrics are metrics that have been collected, in the form that prometheus_client's encoders take."""

    def __init__(self, metrics: list[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
