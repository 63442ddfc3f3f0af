"""Other attack libraries: their attacks as members of a study, and our recipes behind their interfaces."""
