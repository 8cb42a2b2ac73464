"""What a divergence is about: its rule, its signature, and the layout it was found in."""
