"""The devices of a PC, as few as an operating system needs to get going."""
