"""Guests under nested tables that grant their collective rights: the built-in one, and Linux."""
