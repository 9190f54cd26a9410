"""This package is what the chart runs before it is uninstalled: every VM gets its memory and processors back."""
