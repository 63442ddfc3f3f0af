"""The exchangeable parts of a gradient attack: oracles, steps, schedules, targets and objectives."""
