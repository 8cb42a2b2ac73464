"""The built-in guest under nested tables that grant its collective rights, and no more."""
