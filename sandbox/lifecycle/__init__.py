"""What users do with what is kept: list it, measure it, remove it, give it to another file."""
