"""The agent, which runs on every node: it reports what is there, carries requests out, and keeps guests safe."""
