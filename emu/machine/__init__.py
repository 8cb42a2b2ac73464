"""What a guest runs on: RAM that the host sees into, and engines over it."""
