"""This package is kubeballoon: it drives the memory balloons that KubeVirt gives its virtual machines."""

from typing import Any

__version__: str


def __getattr__(name: str) -> Any:
    """Read the version when it is first asked for: most calls of kubectl-balloon never do."""
    if name != "__version__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib.metadata import version  # noqa: PLC0415 - takes as long as half of the interpreter's start

    return version("kubeballoon")
