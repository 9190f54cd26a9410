"""`make dashboard`: a picture of the chart's Grafana dashboard, of real data."""
