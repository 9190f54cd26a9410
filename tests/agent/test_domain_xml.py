"""What a libvirt daemon writes about its domain is read, bounded or refused; it may be anybody's daemon."""

from __future__ import annotations

import pytest

from kubeballoon.agent.hypervisor.domain_xml import LARGEST_KIB, LONGEST_XML, DomainXml, read_domain
from kubeballoon.agent.hypervisor.errors import GarbledError

MIB = 1024  # KiB
VIRTIO_MEM = (
    "<memory model='virtio-mem'><target><size unit='KiB'>{}</size><current unit='KiB'>{}</current></target></memory>"
)


def domain(memory: object, devices: str = "", before: str = "") -> str:
    return f"{before}<domain type='kvm'><memory unit='KiB'>{memory}</memory><devices>{devices}</devices></domain>"


def test_the_boot_memory_of_a_domain_is_what_its_virtio_mem_devices_leave() -> None:
    xml = domain(4096 * MIB, "<memballoon model='virtio'/>" + VIRTIO_MEM.format(3072 * MIB, 512 * MIB))
    read = read_domain(xml)
    assert read == DomainXml(
        balloon=True, most=4096 * MIB, boot=1024 * MIB, plugged=512 * MIB, resizable=True, removable=()
    )


REFUSED = {
    "broken": ("<domain", "unclosed token"),
    "empty": ("", "no element found"),
    "no number": (domain("oops"), "'oops' is not a number"),
    "negative": (domain("-5"), "is not a number"),
    "4000 digits": (domain("9" * 4000), "is not a number"),
    "digits of another script": (domain("\u0661\u0662"), "is not a number"),
    "no whole number": (domain(1, VIRTIO_MEM.format("1e30", 1)), "is not a number"),
    "a document type": (domain(1, before="<!DOCTYPE d>"), "it has a document type"),
    "an entity": (domain("&a;", before=f"<!DOCTYPE d [<!ENTITY a '{'1' * 1000}'>]>"), "it has a document type"),
    "an unknown entity": (domain("&a;"), "undefined entity"),
    "deep": (domain("<a>" * 2000), "mismatched tag"),
    "long": (domain(1, "<a/>" * (LONGEST_XML // 4)), "are more than"),
    "no processor": (
        "<domain><vcpus><vcpu id='x' enabled='yes' hotpluggable='yes'/></vcpus></domain>",
        "'x' is not a number",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_xml_that_no_libvirt_writes_is_refused_with_a_reason(name: str) -> None:
    xml, why = REFUSED[name]
    with pytest.raises(GarbledError, match=f"^the XML of its libvirt domain cannot be read: .*{why}") as refused:
        read_domain(xml)
    assert refused.value.reason == "DaemonGarbled"
    assert len(str(refused.value)) < 200


def test_figures_larger_than_any_machine_are_clamped() -> None:
    read = read_domain(domain(1 << 62, VIRTIO_MEM.format(1 << 53, 1 << 53) * 5))
    assert (read.most, read.boot, read.plugged) == (LARGEST_KIB, 0, LARGEST_KIB)
    assert read_domain(domain(1 << 62)).boot == LARGEST_KIB
