"""The Kubernetes API of kubeballoon: its kinds, and the words it writes on others' objects."""
