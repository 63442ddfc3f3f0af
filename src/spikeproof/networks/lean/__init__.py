"""Networks that give the same answers with less work or memory."""
