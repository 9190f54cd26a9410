"""`make bench`: what kubeballoon costs, and what it reaches; one module each, with a function that returns rows."""
