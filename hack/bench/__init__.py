"""The benchmarks of `make bench`: what kubeballoon costs and what it achieves, each as rows of figures."""
