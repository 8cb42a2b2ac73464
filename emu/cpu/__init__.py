"""What knows Unicorn: engines, the saved CPU state, exceptions, SVM; and RAM that the host sees."""
