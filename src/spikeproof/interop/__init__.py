"""Other attack libraries: theirs as members of a study, and ours in their call."""
