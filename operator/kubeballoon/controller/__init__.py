"""This package is the controller: it decides how much memory and how many processors each VM may use."""
