"""kubectl-balloon: what an administrator looks with."""
