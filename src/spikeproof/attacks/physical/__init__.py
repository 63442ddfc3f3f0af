"""Attacks with objects in the scene: stickers, a patch for all images, the beam of a laser."""
