"""This package is kubeballoon: it drives the memory balloons that KubeVirt gives its virtual machines."""

from importlib.metadata import version

__version__ = version("kubeballoon")
