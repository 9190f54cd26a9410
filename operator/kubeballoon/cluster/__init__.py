"""The only code that talks to the Kubernetes API, and what turns its objects into the core's values."""
