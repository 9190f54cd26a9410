"""This package talks to the Kubernetes API; no other package does, apart from kopf in the controller."""
