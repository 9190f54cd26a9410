"""This package is kubectl-balloon, the administrator's command: it shows how VMs are governed, and releases them."""
