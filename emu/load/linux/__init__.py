"""A Linux kernel as the guest: loading it, entering it, and running it from point to point."""
