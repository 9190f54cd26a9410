"""This module says what is known of VMs' earlier migrations, and of those that are under way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kubeballoon.cluster.vm_migrations import KubeVirtMigration
from kubeballoon.core.migration import MigrationUnderWay

_LONGEST_REST = 32  # by how many times the rest is longer after failures, at the most


@dataclass(frozen=True, slots=True)
class MigrationHistory:
    """A MigrationHistory is what is known of the migrations of one VM, the latest first."""

    migrations: tuple[KubeVirtMigration, ...]

    @property
    def failures(self) -> int:
        """How many of the latest migrations failed, one after the other."""
        succeeded = (number for number, each in enumerate(self.migrations) if each.ended and not each.failed)
        last = next(succeeded, len(self.migrations))
        return sum(each.failed for each in self.migrations[:last])

    @property
    def under_way(self) -> KubeVirtMigration | None:
        """The latest migration that has not ended; None if all have."""
        return next((each for each in self.migrations if not each.ended), None)

    def under_way_for(self, now: float) -> float:
        """Return for how long a migration has been under way, seconds; 0 if none is."""
        return 0.0 if self.under_way is None else now - self.under_way.begun_at.timestamp()

    def rested(self, now: float) -> float:
        """Return for how long the VM has rested, seconds; they count half after one failure, a quarter after two."""
        return (now - self.migrations[0].begun_at.timestamp()) / min(_LONGEST_REST, 1 << self.failures)


def read_histories(migrations: Iterable[KubeVirtMigration]) -> dict[str, MigrationHistory]:
    """Collect the migrations of each VM, by its namespace and name."""
    by_vm: dict[str, list[KubeVirtMigration]] = {}
    for each in migrations:
        by_vm.setdefault(each.vm, []).append(each)
    return {
        vm: MigrationHistory(tuple(sorted(some, key=lambda each: each.begun_at, reverse=True)))
        for vm, some in by_vm.items()
    }


def all_under_way(histories: Mapping[str, MigrationHistory]) -> list[MigrationUnderWay]:
    """List the migrations that have not ended, whoever made them."""
    return [
        MigrationUnderWay(each.vm, each.target)
        for history in histories.values()
        for each in history.migrations
        if not each.ended
    ]


def received_from(histories: Mapping[str, MigrationHistory], since: float) -> dict[str, frozenset[str]]:
    """Find from which nodes VMs were migrated to each node since a moment; failed migrations do not count."""
    found: dict[str, set[str]] = {}
    for history in histories.values():
        for each in history.migrations:
            recent = each.begun_at.timestamp() > since
            if recent and not each.failed and each.source is not None and each.target is not None:
                found.setdefault(each.target, set()).add(each.source)
    return {target: frozenset(sources) for target, sources in found.items()}
