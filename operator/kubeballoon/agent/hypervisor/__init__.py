"""This package reaches a VM: its libvirt daemon, its QEMU process and its guest agent."""
