"""This package replays memory traces: the core decides for simulated guests, and is compared with other strategies."""
