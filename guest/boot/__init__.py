"""Boot images: what PCs, emulated or real, run to answer questions about their MMU."""
