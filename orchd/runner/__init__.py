"""The engine-runner: from pools that are wanted to replicas that answer, and back again."""
