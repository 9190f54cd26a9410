"""The testbed of tests, demo and benchmarks: a control plane, a lab with guests, the chart and tools. See README.md."""
