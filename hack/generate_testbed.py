"""`make generate` writes what demo and tests would have to build otherwise: the rendered chart and KubeVirt's CRDs.

`make lint` checks that both were made from this checkout. It also compares what they contain, where helm and what
KubeVirt's generator printed are at hand; the tests always compare the chart.
"""

from __future__ import annotations

import argparse
import json
import lzma
import sys
from collections.abc import Iterator
from pathlib import Path

from hack.testbed import chart
from hack.testbed.controlplane import ControlPlaneError, build
from hack.testbed.tools import HELM


def stale() -> Iterator[Path]:
    """Find the files that were not made from this checkout, or would be others if they were made now."""
    if not chart.is_shipped() or (HELM.is_at_hand() and chart.default_objects() != chart.parse(_rendered())):
        yield chart.SHIPPED
    shipped = build.shipped_kubevirt_crds()
    built = build.cache_directory() / build.KUBEVIRT_CRDS_ENTRY
    if not shipped.exists() or (built.exists() and json.loads(build.kubevirt_crds()) != json.loads(built.read_text())):
        yield shipped
    yield from _others(shipped)


def write() -> None:
    """Make them anew.

    Raises:
        ControlPlaneError: helm or KubeVirt's generator cannot be built.
    """
    chart.SHIPPED.write_text(_rendered())
    shipped = build.shipped_kubevirt_crds()
    for other in _others(shipped):
        other.unlink()
    if not shipped.exists():  # KubeVirt's generator, which takes minutes to build, prints the same each time
        shipped.write_bytes(lzma.compress(build.built_kubevirt_crds().read_bytes(), preset=9 | lzma.PRESET_EXTREME))


def _rendered() -> str:
    return chart.header() + chart.without_crds(chart.template())


def _others(shipped: Path) -> list[Path]:
    return [path for path in shipped.parent.glob("crds-*") if path != shipped]


def main() -> int:
    """Write the files, or check them; the exit status of a check is 1 when a file is stale."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a file is stale")
    try:
        if not parser.parse_args().check:
            write()
            return 0
        found = list(stale())
    except ControlPlaneError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for path in found:
        print(f"{path} is stale: run `make generate`", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
