"""This package is the agent of a node: it reports the node and its VMs, carries requests out, and keeps guests safe.

It runs on every node with KubeVirt's label kubevirt.io/schedulable.
"""
