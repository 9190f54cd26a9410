"""Tests, demo and benchmarks run on the testbed: a control plane, a lab with guests, the chart and tools. See README.md."""
