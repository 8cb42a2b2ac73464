"""Every combination of entry bits, control bits and access, put to walker and CPU."""
