"""What the guest is: its assembly, its memory map, and what each mapping is meant to allow."""
