"""Threats of objects in a scene: stickers, flat or bent, movable patches, and the beam of a laser."""
