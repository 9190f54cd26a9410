"""A real KubeVirt cluster of two nodes on one machine, without a container engine and without KVM.

`python -m hack.testbed.kubevirt up` makes it; docs/cluster.md says what it is.
"""
