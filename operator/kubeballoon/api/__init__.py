"""This package models kubeballoon's Kubernetes API: its kinds, and its annotations on objects of other kinds."""
