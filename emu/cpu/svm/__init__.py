"""Nested paging: a guest under AMD's SVM, and what the host sees of it."""
