"""Protecting a Linux kernel by nested paging."""
