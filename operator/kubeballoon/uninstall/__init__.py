"""What the chart runs before it is uninstalled: every VM gets all of its memory and processors back."""
