"""`make dashboard` draws the chart's Grafana dashboard with data of a real run."""
