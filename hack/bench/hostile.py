"""How long hostile launchers hold an agent's event loop, on which all its VMs depend, and what memory they cost it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hack.testbed.hostile.launchers import HONEST, LAUNCHERS_LIES, LIARS_ANSWERS, node_of_liars

_MIB = 1 << 20
_LOOKS = 60  # at half a second each: daemons that hang have been tried again several times by then


def measure() -> list[dict[str, object]]:
    """Run an agent among launchers that lie in every way, and return the longest time that its event loop was held."""
    with tempfile.TemporaryDirectory() as pods, node_of_liars(Path(pods)) as agent:
        agent.until(_all_are_named)
        looks = [agent.look() for _ in range(_LOOKS)]
    return [
        {
            "vms": len(looks[-1]["vms"]),
            "held_seconds": looks[-1]["held"],
            "peak_mib": round(looks[-1]["peak"] / _MIB, 1),
            "looks_at_honest": len({look["sampled"][HONEST] for look in looks}),
        }
    ]


def _all_are_named(look: dict[str, Any]) -> bool:
    vms = look["vms"]
    launchers = [vms.get(name, {}).get("reason") for name in LAUNCHERS_LIES]
    guests = [vms.get(name, {}).get("processors", {}).get("reason") for name in LIARS_ANSWERS]
    return all(launchers) and all(guests)
