"""Study files: what they may include, how they are read, and the JSON Schema of them."""
