"""`make dashboard` draws the chart's Grafana dashboard with data of a model cluster."""
