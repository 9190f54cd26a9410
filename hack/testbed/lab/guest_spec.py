"""GuestSpec: the settings of a lab guest, and the libvirt domain that KubeVirt would define for it."""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

MIB = 1 << 20

PLUGGABLE = "ua-memory"
"""The alias of the virtio-mem device, by which a guest's memory grows."""

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
_FIRMWARE_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_DNS, "lab.kubeballoon.io")

KERNEL_OPTIONS = "console=ttyS0 quiet panic=-1 psi=1 memhp_default_state=online no_timer_check"
"""The kernel's command line in every guest.

no_timer_check: without it, an emulated guest on a busy machine may panic with "IO-APIC + timer doesn't work".
"""

# The paths are those inside the mount namespace that launcher.sh makes. Unlike KubeVirt's domains, this one boots the
# lab's kernel, has a port for the load generator, and forbids KSM unless the guest is mergeable. All else that matters
# to memory and processors is as in KubeVirt's.
_DOMAIN = """\
<domain type='{virtualization}'>
  <name>{domain_name}</name>
  <uuid>{firmware_uuid}</uuid>
{max_memory}{backing}  <memory unit='b'>{memory_bytes}</memory>
  <vcpu current='{vcpus}'>{max_vcpus}</vcpu>
  <vcpus>{vcpu_list}</vcpus>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
    <kernel>/mnt/image/vmlinuz</kernel>
    <initrd>/mnt/image/initramfs</initrd>
    <cmdline>{KERNEL_OPTIONS} {kernel_options}</cmdline>
  </os>
  <features><acpi/>{emulator_features}</features>
  <cpu{cpu_mode}><topology sockets='{max_vcpus}' cores='1' threads='1'/>{numa}</cpu>
  <clock offset='utc'/>
  <on_reboot>{on_reboot}</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>/usr/bin/qemu-system-x86_64</emulator>
    <controller type='usb' model='none'/>
    <controller type='virtio-serial'/>
{disks}\
    <serial type='file'><source path='/mnt/console.log' append='on'/></serial>
    <channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>
    <channel type='unix'><source mode='bind' path='/mnt/load.sock'/><target type='virtio' name='lab.load.0'/></channel>
    {balloon}
  </devices>
</domain>
"""
_MAX_MEMORY = """  <maxMemory slots='1' unit='b'>{bytes}</maxMemory>
"""
_NUMA = "<numa><cell id='0' cpus='0-{last_vcpu}' memory='{kib}' unit='KiB'/></numa>"
_BACKING = """  <memoryBacking>{options}</memoryBacking>
"""
_UNMERGEABLE = "<nosharepages/>"
_UNDISCARDABLE = "<source type='file'/><access mode='shared'/>"
_PLUGGABLE = """<memory model='virtio-mem'>
  <target>
    <size unit='b'>{most}</size><node>0</node><block unit='MiB'>2</block><requested unit='b'>{requested}</requested>
  </target>
  <alias name='{alias}'/>
</memory>
"""
_DISK = """\
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none' discard='unmap'/>
      <source file='/mnt/{name}.disk'/><target dev='{device}' bus='virtio'/><serial>{name}</serial>
    </disk>
"""
_BALLOON = """\
<memballoon model='virtio' autodeflate='{autodeflate}' freePageReporting='{free_page_reporting}'>{stats}</memballoon>"""


@dataclass(frozen=True, slots=True, kw_only=True)
class GuestSpec:
    """The settings of one guest. The defaults are KubeVirt's, for a small VM.

    Attributes:
        memory_bytes: The VM's memory size; whole KiB.
        vcpus: The number of processors at the start.
        max_vcpus: The largest number of processors; all but the first are hot-pluggable. None: as many as `vcpus`.
        machine: QEMU's machine type.
        balloon: Whether the domain has a balloon device (KubeVirt's autoattachMemBalloon).
        balloon_driver: Whether the guest loads the driver for the balloon.
        autodeflate: Whether QEMU deflates the balloon when the guest runs out of memory; KubeVirt cannot set it.
        free_page_reporting: Whether the guest tells QEMU which of its pages are free.
        stats_period: Seconds between the guest's memory statistics; 0 for none.
        guest_agent: Whether the guest runs QEMU's guest agent; the domain has a channel for it in any case.
        lie: What a program in place of the guest agent answers: a word that lying_agent.c explains; empty: none lies.
        python: Whether the guest has Debian's Python.
        swap_bytes: The size of the guest's swap disk; 0 for none.
        disk_bytes: The size of a disk of zeros that the load generator can read into the page cache; 0 for none.
        discardable: Whether QEMU can free the pages that the balloon takes. If not, its process keeps them, as if a
            passed-through device had pinned them.
        mergeable: Whether KSM may merge the guest's pages with identical ones, other guests' included.
        max_memory_bytes: The size up to which memory can be hotplugged (KubeVirt's maxGuest); None: none can be.
        reboots: Whether a reset boots the guest anew; if not, a reset ends it, as a panic does.
    """

    name: str
    namespace: str = "default"
    memory_bytes: int = 256 * MIB
    vcpus: int = 1
    max_vcpus: int | None = None
    machine: str = "q35"
    balloon: bool = True
    balloon_driver: bool = True
    autodeflate: bool = False
    free_page_reporting: bool = True
    stats_period: int = 10
    guest_agent: bool = True
    lie: str = ""
    python: bool = False
    swap_bytes: int = 0
    disk_bytes: int = 0
    discardable: bool = True
    mergeable: bool = False
    max_memory_bytes: int | None = None
    reboots: bool = False

    def __post_init__(self) -> None:
        for name in (self.namespace, self.name):
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is not a name such as vm-1")
        if self.memory_bytes % 1024 or self.memory_bytes < 64 * MIB:
            raise ValueError(f"a guest's memory is whole KiB, at least 64 MiB, not {self.memory_bytes} bytes")
        if not 1 <= self.vcpus <= self.most_vcpus:
            raise ValueError(f"{self.vcpus} of {self.most_vcpus} vCPUs cannot be online")

    @property
    def domain_name(self) -> str:
        """The domain's name, formed as KubeVirt forms it."""
        return f"{self.namespace}_{self.name}"

    @property
    def firmware_uuid(self) -> uuid.UUID:
        """The domain's UUID and the VMI's spec.domain.firmware.uuid; always the same for the same name."""
        return uuid.uuid5(_FIRMWARE_NAMESPACE, self.domain_name)

    @property
    def most_vcpus(self) -> int:
        """The largest number of processors that the guest can have."""
        return self.max_vcpus or self.vcpus

    @property
    def disks(self) -> dict[str, int]:
        """The sizes of the guest's disks in bytes, by the disk's name."""
        return {name: size for name, size in (("swap", self.swap_bytes), ("data", self.disk_bytes)) if size}

    def domain_xml(self, *, kvm: bool) -> str:
        """Return the libvirt domain, to be defined inside a launcher."""
        options = {"balloon": self.balloon_driver, "qga": self.guest_agent, "swap": bool(self.swap_bytes)}
        return _DOMAIN.format(
            KERNEL_OPTIONS=KERNEL_OPTIONS,
            virtualization="kvm" if kvm else "qemu",
            domain_name=self.domain_name,
            firmware_uuid=self.firmware_uuid,
            memory_bytes=self.memory_bytes,
            vcpus=self.vcpus,
            max_vcpus=self.most_vcpus,
            vcpu_list="".join(self._vcpu_xml(index) for index in range(self.most_vcpus)),
            machine=self.machine,
            on_reboot="restart" if self.reboots else "destroy",
            kernel_options=" ".join(
                [*(f"lab.{name}={value:d}" for name, value in options.items()), f"lab.lie={self.lie}"]
            ),
            # QEMU's cache of translated code counts as the VM's memory, and would grow to hundreds of MiB.
            emulator_features="" if kvm else "<tcg><tb-cache unit='MiB'>32</tb-cache></tcg>",
            cpu_mode=" mode='host-model'" if kvm else "",
            disks="".join(_DISK.format(name=name, device=f"vd{'ab'[i]}") for i, name in enumerate(self.disks)),
            balloon=self._balloon_xml(),
            max_memory="" if self.max_memory_bytes is None else _MAX_MEMORY.format(bytes=self.max_memory_bytes),
            numa="" if self.max_memory_bytes is None else self._numa_xml(),
            backing=self._backing_xml(),
        )

    def pluggable_xml(self, requested: int) -> str:
        """Return the virtio-mem device that lets the guest grow to `max_memory_bytes`, now by ``requested`` bytes.

        Raises:
            ValueError: The guest cannot grow.
        """
        if self.max_memory_bytes is None:
            raise ValueError(f"{self.name} cannot grow: it has no max_memory_bytes")
        most = self.max_memory_bytes - self.memory_bytes
        return _PLUGGABLE.format(most=most, requested=requested, alias=PLUGGABLE)

    def _backing_xml(self) -> str:
        options = ("" if self.mergeable else _UNMERGEABLE) + ("" if self.discardable else _UNDISCARDABLE)
        return _BACKING.format(options=options) if options else ""

    def _numa_xml(self) -> str:
        return _NUMA.format(last_vcpu=self.most_vcpus - 1, kib=self.memory_bytes // 1024)

    def _vcpu_xml(self, index: int) -> str:
        enabled = "yes" if index < self.vcpus else "no"
        return f"<vcpu id='{index}' enabled='{enabled}' hotpluggable='{'yes' if index else 'no'}'/>"

    def _balloon_xml(self) -> str:
        if not self.balloon:
            return "<memballoon model='none'/>"
        return _BALLOON.format(
            autodeflate="on" if self.autodeflate else "off",
            free_page_reporting="on" if self.free_page_reporting else "off",
            stats=f"<stats period='{self.stats_period}'/>" if self.stats_period else "",
        )
