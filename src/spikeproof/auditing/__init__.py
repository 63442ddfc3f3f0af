"""Is the number believable? Pure checks on recorded evidence, and cheap probes of the model itself."""
