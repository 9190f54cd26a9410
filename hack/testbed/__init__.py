"""The testbed is what tests, demo and benchmarks run on: a control plane, a lab of guests, the chart, and tools."""
