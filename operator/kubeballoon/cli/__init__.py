"""kubectl-balloon, the administrator's command: it shows how balloons are driven, and gives memory back on demand."""
