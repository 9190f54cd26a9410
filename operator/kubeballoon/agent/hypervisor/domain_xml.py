"""This module reads from the XML of a libvirt domain what the agent needs of it.

The XML is written by the daemon in a launcher pod, which its tenant may have replaced: it can be anything.
"""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass
from typing import NoReturn
from xml.etree import ElementTree as ET

from kubeballoon.agent.hypervisor.errors import GarbledError

LONGEST_XML = 256 << 10  # characters: that of a VM with 64 disks and 512 processors takes 100 KiB
LARGEST_KIB = 1 << 43  # 8 EiB, in KiB: no machine has more memory, and sums of such figures fit everywhere
_MOST_PROCESSORS = 1 << 16
_CHUNK = 16 << 10  # characters that are parsed at a time, so that what is refused is refused early
_WHOLE_NUMBER = re.compile(r"[0-9]{1,20}")

_parsing = threading.Lock()
"""Held while XML is parsed: a tree may take a hundred times the memory of its text, and so there is one at a time."""


@dataclass(frozen=True, slots=True)
class DomainXml:
    """A DomainXml is what is read of a domain's XML; sizes are in KiB.

    Attributes:
        emulated: whether QEMU runs the guest without KVM.
        balloon: whether the domain has a balloon.
        most: what libvirt calls the domain's memory: its boot memory and all of its virtio-mem devices, plugged or not.
        boot: the memory that the guest was booted with.
        plugged: the part of the virtio-mem devices that is plugged in now.
        resizable: whether the domain has virtio-mem devices.
        removable: the names of the processors that can be unplugged, the last one first.
    """

    emulated: bool = False
    balloon: bool = False
    most: int = 0
    boot: int = 0
    plugged: int = 0
    resizable: bool = False
    removable: tuple[str, ...] = ()


def read_domain(xml: str) -> DomainXml:
    """Read a domain's XML.

    Raises:
        GarbledError: it is too long, has a document type (and so perhaps entities), or is not the XML of a domain.
    """
    with _parsing:
        fault = None
        try:
            return _read(_parse(xml))
        except (ET.ParseError, ValueError) as error:
            fault = str(error)
        raise GarbledError(f"the XML of its libvirt domain cannot be read: {fault}")


class _TreeWithoutDoctype(ET.TreeBuilder):
    def doctype(self, *_: object) -> NoReturn:
        """Refuse what only serves to define entities, for libvirt writes none."""
        raise ValueError("it has a document type")


def _parse(xml: str) -> ET.Element:
    if len(xml) > LONGEST_XML:
        raise ValueError(f"{len(xml)} characters are more than {LONGEST_XML}")
    parser = ET.XMLParser(target=_TreeWithoutDoctype())  # noqa: S314 - bounded, and without entities
    for start in range(0, len(xml), _CHUNK):
        parser.feed(xml[start : start + _CHUNK])
    tree: ET.Element = parser.close()
    return tree


def _read(tree: ET.Element) -> DomainXml:
    balloon = tree.find("./devices/memballoon")
    devices = tree.findall("./devices/memory[@model='virtio-mem']")
    most = _kib(tree.findtext("./memory"))
    sizes = sum(_kib(device.findtext("./target/size")) for device in devices)
    plugged = sum(_kib(device.findtext("./target/current")) for device in devices)
    return DomainXml(
        emulated=tree.get("type") == "qemu",
        balloon=balloon is not None and balloon.get("model") != "none",
        most=most,
        boot=max(0, most - sizes),
        plugged=min(plugged, LARGEST_KIB),
        resizable=bool(devices),
        removable=_removable(tree),
    )


def _removable(tree: ET.Element) -> tuple[str, ...]:
    """Read the names of the processors that can be unplugged, the last one first.

    QEMU itself is not asked: that would mark the domain as tampered with for as long as it runs.
    """
    found = tree.findall("./vcpus/vcpu[@enabled='yes'][@hotpluggable='yes']")
    indices = {_number(each.get("id"), _MOST_PROCESSORS) for each in found}
    return tuple(f"vcpu{index}" for index in sorted(indices, reverse=True))


def _kib(text: str | None) -> int:
    return _number(text, LARGEST_KIB)


def _number(text: str | None, largest: int) -> int:
    """Read a number; 0 where there is none, and ``largest`` where it is larger.

    Raises:
        ValueError: the text is something else.
    """
    if text is None:
        return 0
    if not _WHOLE_NUMBER.fullmatch(text.strip()):
        raise ValueError(f"{text[:20]!r} is not a number")
    return min(int(text), largest)
