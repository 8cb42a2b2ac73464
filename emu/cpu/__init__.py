"""All that knows Unicorn: RAM, engines, the layout of the CPU state, exceptions, SVM."""
