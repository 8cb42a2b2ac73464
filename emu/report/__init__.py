"""Results as text for people and as records for machines."""
