"""`make bench`: what kubeballoon costs, and what it reaches."""
