"""Charts: the figures of a report, drawn without global state and with the same bytes each time."""
