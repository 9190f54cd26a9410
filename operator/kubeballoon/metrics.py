"""What the parts export to Prometheus has in common: names, units and labels in one place per metric."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Metric, ProcessCollector, disable_created_metrics
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily

disable_created_metrics()  # a second series for each counter, which nobody asks for

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Seconds: from a libvirt call that is answered at once to one that misses its deadline."""

Sample = tuple[tuple[str, ...], float | None]
"""Values of the labels, and the metric's; None where it is not known, which exports nothing."""


@dataclass(frozen=True, slots=True)
class Gauge:
    """One gauge, read when it is scraped: what is gone by then is not exported, so that series do not pile up."""

    name: str
    about: str
    labels: tuple[str, ...] = ()

    def family(self, samples: Iterable[Sample]) -> Metric:
        """The gauge with its present values."""
        family = GaugeMetricFamily(self.name, self.about, labels=self.labels)
        for labels, value in samples:
            if value is not None:
                family.add_metric(labels, value)
        return family


def new_registry() -> CollectorRegistry:
    """A registry with this process's own figures; none is shared, so a process, or a test, may have several."""
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    return registry


async def expose(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """All metrics as text, and its content type, for a scraper that accepts ``accept``.

    They are read here, where nothing changes meanwhile, and written in a thread: there may be many.
    """
    encode, content_type = choose_encoder(accept)
    text: bytes = await asyncio.to_thread(encode, _Read(list(registry.collect())))
    return text, content_type


class _Read(CollectorRegistry):
    """Metrics that are read."""

    def __init__(self, metrics: list[Metric]) -> None:
        super().__init__()
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics
